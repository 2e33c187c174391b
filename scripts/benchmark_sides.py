"""The sides that the benchmark compares: the captioning engine and a clip-by-clip loop. Runs one of them.

The loop captions as the public programs do: for each clip it decodes the video and then calls transformers' `generate`,
with transformers' attention and cache. Both sides use the same weights, clips and prompt. The side "separate" is the
engine with several questions about each clip, in one run for each question. The last line of the output is a JSON
object with the measurements. `benchmark_models` has the models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.captioning import backends
from pipeline.captioning.captioners.base import Captioner
from pipeline.captioning.clips.clip import Clip, ClipTask
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.meta.asks import Asks
from scripts import roofline
from scripts.benchmark_models import BenchmarkModel, make_model
from scripts.presets import FAMILY_PRESETS, PRESETS
from scripts.worker_loop import LoadedClips, generated_ids


def make_parser() -> argparse.ArgumentParser:
    """The parser of the flags that the benchmark and its sides share: model, prompt, generation, framework, device."""
    parser = argparse.ArgumentParser(add_help=False)
    presets = ("tiny", *PRESETS, *FAMILY_PRESETS)
    parser.add_argument("--preset", choices=presets, default="tiny", help="model; tiny is pllava-tiny")
    parser.add_argument("--framework", choices=backends.FRAMEWORKS)
    parser.add_argument("--device", choices=backends.DEVICES)
    parser.add_argument("--dtype", choices=backends.DTYPES)
    parser.add_argument("--num_frames", type=int, help="default: 4, or that of the preset for other families")
    parser.add_argument("--pooling_shape", help="of PLLaVA (default: 16-12-12; tiny uses the one of its checkpoint)")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--mean_tokens", type=int, help="sample captions of random length, with this mean")
    parser.add_argument("--asks", type=int, default=1, help="questions about each clip (default: %(default)s)")
    parser.add_argument("--no_refill", action="store_true", help="fill the slots only when all slots are free")
    parser.add_argument(
        "--no_prefix", action="store_true", help="compute the prompt's shared prefix again for every clip"
    )
    return parser


Captions = dict[tuple[int, int], list[int]]
"""Token ids by row and number of the question."""


def _engine_side(
    model: BenchmarkModel,
    rows: list[ClipTask],
    slots: int,
    backend: backends.Backend,
    refill: bool,
    runs: Sequence[Asks],
) -> tuple[Captions, dict[str, float]]:
    """Caption with the same code as a rank of a run. The first clip of each run is for warm-up and is not counted.

    runs: the questions of each run; the questions are numbered through all runs.

    Returns:
        Token ids, and times in seconds and counts by name, added up over the runs.

    Raises:
        SystemExit: the first clip could not be decoded.
    """
    captioner = model.captioner(backend)
    captions: Captions = {}
    figures: Counter[str] = Counter()
    for asks in runs:
        first = len(captions) // max(1, len(rows) - 1)
        of_run, figures_of_run = _engine_run(captioner, model, rows, slots, backend, refill, asks)
        captions |= {(row, first + number): ids for (row, number), ids in of_run.items()}
        figures.update(figures_of_run)
    prompt = model.prefix_length + round(figures["prefill_tokens"] / (len(rows) - 1) / len(runs))
    prompt -= (len(runs[0].asks) - 1) * model.question_length
    return captions, {"prompt_tokens": prompt, **figures}


def _engine_run(
    captioner: Captioner,
    model: BenchmarkModel,
    rows: list[ClipTask],
    slots: int,
    backend: backends.Backend,
    refill: bool,
    asks: Asks,
) -> tuple[Captions, dict[str, float]]:
    with ClipLoader(
        rows, FramePreparation(model.sampling, model.frame_transform), DecoderLimits(60.0), prefetch=2 * slots
    ) as loader:
        first = loader.next_clip()
        if not isinstance(first, Clip):
            raise SystemExit(f"benchmark: the first clip could not be decoded: {first}")
        generated_ids(captioner, LoadedClips([first]), backend, 1, asks=asks)
        before = dict(captioner.stages())
        begin, waited = time.monotonic(), loader.wait_seconds
        captions = generated_ids(captioner, loader, backend, slots, refill, asks)
        seconds = time.monotonic() - begin
        stages = {name: value - before[name] for name, value in captioner.stages().items()}
        waited = loader.wait_seconds - waited
        return captions, {"seconds": seconds, "decode_wait": waited, **stages}


def _loop_side(
    model: BenchmarkModel, rows: list[ClipTask], backend: backends.Backend
) -> tuple[Captions, dict[str, float]]:
    """Caption one clip after the other. The first clip is for warm-up and is not counted. Returns as `_engine_side`."""
    caption = model.loop(backend)
    captions: Captions = {}
    figures = {"seconds": 0.0, "decode_wait": 0.0}
    for count, (row, path, _) in enumerate(rows):
        begin = time.monotonic()
        sampled = decode(path, model.sampling)
        frames = model.frame_transform(sampled.images)
        clip = Clip(row, path, frames, sampled.index, False, sampled.seconds, sampled.duration, sampled.size)
        decoded = time.monotonic()
        ids = caption(clip)
        if count:
            captions[row, 0] = ids
            figures["seconds"] += time.monotonic() - begin
            figures["decode_wait"] += decoded - begin
    return captions, figures


def _rates_and_limit(
    model: BenchmarkModel, tokens: int, prompt: int, slots: int, backend: backends.Backend
) -> dict[str, Any]:
    """tokens: new tokens of a caption, on average. prompt: tokens of a prompt, on average.

    Returns the limit of all questions together, and that of a run with one of them.
    """
    rates, asks = roofline.measure_rates(backend), len(model.asks.asks)
    load = roofline.ClipLoad(prompt, model.prefix_length, tokens, asks, model.question_length)
    limits = [
        roofline.roofline_limit(model.shape(), one, slots, backend.dtype.itemsize, rates).as_dict()
        for one in (load, dataclasses.replace(load, asks=1))
    ]
    return {"rates": dataclasses.asdict(rates), "limit": limits[0], "limit_of_one_ask": limits[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one side of the benchmark.", parents=[make_parser()])
    parser.add_argument("side", choices=("loop", "engine", "separate"))
    parser.add_argument("folder", type=Path, help="folder with clip_00000.mp4 and so on")
    parser.add_argument("clips", type=int, help="counted clips; one more is used for warm-up")
    parser.add_argument("slots", type=int, help="batch size of the engine")
    flags = parser.parse_args()
    model = make_model(flags)
    choice = backends.choose(flags.framework, flags.device, "plain")
    if choice.framework == "mindspore" and flags.side == "loop":
        from pipeline.captioning.backends import mindspore_backend

        backend = mindspore_backend.activate(choice, flags.dtype, own_operators=False)
    else:
        backend = choice.activate(flags.dtype)
    # One clip more than counted, for warm-up.
    rows = [ClipTask(row, str(flags.folder / f"clip_{row:05d}.mp4")) for row in range(flags.clips + 1)]
    if flags.side == "loop":
        captions, figures = _loop_side(model, rows, backend)
    else:
        # A run with one question makes its captions in the column of this question.
        runs = [model.asks] if flags.side == "engine" else [Asks((ask,)) for ask in model.asks.asks]
        captions, figures = _engine_side(model, rows, flags.slots, backend, not flags.no_refill, runs)
    peak_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result: dict[str, Any] = {
        "backend": f"{backend.framework} on {backend.device} in {backend.dtype_name}",
        "clips": len({row for row, _ in captions}),
        "captions_made": len(captions),
        "tokens": sum(map(len, captions.values())),
        "peak_memory": backend.peak_memory() or peak_host,
        "captions": [captions[key] for key in sorted(captions)],
        **figures,
    }
    if flags.side != "loop":
        mean_tokens = round(result["tokens"] / len(captions))
        result |= _rates_and_limit(model, mean_tokens, result["prompt_tokens"], flags.slots, backend)
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
