"""The models that the benchmark runs: for each, the captioner of the engine and a caption of the clip-by-clip loop.

Knows nothing about times and processes. Until weights are made, no framework is imported.
"""

from __future__ import annotations

import argparse
import copy
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Captioner
from pipeline.captioning.captioners.clip_prompts import ClipPrompts
from pipeline.captioning.captioners.hub.prompts import HubPrompt
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource, empty_clip
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.preparation import FrameTransform
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import Request
from pipeline.captioning.meta.asks import Ask, Asks, Question
from scripts.model_shapes import ModelShape, pllava_shape
from scripts.presets import (
    FAMILY_PRESETS,
    FAMILY_VOCABULARY,
    TOKENS_AFTER_IMAGE,
    TOKENS_BEFORE_IMAGE,
    FamilyPreset,
    preset_config,
)

if TYPE_CHECKING:
    import torch

    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

TINY_CHECKPOINT = Path("pretrained_models/pllava-tiny")
_PLLAVA_FRAMES, _POOLING_SHAPE = 4, "16-12-12"
_TEXT_BEFORE, _TEXT_AFTER = range(3, 3 + TOKENS_BEFORE_IMAGE), range(100, 100 + TOKENS_AFTER_IMAGE)
_Model = TypeVar("_Model", bound="torch.nn.Module")


class BenchmarkModel(ABC):
    """A model of the benchmark.

    sampling, frame_transform: as of a `CaptionerSource`.
    prefix_length: tokens that all prompts begin with, and that the engine computes once.
    asks: the questions about every clip. question_length: tokens of a question about which the prompts differ.
    """

    asks: Asks
    question_length: int = TOKENS_AFTER_IMAGE
    sampling: FrameSampling
    frame_transform: FrameTransform
    prefix_length: int

    @abstractmethod
    def captioner(self, backend: Backend) -> Captioner:
        """The loaded model for the engine."""

    @abstractmethod
    def loop(self, backend: Backend) -> Callable[[Clip], list[int]]:
        """The loaded model for the loop: a function that generates the token ids of a clip."""

    @abstractmethod
    def shape(self) -> ModelShape:
        """What the model computes, for its roofline limit."""


def make_model(flags: argparse.Namespace) -> BenchmarkModel:
    """The model of these flags; see `benchmark_sides.make_parser`."""
    generation = GenerationOptions(
        max_new_tokens=flags.max_new_tokens, do_sample=flags.mean_tokens is not None, temperature=1.0
    )
    if flags.preset in FAMILY_PRESETS:
        return _FamilyModel(FAMILY_PRESETS[flags.preset], flags, generation)
    return _PllavaModel(flags, generation)


def _stop_ids(vocabulary: int, mean_tokens: int | None) -> tuple[int, ...]:
    """An id outside of the vocabulary, so that captions have the maximum length; or ids of which each sampled token is
    one with a probability of about 1 / mean_tokens."""
    return (vocabulary,) if mean_tokens is None else tuple(range(0, vocabulary, mean_tokens))


def _asks(count: int) -> Asks:
    """Different questions; the first is the default question."""
    others = [f"Describe the video again, for the {number}th time." for number in range(1, count)]
    questions = map(Question.literal, [DEFAULT_QUESTION, *others])
    return Asks(tuple(Ask(f"text_{number}", question) for number, question in enumerate(questions)))


def _random_prompts(pieces: list[list[int]], typical: Clip, asks: Asks) -> ClipPrompts:
    """Prompts of the same length for all clips. Different questions differ from their first token on."""

    def tokenize(question: str) -> list[list[int]]:
        *before, last = pieces
        return [*before, [token + asks.texts.index(question) for token in last]]

    return ClipPrompts(tokenize, lambda clip, question, system: question, [typical], asks)


def _with_random_weights(model: _Model, backend: Backend) -> _Model:
    import torch

    from pipeline.captioning.captioners.loading import fill_model

    def random_weight(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=backend.dtype, device=backend.device)
        scale = shape[-1] ** -0.5
        if backend.is_accelerator:
            return torch.randn(shape, dtype=backend.dtype, device=backend.device) * scale
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return torch.from_numpy(rng.normal(0, scale, tuple(shape)).astype(np.float32))

    return fill_model(model, backend.device, random_weight)


def _generate(
    model: Any, length: int, generation: GenerationOptions, stop_ids: tuple[int, ...], backend: Backend, **inputs: Any
) -> list[int]:
    """New token ids of transformers' `generate`. length: of the prompt. inputs: the prompt."""
    import torch

    output = model.generate(
        attention_mask=torch.ones((1, length), dtype=torch.int64, device=backend.device),
        max_new_tokens=generation.max_new_tokens,
        do_sample=generation.samples,
        eos_token_id=list(stop_ids),
        pad_token_id=0,
        **inputs,
    )
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    ids: list[int] = output[0, start:].cpu().numpy().tolist()
    return ids


@dataclass
class _RandomSource:
    """The source of a PLLaVA with random weights. It has no checkpoint and no tokenizer."""

    config: PllavaConfig
    generation: GenerationOptions
    pooling_shape: tuple[int, int, int]
    sampling: FrameSampling
    stop_ids: frozenset[int]
    asks: Asks
    tokenizer: Any = None  # not used: token ids are compared

    def __post_init__(self) -> None:
        self.frame_processor = FrameProcessor()
        self.frame_transform = self.frame_processor
        self.longest = empty_clip(self.sampling, self.frame_processor)
        self.prompts = _random_prompts([list(_TEXT_BEFORE), list(_TEXT_AFTER)], self.longest, self.asks)


class _PllavaModel(BenchmarkModel):
    """PLLaVA: pllava-tiny, or a configuration with random weights. The loop is as in the public PLLaVA."""

    def __init__(self, flags: argparse.Namespace, generation: GenerationOptions) -> None:
        num_frames = flags.num_frames or _PLLAVA_FRAMES
        self._share_prefix = not flags.no_prefix
        self._source: Any
        self.asks = _asks(flags.asks)
        if flags.preset == "tiny":
            options = PllavaOptions(TINY_CHECKPOINT, num_frames, self.asks, DEFAULT_SYSTEM)
            self._source = PllavaSource(options, generation)
        else:
            time, rows, columns = map(int, (flags.pooling_shape or _POOLING_SHAPE).split("-"))
            config = preset_config(flags.preset)
            stop_ids = frozenset(_stop_ids(config.text["vocab_size"], flags.mean_tokens))
            sampling = FrameSampling("segments", num_frames)
            shape = time, rows, columns
            self._source = _RandomSource(config, generation, shape, sampling, stop_ids, self.asks)
        self.sampling, self.frame_transform = self._source.sampling, self._source.frame_transform
        self.prefix_length = len(self._source.prompts.shared_prefix) if self._share_prefix else 0

    def captioner(self, backend: Backend) -> PllavaCaptioner:
        from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

        if isinstance(self._source, PllavaSource):
            model = self._source.load(backend)._model
        else:
            from pipeline.captioning.captioners.loading import meta_model
            from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

            model = _with_random_weights(meta_model(PllavaForConditionalGeneration, self._source.config), backend)
        return PllavaCaptioner(self._source, model, backend, self._share_prefix)

    def loop(self, backend: Backend) -> Callable[[Clip], list[int]]:
        from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

        model = self.captioner(backend)._model
        whole = PllavaCaptioner(self._source, model, backend, share_prefix=False)
        for part in (model.vision_tower.config, model.language_model.config):
            part._attn_implementation = "sdpa"
        source = self._source

        def caption(clip: Clip) -> list[int]:
            (request,) = whole.prepare([clip], [self.asks.texts[:1]])
            assert isinstance(request, Request)
            return _generate(
                model.language_model, request.length, source.generation, tuple(sorted(source.stop_ids)), backend,
                inputs_embeds=request.embeddings[None],
            )  # fmt: skip

        return caption

    def shape(self) -> ModelShape:
        return pllava_shape(self._source.config, self.sampling.num_frames)


class _FamilyModel(BenchmarkModel):
    """A family of transformers' models, with random weights. The loop calls `generate` of the family's own class."""

    def __init__(self, preset: FamilyPreset, flags: argparse.Namespace, generation: GenerationOptions) -> None:
        self._preset, self._family, self._generation = preset, preset.family(), generation
        self.asks = _asks(flags.asks)
        self.sampling = FrameSampling("uniform", flags.num_frames or preset.num_frames)
        self.frame_transform = preset.transform
        self._stop_ids = _stop_ids(FAMILY_VOCABULARY, flags.mean_tokens)
        before, after = preset.around
        self._pieces = [[*_TEXT_BEFORE, *before], [*after, *_TEXT_AFTER]]
        self.prefix_length = 0 if flags.no_prefix else len(self._pieces[0])

    def captioner(self, backend: Backend) -> Captioner:
        from pipeline.captioning.captioners.hub.captioner import HubCaptioner
        from pipeline.captioning.captioners.hub.settings import HubSettings
        from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

        typical = self._typical_clip()
        prompts = _random_prompts(self._pieces, typical, self.asks)
        prompts.shared_prefix = prompts.shared_prefix[: self.prefix_length]
        tokenizer: Any = None  # not used: token ids are compared
        stop_ids = frozenset(self._stop_ids)
        settings = HubSettings(
            self._family,
            HubPrompt(prompts, ("",) * len(self.asks.asks), tokenizer, counts_prompt=False),
            self._generation,
            stop_ids,
            typical,
        )
        return HubCaptioner(settings, self._model(backend, UNMASKED_ATTENTION), backend)

    def loop(self, backend: Backend) -> Callable[[Clip], list[int]]:
        import torch

        model = self._model(backend, "sdpa")

        def caption(clip: Clip) -> list[int]:
            before, after = self._pieces
            ids = [*before, *[self._preset.placeholder] * sum(self._family.block_lengths(clip)), *after]
            inputs = {
                name: torch.from_numpy(array).to(backend.device) for name, array in self._video_inputs(clip).items()
            }
            inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(backend.dtype)
            prompt = torch.tensor([ids], device=backend.device)
            return _generate(model, len(ids), self._generation, self._stop_ids, backend, input_ids=prompt, **inputs)

        return caption

    def _model(self, backend: Backend, attention: str) -> Any:
        from pipeline.captioning.captioners.loading import meta_model

        model_class = self._family.model_class()
        config = model_class.config_class.from_dict(copy.deepcopy(self._preset.config))
        self._family.adapt(config)
        config._attn_implementation = attention
        return _with_random_weights(meta_model(model_class, config), backend)

    def _video_inputs(self, clip: Clip) -> dict[str, np.ndarray]:
        """What the family's processor of transformers makes of a clip's frames."""
        transform, frames = self._preset.transform, clip.frames[list(clip.frame_index)]
        values = transform.normalized(frames)
        if not isinstance(transform, PatchesOfTwo):
            return {"pixel_values_videos": np.ascontiguousarray(values.transpose(0, 3, 1, 2))[None]}
        rows, grid = transform.patch_rows(values)
        return {"pixel_values_videos": rows, "video_grid_thw": np.array([grid])}

    def _typical_clip(self) -> Clip:
        """A clip without content; for Qwen2.5-VL with about the mean number of visual tokens."""
        count, size = self.sampling.num_frames, (240, 320)
        frames = np.repeat(self.frame_transform([Image.new("RGB", size[::-1])]), count, axis=0)
        return Clip(0, "", frames, tuple(range(count)), seconds=tuple(map(float, range(count))), size=size)

    def shape(self) -> ModelShape:
        return self._preset.shape(self._preset.config, self._family.units(self._typical_clip()).shape)
