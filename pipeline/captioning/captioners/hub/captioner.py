"""A loaded model of transformers: the vision stage and the prompts of a family.

Knows nothing about families but what `HubFamily` provides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...backends import Backend
from ...clips.clip import Clip
from ...generation import capacity
from ..captioner_settings import CaptionerSettings
from ..model_captioner import ModelCaptioner
from ..question_groups import QuestionPrompt
from .settings import HubSettings


class HubCaptioner(ModelCaptioner):
    """A loaded model of transformers."""

    def __init__(self, settings: HubSettings, model: Any, backend: Backend) -> None:
        self._family, self._model, self._hub_prompt = settings.family, model, settings.prompt
        family, longest, itemsize = settings.family, settings.longest, backend.dtype.itemsize
        common = CaptionerSettings(
            settings.prompt.prompts,
            settings.prompt.tokenizer,
            settings.generation,
            settings.stop_ids,
            longest,
            units=family.unit_count(longest),
            unit_bytes=family.unit_bytes(itemsize),
            prompts_each_block=family.prompts(longest) if family.prompts_each_block else 0,
            needs_generate=family.needs_generate,
            text_prompts=settings.text_prompts,
        )
        super().__init__(common, family.text_model(model), backend)
        self._image_units_together = capacity.frames_together(backend, family.image_unit_bytes(itemsize))

    def _prompt_lengths(self, clip: Clip) -> list[int]:
        return self._family.prompt_lengths(clip)

    def _prompt(self, number: int, pieces: Sequence[Sequence[int]], clips: Sequence[Clip]) -> QuestionPrompt:
        lengths = [length for clip in clips for length in self._family.prompt_lengths(clip)]
        positions, next_position = self._family.positions(pieces, lengths, clips)
        visual_token = self._hub_prompt.image_token if clips[0].is_image else self._hub_prompt.visual_token
        return QuestionPrompt(number, pieces, positions, next_position, self._history(pieces, lengths, visual_token))

    def _text_positions(self, tokens: int) -> np.ndarray:
        return self._family.text_positions(tokens)

    def _text_history(self, ids: Sequence[int]) -> tuple[int, ...]:
        return self._history([ids], [], None)

    def _history(
        self, pieces: Sequence[Sequence[int]], lengths: Sequence[int], visual_token: int | None
    ) -> tuple[int, ...]:
        """The tokens of a prompt that the repetition rules cover.

        transformers has a token in place of each visual token, and covers these too. The prompt of an encoder-decoder
        model is the input of its encoder, which the rules never cover.
        """
        if not self._hub_prompt.counts_prompt or self._text.config.is_encoder_decoder:
            return ()
        visual = () if visual_token is None else (visual_token,)
        parts = zip(pieces, [*(visual * length for length in lengths), ()], strict=True)
        return tuple(itertools.chain.from_iterable((*piece, *block) for piece, block in parts))

    def _blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        """The visual blocks of each clip. The tower runs on chunks of units of one kind and shape."""
        by_kind: dict[tuple[bool, tuple[int, ...]], list[tuple[int, np.ndarray]]] = {}
        for index, clip in enumerate(clips):
            units = self._family.units(clip)
            by_kind.setdefault((clip.is_image, units.shape[1:]), []).append((index, units))
        blocks: list[list[torch.Tensor]] = [[] for _ in clips]
        for (is_image, _), group in by_kind.items():
            units = np.concatenate([units for _, units in group])
            together = self._image_units_together if is_image else self._units_together
            compute = self._family.image_features if is_image else self._family.features
            features = self._features(compute, units, together)
            start = 0
            for index, own in group:
                blocks[index] = self._family.blocks(self._model, features[start : start + len(own)], clips[index])
                start += len(own)
        return blocks

    def _features(
        self, compute: Callable[[Any, torch.Tensor], torch.Tensor], units: np.ndarray, together: int
    ) -> torch.Tensor:
        """The features of units of one shape. compute: makes those of up to `together` units with the model."""
        chunks = (torch.from_numpy(units[start : start + together]) for start in range(0, len(units), together))
        return torch.cat([compute(self._model, chunk.to(self._backend.device)) for chunk in chunks])
