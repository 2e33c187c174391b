"""A loaded model of transformers: the vision stage and the prompts of a family.

Knows nothing about families but what `HubFamily` provides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...backends import Backend
from ...clips.clip import Clip
from ..model_captioner import CaptionerSettings, ModelCaptioner
from ..question_groups import QuestionPrompt
from .settings import HubSettings


class HubCaptioner(ModelCaptioner):
    """A loaded model of transformers."""

    def __init__(self, settings: HubSettings, model: Any, backend: Backend) -> None:
        self._family, self._model, self._hub_prompt = settings.family, model, settings.prompt
        family, longest = settings.family, settings.longest
        common = CaptionerSettings(
            settings.prompt.prompts,
            settings.prompt.tokenizer,
            settings.generation,
            settings.stop_ids,
            longest,
            units=family.unit_count(longest),
            unit_bytes=family.unit_bytes(backend.dtype.itemsize),
            prompts_each_block=family.prompts(longest) if family.prompts_each_block else 0,
            needs_generate=family.needs_generate,
        )
        super().__init__(common, family.text_model(model), backend)

    def _prompt_lengths(self, clip: Clip) -> list[int]:
        return self._family.prompt_lengths(clip)

    def _prompt(self, number: int, pieces: Sequence[Sequence[int]], clip: Clip) -> QuestionPrompt:
        lengths = self._family.prompt_lengths(clip)
        positions, next_position = self._family.positions(pieces, lengths, clip)
        return QuestionPrompt(number, pieces, positions, next_position, self._history(pieces, lengths))

    def _history(self, pieces: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a prompt that the repetition rules cover.

        transformers has a token in place of each visual token, and covers these too. The prompt of an encoder-decoder
        model is the input of its encoder, which the rules never cover.
        """
        prompt = self._hub_prompt
        if not prompt.counts_prompt or self._text.config.is_encoder_decoder:
            return ()
        visual = () if prompt.visual_token is None else (prompt.visual_token,)
        parts = zip(pieces, [*(visual * length for length in lengths), ()], strict=True)
        return tuple(itertools.chain.from_iterable((*piece, *block) for piece, block in parts))

    def _blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        """The visual blocks of each clip. The tower runs on chunks of units of one shape."""
        by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index, clip in enumerate(clips):
            units = self._family.units(clip)
            by_shape.setdefault(units.shape[1:], []).append((index, units))
        blocks: list[list[torch.Tensor]] = [[] for _ in clips]
        for group in by_shape.values():
            units = np.concatenate([units for _, units in group])
            starts = range(0, len(units), self._units_together)
            features = torch.cat([self._features(units[start : start + self._units_together]) for start in starts])
            start = 0
            for index, own in group:
                blocks[index] = self._family.blocks(self._model, features[start : start + len(own)], clips[index])
                start += len(own)
        return blocks

    def _features(self, units: np.ndarray) -> torch.Tensor:
        return self._family.features(self._model, torch.from_numpy(units).to(self._backend.device))
