"""A loaded PLLaVA: its vision stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from ...backends import Backend
from ...clips.clip import Clip
from ...generation.options import GenerationOptions
from ..captioner_settings import CaptionerSettings
from ..clip_prompts import ClipPrompts
from ..model_captioner import ModelCaptioner
from ..text_prompts import TextPrompts
from ..tokenizer import CheckpointTokenizer
from .modeling import PllavaForConditionalGeneration
from .processing import FrameProcessor


class PllavaSettings(Protocol):
    """The part of `PllavaSource` that the captioner needs."""

    generation: GenerationOptions
    prompts: ClipPrompts
    stop_ids: frozenset[int]
    tokenizer: CheckpointTokenizer
    frame_processor: FrameProcessor
    longest: Clip
    pooling_shape: tuple[int, int, int]

    def text_prompts_of_request(self, system: str) -> TextPrompts:
        """See `CheckpointSource`; used for questions about text only."""


class PllavaCaptioner(ModelCaptioner):
    """A loaded PLLaVA.

    share_prefix: compute keys and values of the text before the visual tokens once, not for every clip.
    """

    def __init__(
        self,
        source: PllavaSettings,
        model: PllavaForConditionalGeneration,
        backend: Backend,
        share_prefix: bool = True,
    ) -> None:
        self._source, self._model = source, model
        common = CaptionerSettings(
            source.prompts,
            source.tokenizer,
            source.generation,
            source.stop_ids,
            source.longest,
            units=len(source.longest.frames),
            unit_bytes=model.frame_bytes(backend.dtype.itemsize),
            shares_prefix=share_prefix,
            text_prompts=lambda system: source.text_prompts_of_request(system),
        )
        super().__init__(common, model.language_model, backend)

    def _prompt_lengths(self, clip: Clip) -> list[int]:
        return [int(np.prod(self._source.pooling_shape))]

    def _blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        return [[tokens] for tokens in self.visual_tokens(clips)]

    def visual_tokens(self, clips: Sequence[Clip]) -> torch.Tensor:
        """Pooled visual tokens, (clips, T * H * W, width). The vision tower runs on chunks of frames."""
        depth, rows, columns = self._source.pooling_shape
        processor, frames = self._source.frame_processor, np.concatenate([clip.frames for clip in clips])
        pooled = []
        with torch.no_grad():
            for start in range(0, len(frames), self._units_together):
                chunk = torch.from_numpy(frames[start : start + self._units_together]).to(self._backend.device)
                pixels = self._model.pixel_values(chunk, processor.mean, processor.std)
                pooled.append(self._model.pooled_frames(pixels, rows, columns))
            features, tokens, start = torch.cat(pooled), [], 0
            for clip in clips:
                clip_features = features[start : start + len(clip.frames)]
                tokens.append(self._model.clip_tokens(clip_features, clip.frame_index, depth))
                start += len(clip.frames)
        return torch.stack(tokens)
