"""The two programs that the benchmark compares, each run in a process of its own: ours, and the public way.

The public way captions clip by clip: decode the video, one prefill, then one step of transformers'
`generate` after the other, with transformers' own attention and cache. Both have the same weights, clips
and prompt. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.captioning import backends
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM
from pipeline.captioning.captioners.tokenizer import Prompt
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.generation.options import GenerationOptions
from scripts import roofline
from scripts.presets import AFTER, BEFORE, PRESETS, preset
from scripts.worker_loop import ClipsAtHand, answers

if TYPE_CHECKING:
    import torch

    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

TINY = Path("pretrained_models/pllava-tiny")


@dataclasses.dataclass
class RandomSource:
    """What a captioner asks of its source, for a model with random weights; no checkpoint, no tokenizer."""

    config: PllavaConfig
    generation: GenerationOptions
    pooling_shape: tuple[int, int, int]
    num_frames: int

    def __post_init__(self) -> None:
        self.frame_processor = FrameProcessor()
        self.frame_transform = self.frame_processor
        before, after = tuple(range(3, 3 + BEFORE)), tuple(range(100, 100 + AFTER))
        # An id that no model gives: captions end at their greatest length, or by `--mean_tokens`.
        self.prompt = Prompt("", before, after, (self.config.text["vocab_size"],))

    @property
    def prompt_length(self) -> int:
        return self.prompt.length + int(np.prod(self.pooling_shape))


def make_parser() -> argparse.ArgumentParser:
    """The flags that say what is captioned and on what; the benchmark's own come on top."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", choices=("tiny", *PRESETS), default="tiny")
    parser.add_argument("--framework", choices=backends.FRAMEWORKS)
    parser.add_argument("--device", choices=backends.DEVICES)
    parser.add_argument("--dtype", choices=backends.DTYPES)
    parser.add_argument("--num_frames", type=int, default=4)
    parser.add_argument("--pooling_shape", default="16-12-12", help="tiny has its own")
    parser.add_argument("--max_new_tokens", type=int, default=200)
    parser.add_argument("--mean_tokens", type=int, help="sample, and stop by chance after so many tokens on average")
    parser.add_argument("--no_refill", action="store_true", help="fill the slots only when all are free")
    parser.add_argument("--no_prefix", action="store_true", help="compute the text before the image for every clip")
    return parser


def _generation(flags: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=flags.max_new_tokens, do_sample=flags.mean_tokens is not None, temperature=1.0
    )


def _source(flags: argparse.Namespace) -> Any:
    if flags.preset == "tiny":
        return PllavaSource(PllavaOptions(TINY, flags.num_frames, DEFAULT_QUESTION, DEFAULT_SYSTEM), _generation(flags))
    time_, rows, columns = map(int, flags.pooling_shape.split("-"))
    config = preset(flags.preset)
    source = RandomSource(config, _generation(flags), (time_, rows, columns), flags.num_frames)
    if flags.mean_tokens is not None:
        stops = range(0, config.text["vocab_size"], flags.mean_tokens)
        source.prompt = dataclasses.replace(source.prompt, stop_ids=tuple(stops))
    return source


def _captioner(source: Any, backend: backends.Backend, flags: argparse.Namespace) -> PllavaCaptioner:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

    if isinstance(source, PllavaSource):
        captioner = source.load(backend)
        model = captioner._model
    else:
        import torch

        from pipeline.captioning.captioners.loading import fill_model, meta_model
        from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

        rng = np.random.default_rng(0)

        def weight(name: str, shape: torch.Size) -> torch.Tensor:
            if len(shape) == 1:
                return torch.ones(shape, dtype=backend.dtype, device=backend.device)
            scale = shape[-1] ** -0.5
            if backend.is_accelerator:
                return torch.randn(shape, dtype=backend.dtype, device=backend.device) * scale
            return torch.from_numpy(rng.normal(0, scale, tuple(shape)).astype(np.float32))

        model = fill_model(meta_model(PllavaForConditionalGeneration, source.config), backend.device, weight)
    return PllavaCaptioner(source, model, backend, share_prefix=not flags.no_prefix)


def _engine_side(
    captioner: PllavaCaptioner,
    source: Any,
    rows: list[tuple[int, str]],
    slots: int,
    backend: backends.Backend,
    refill: bool,
) -> tuple[dict[int, list[int]], dict[str, float]]:
    """With the worker's own loop. The first clip warms up."""
    with ClipLoader(rows, source.num_frames, source.frame_transform, DecoderLimits(60.0), prefetch=2 * slots) as loader:
        first = loader.next_clip()
        if not isinstance(first, Clip):
            raise SystemExit(f"benchmark: a clip could not be decoded: {first}")
        answers(captioner, ClipsAtHand([first]), backend, 1)
        before = dict(captioner.stages())
        begin, waited = time.monotonic(), loader.wait_seconds
        found = answers(captioner, loader, backend, slots, refill)
        seconds = time.monotonic() - begin
        stages = {name: value - before[name] for name, value in captioner.stages().items()}
        return found, {"seconds": seconds, "decode_wait": loader.wait_seconds - waited, **stages}


def _loop_side(
    captioner: PllavaCaptioner, source: Any, rows: list[tuple[int, str]], backend: backends.Backend
) -> tuple[dict[int, list[int]], dict[str, float]]:
    """Clip by clip. The first clip warms up."""
    import torch

    model = captioner._model
    for part in (model.vision_tower.config, model.language_model.config):
        part._attn_implementation = "sdpa"
    found: dict[int, list[int]] = {}
    figures = {"seconds": 0.0, "decode_wait": 0.0}
    for count, (row, path) in enumerate(rows):
        begin = time.monotonic()
        sampled = decode(path, source.num_frames)
        clip = [Clip(row, path, source.frame_transform(sampled.images), sampled.index)]
        ready = time.monotonic()
        prompts = captioner.prompt_embeddings(clip)
        output = model.language_model.generate(
            inputs_embeds=prompts,
            attention_mask=torch.ones(prompts.shape[:2], dtype=torch.int64, device=backend.device),
            max_new_tokens=source.generation.max_new_tokens,
            do_sample=source.generation.samples,
            eos_token_id=list(source.prompt.stop_ids),
            pad_token_id=0,
        )
        ids = output[0].cpu().numpy().tolist()
        if count:
            found[row] = ids
            figures["seconds"] += time.monotonic() - begin
            figures["decode_wait"] += ready - begin
    return found, figures


def _limits(
    source: Any, captions: dict[int, list[int]], slots: int, backend: backends.Backend
) -> Iterator[tuple[str, Any]]:
    rates = roofline.measure_rates(backend)
    mean = round(sum(map(len, captions.values())) / len(captions))
    prefix = len(source.prompt.before)
    load = roofline.Load(source.num_frames, source.prompt_length, prefix, mean)
    yield "rates", dataclasses.asdict(rates)
    yield "limit", roofline.limit(source.config, load, slots, backend.dtype.itemsize, rates).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(parents=[make_parser()])
    parser.add_argument("side", choices=("loop", "engine"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("clips", type=int)
    parser.add_argument("slots", type=int)
    flags = parser.parse_args()
    source = _source(flags)
    choice = backends.choose(flags.framework, flags.device, "plain")
    if choice.framework == "mindspore" and flags.side == "loop":
        from pipeline.captioning.backends import mindspore_backend

        backend = mindspore_backend.activate(choice, flags.dtype, own_operators=False)
    else:
        backend = choice.activate(flags.dtype)
    captioner = _captioner(source, backend, flags)
    # One more than counted: the first warms up.
    rows = [(row, str(flags.folder / f"clip_{row:05d}.mp4")) for row in range(flags.clips + 1)]
    if flags.side == "loop":
        captions, figures = _loop_side(captioner, source, rows, backend)
    else:
        captions, figures = _engine_side(captioner, source, rows, flags.slots, backend, not flags.no_refill)
    peak_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "backend": f"{backend.framework} on {backend.device} in {backend.dtype_name}",
        "clips": len(captions),
        "tokens": sum(map(len, captions.values())),
        "peak_memory": backend.peak_memory() or peak_host,
        "captions": [captions[row] for row, _ in rows[1:]],
        "prompt_tokens": source.prompt_length,
        **figures,
    }
    if flags.side == "engine":
        result |= dict(_limits(source, captions, flags.slots, backend))
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
