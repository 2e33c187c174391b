"""Small random models of transformers, and captioners for them without tokenizer and checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.family import HubFamily
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks

TRANSFORM = Square(size=(56, 56), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Has the values of the normalisation; the frames of the tests are not made by it."""
BEFORE, BETWEEN, AFTER = [5, 6, 7, 8], [30, 31], [20, 21, 22]
"""Token ids of the prompt: before the first block, between two blocks, after the last block."""
NEW_TOKENS = 16
STOP = 299
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}


def clips(side: int) -> list[Clip]:
    """Four clips with square frames of four colours; the third has one frame, which is sampled twice."""
    rng = np.random.default_rng(0)
    samples = [(2, (0, 1)), (3, (0, 1, 2)), (1, (0, 0)), (4, (0, 1, 2, 3))]
    clips = []
    for row, (count, index) in enumerate(samples):
        quarters = rng.integers(0, 256, (count, 2, 2, 3), np.uint8)
        clips.append(Clip(row, "", quarters.repeat(side // 2, 1).repeat(side // 2, 2), index))
    return clips


def filled(model_class: Callable[[Any], Any], config: Any, scale: float) -> Any:
    """A model with random weights; a weight depends on its name and shape only.

    They are normally distributed: scales of layer norms around 1, all others around 0. scale: standard deviation.
    """
    import torch

    from pipeline.captioning.captioners.loading import fill_model, meta_model

    def weight(name: str, shape: Any) -> Any:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        return torch.from_numpy(rng.normal(mean, scale, tuple(shape)).astype(np.float32))

    return fill_model(meta_model(model_class, config), "cpu", weight)


def pixels(clip: Clip, index: Sequence[int]) -> Any:
    """Normalised frames (frames, 3, side, side) of PyTorch."""
    import torch

    values = torch.from_numpy(clip.frames[list(index)]).float().permute(0, 3, 1, 2) / 255
    return (values - 0.5) / 0.5


def captioner(family: HubFamily, model: Any, backend: Backend, options: GenerationOptions, typical: Clip) -> Any:
    """A captioner whose prompts are BEFORE, the blocks with BETWEEN between them, AFTER.

    If each block has a prompt of its own, the block comes first.
    """
    from pipeline.captioning.captioners.clip_prompts import ClipPrompts
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner, HubSettings
    from pipeline.captioning.captioners.hub.prompts import HubPrompt

    def tokens(text: str) -> list[list[int]]:
        if family.prompts_each_block:
            return [[], BEFORE + AFTER]
        return [BEFORE, *[BETWEEN] * (int(text) - 1), AFTER]

    def text(clip: Clip, question: str, system: str | None) -> str:
        return str(len(family.block_lengths(clip)))

    prompts = ClipPrompts(tokens, text, [typical, typical], Asks.single(""))
    tokenizer: Any = Numbers()
    settings = HubSettings(family, HubPrompt(prompts, ("",), tokenizer, False), options, frozenset({STOP}), typical)
    return HubCaptioner(settings, model, backend)


class Numbers:
    """A tokenizer whose text is the token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def ends(engine: Any, requests: Sequence[Any]) -> dict[Any, Any]:
    """The end of each request, by key. All requests are added at once; those without a slot wait."""
    from pipeline.captioning.generation.requests import End

    for request in requests:
        engine.add(request)
    found: dict[Any, Any] = {}
    for _ in range(1000):
        found |= {event.key: event for event in engine.step() if isinstance(event, End)}
        if len(found) == len(requests):
            assert engine.active == 0
            return found
    raise AssertionError(f"{len(found)} of {len(requests)} requests ended")
