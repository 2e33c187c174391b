"""Golden outputs of the public PLLaVA: loads the cases and makes their frames."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from pipeline.captioning.captioners.base import Captioner
from pipeline.captioning.captioners.clip_prompts import ClipPrompts
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks
from scripts.worker_loop import LoadedClips, generated_ids
from tests.fakes import CPU, segments

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"
VIDEOS = SHARED / "videos"
GOLDEN_TOKENS = 40
LORA_ALPHA = 2.0
QUESTION = "Describe the video in details."

_SIZES = {
    "synthetic-landscape": (180, 320),
    "synthetic-portrait": (500, 280),
    "synthetic-large": (900, 1600),
    "synthetic-square": (336, 336),
}


def token_ids(captioner: Captioner, clips: Sequence[Clip], slots: int | None = None) -> list[list[int]]:
    """New token ids of each clip, in the order of `clips`."""
    answers = generated_ids(captioner, LoadedClips(clips), CPU, slots or len(clips))
    found = {row: ids for (row, _), ids in answers.items()}
    assert len(found) == len(clips)
    return [found[clip.row] for clip in clips]


def synthetic_frame(name: str, t: int) -> Image.Image:
    """Frame `t` of a synthetic case, as defined in the README of the golden outputs."""
    height, width = _SIZES[name]
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    value = (x * (3 + c) + y * (5 - c) + t * 37 * (c + 1)) // 4
    value = value + ((x // 24 + y // 24 + t) % 2) * 60 + (x * y) // (97 + 20 * t)
    return Image.fromarray((value % 256).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class GoldenSet:
    """The cases of one golden file, and its arrays."""

    cases: tuple[dict[str, Any], ...]
    arrays: Any

    @classmethod
    def load(cls, folder: Path, name: str) -> GoldenSet:
        cases = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["cases"]
        return cls(tuple(cases), np.load(folder / f"{name}.npz"))


def golden_clip(source: PllavaSource, case: dict[str, Any], row: int = 0) -> Clip:
    """The case's clip as the captioner gets it from the pipeline."""
    if case["video"] in _SIZES:
        images = [synthetic_frame(case["video"], t) for t in range(case["num_frames"])]
        index = tuple(range(len(images)))
    else:
        sampled = decode(str(VIDEOS / case["video"]), segments(case["num_frames"]), ["decord"])
        images, index = list(sampled.images), sampled.index
        if case["loader"] == "recaption-672":
            images = [_short_edge_672(image) for image in images]
    return Clip(row, case["video"], source.frame_transform(images), index)


def _short_edge_672(image: Image.Image) -> Image.Image:
    # The public recaption script resizes frames with torchvision (PIL, bilinear) before the processor.
    width, height = image.size
    size = (672, int(672 * height / width)) if width <= height else (int(672 * width / height), 672)
    return image.resize(size, Image.Resampling.BILINEAR)


def golden_source(case: dict[str, Any], checkpoint: str, num_beams: int = 1) -> PllavaSource:
    """A source with the options that the case was recorded with, and with the recorded token ids as the prompt."""
    source = PllavaSource(
        PllavaOptions(
            checkpoint=DATA / checkpoint,
            num_frames=case["num_frames"],
            asks=Asks.single(QUESTION),
            system="",
            pooling_shape=tuple(case["pooling_shape"]),
            lora_alpha=None if "merged" in checkpoint else LORA_ALPHA,
        ),
        GenerationOptions(max_new_tokens=GOLDEN_TOKENS, num_beams=num_beams),
    )
    ids = case["input_ids"]
    position = ids.index(source.config.image_token_id)
    pieces = [ids[:position], ids[position + 1 :]]
    source.prompts = ClipPrompts(lambda text: pieces, lambda clip, question, system: "", [source.longest], source.asks)
    return source


def whole_prompts(captioner: Any, clips: Sequence[Clip]) -> Any:
    """Embeddings of PLLaVA's prompts about clips, also of the text that all of them begin with: (clips, tokens, width).

    The visual tokens are those that the captioner's `visual_tokens` gives.
    """
    import torch

    alone = type(captioner)(captioner._source, captioner._model, captioner._backend, share_prefix=False)
    alone.visual_tokens = captioner.visual_tokens
    return torch.stack([request.embeddings for request in alone.prepare(clips)])


KERNELS = ("attention", "masked_attention", "slots_attention", "window_attention", "allocate", "write", "read")


def default_kernels() -> ModuleType:
    """A copy of the module `backends.kernels` with the default operators, before a backend replaces them."""
    from pipeline.captioning.backends import kernels

    spec = importlib.util.spec_from_file_location("default_kernels", str(kernels.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
