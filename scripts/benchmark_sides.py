"""The two sides that the benchmark compares: the captioning engine and a clip-by-clip loop. Runs one of them.

The loop captions as the public PLLaVA does: for each clip it decodes the video and then calls transformers' `generate`,
with transformers' attention and cache. Both sides use the same weights, clips and prompt. The last line of the output
is a JSON object with the measurements.
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
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from scripts import roofline
from scripts.presets import PRESETS, TOKENS_AFTER_IMAGE, TOKENS_BEFORE_IMAGE, preset_config
from scripts.worker_loop import LoadedClips, generated_ids

if TYPE_CHECKING:
    import torch

    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

TINY_CHECKPOINT = Path("pretrained_models/pllava-tiny")


@dataclasses.dataclass
class RandomSource:
    """The source of a captioner with random weights. It has no checkpoint and no tokenizer."""

    config: PllavaConfig
    generation: GenerationOptions
    pooling_shape: tuple[int, int, int]
    sampling: FrameSampling

    def __post_init__(self) -> None:
        self.frame_processor = FrameProcessor()
        self.frame_transform = self.frame_processor
        before, after = tuple(range(3, 3 + TOKENS_BEFORE_IMAGE)), tuple(range(100, 100 + TOKENS_AFTER_IMAGE))
        # This stop id is outside of the vocabulary, so captions have the maximum length (unless `--mean_tokens`).
        self.prompt = Prompt("", before, after, (self.config.text["vocab_size"],))

    @property
    def prompt_length(self) -> int:
        return self.prompt.length + int(np.prod(self.pooling_shape))


def make_parser() -> argparse.ArgumentParser:
    """The parser of the flags that the benchmark and its sides share: model, prompt, generation, framework, device."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", choices=("tiny", *PRESETS), default="tiny", help="model; tiny is pllava-tiny")
    parser.add_argument("--framework", choices=backends.FRAMEWORKS)
    parser.add_argument("--device", choices=backends.DEVICES)
    parser.add_argument("--dtype", choices=backends.DTYPES)
    parser.add_argument("--num_frames", type=int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--pooling_shape", default="16-12-12", help="default: %(default)s; tiny uses the one of its checkpoint"
    )
    parser.add_argument("--max_new_tokens", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--mean_tokens", type=int, help="sample captions of random length, with this mean")
    parser.add_argument("--no_refill", action="store_true", help="fill the slots only when all slots are free")
    parser.add_argument(
        "--no_prefix", action="store_true", help="compute the prompt's shared prefix again for every clip"
    )
    return parser


def _generation_options(flags: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=flags.max_new_tokens, do_sample=flags.mean_tokens is not None, temperature=1.0
    )


def _make_source(flags: argparse.Namespace) -> Any:
    if flags.preset == "tiny":
        return PllavaSource(
            PllavaOptions(TINY_CHECKPOINT, flags.num_frames, DEFAULT_QUESTION, DEFAULT_SYSTEM),
            _generation_options(flags),
        )
    time_, rows, columns = map(int, flags.pooling_shape.split("-"))
    config = preset_config(flags.preset)
    sampling = FrameSampling("segments", flags.num_frames)
    source = RandomSource(config, _generation_options(flags), (time_, rows, columns), sampling)
    if flags.mean_tokens is not None:
        # Each sampled token is one of these with a probability of about 1 / mean_tokens.
        stop_ids = range(0, config.text["vocab_size"], flags.mean_tokens)
        source.prompt = dataclasses.replace(source.prompt, stop_ids=tuple(stop_ids))
    return source


def _load_captioner(source: Any, backend: backends.Backend, flags: argparse.Namespace) -> PllavaCaptioner:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

    if isinstance(source, PllavaSource):
        captioner = source.load(backend)
        model = captioner._model
    else:
        import torch

        from pipeline.captioning.captioners.loading import fill_model, meta_model
        from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

        rng = np.random.default_rng(0)

        def random_weight(name: str, shape: torch.Size) -> torch.Tensor:
            if len(shape) == 1:
                return torch.ones(shape, dtype=backend.dtype, device=backend.device)
            scale = shape[-1] ** -0.5
            if backend.is_accelerator:
                return torch.randn(shape, dtype=backend.dtype, device=backend.device) * scale
            return torch.from_numpy(rng.normal(0, scale, tuple(shape)).astype(np.float32))

        model = fill_model(meta_model(PllavaForConditionalGeneration, source.config), backend.device, random_weight)
    return PllavaCaptioner(source, model, backend, share_prefix=not flags.no_prefix)


def _engine_side(
    captioner: PllavaCaptioner,
    source: Any,
    rows: list[tuple[int, str]],
    slots: int,
    backend: backends.Backend,
    refill: bool,
) -> tuple[dict[int, list[int]], dict[str, float]]:
    """Caption with the same code as a rank of a run. The first clip is for warm-up and is not counted.

    Returns:
        Token ids by row, and times in seconds and counts by name.

    Raises:
        SystemExit: the first clip could not be decoded.
    """
    with ClipLoader(rows, source.sampling, source.frame_transform, DecoderLimits(60.0), prefetch=2 * slots) as loader:
        first = loader.next_clip()
        if not isinstance(first, Clip):
            raise SystemExit(f"benchmark: the first clip could not be decoded: {first}")
        generated_ids(captioner, LoadedClips([first]), backend, 1)
        before = dict(captioner.stages())
        begin, waited = time.monotonic(), loader.wait_seconds
        captions = generated_ids(captioner, loader, backend, slots, refill)
        seconds = time.monotonic() - begin
        stages = {name: value - before[name] for name, value in captioner.stages().items()}
        return captions, {"seconds": seconds, "decode_wait": loader.wait_seconds - waited, **stages}


def _loop_side(
    captioner: PllavaCaptioner, source: Any, rows: list[tuple[int, str]], backend: backends.Backend
) -> tuple[dict[int, list[int]], dict[str, float]]:
    """Caption one clip after the other. The first clip is for warm-up and is not counted. Returns as `_engine_side`."""
    import torch

    model = captioner._model
    for part in (model.vision_tower.config, model.language_model.config):
        part._attn_implementation = "sdpa"
    captions: dict[int, list[int]] = {}
    figures = {"seconds": 0.0, "decode_wait": 0.0}
    for count, (row, path) in enumerate(rows):
        begin = time.monotonic()
        sampled = decode(path, source.sampling)
        clip = [Clip(row, path, source.frame_transform(sampled.images), sampled.index)]
        decoded = time.monotonic()
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
            captions[row] = ids
            figures["seconds"] += time.monotonic() - begin
            figures["decode_wait"] += decoded - begin
    return captions, figures


def _rates_and_limit(
    source: Any, captions: dict[int, list[int]], slots: int, backend: backends.Backend
) -> Iterator[tuple[str, Any]]:
    rates = roofline.measure_rates(backend)
    mean_tokens = round(sum(map(len, captions.values())) / len(captions))
    prefix = len(source.prompt.before)
    load = roofline.ClipLoad(source.sampling.num_frames, source.prompt_length, prefix, mean_tokens)
    yield "rates", dataclasses.asdict(rates)
    yield "limit", roofline.roofline_limit(source.config, load, slots, backend.dtype.itemsize, rates).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one side of the benchmark.", parents=[make_parser()])
    parser.add_argument("side", choices=("loop", "engine"))
    parser.add_argument("folder", type=Path, help="folder with clip_00000.mp4 and so on")
    parser.add_argument("clips", type=int, help="counted clips; one more is used for warm-up")
    parser.add_argument("slots", type=int, help="batch size of the engine")
    flags = parser.parse_args()
    source = _make_source(flags)
    choice = backends.choose(flags.framework, flags.device, "plain")
    if choice.framework == "mindspore" and flags.side == "loop":
        from pipeline.captioning.backends import mindspore_backend

        backend = mindspore_backend.activate(choice, flags.dtype, own_operators=False)
    else:
        backend = choice.activate(flags.dtype)
    captioner = _load_captioner(source, backend, flags)
    # One clip more than counted, for warm-up.
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
        result |= dict(_rates_and_limit(source, captions, flags.slots, backend))
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
