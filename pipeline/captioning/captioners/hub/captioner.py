"""A loaded model of transformers: clips to requests for the engine, and generated tokens to captions.

Knows nothing about families but what `HubFamily` provides.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...backends import Backend
from ...clips.clip import Clip
from ...generation import capacity
from ...generation.attention import makes_own_masks
from ...generation.engine import EngineSettings, EngineStats, SlotEngine
from ...generation.joined import JoinedEnd, JoinedEngine
from ...generation.requests import End, EndReason, Engine, Request
from ...generation.text_model import TextModel
from ...generation.whole_batch import BatchEngine
from ..base import Caption, Captioner
from .settings import HubSettings


class HubCaptioner(Captioner):
    """A loaded model of transformers."""

    def __init__(self, settings: HubSettings, model: Any, backend: Backend) -> None:
        self._settings, self._model, self._backend = settings, model, backend
        self._family = settings.family
        self._generating = self._family.text_model(model)
        self._text = TextModel.of(self._generating)
        self._stats = EngineStats()
        self._vision_seconds = 0.0
        self._in_batches = settings.generation.num_beams > 1 or self._family.needs_generate
        self._prefix = () if self._in_batches else settings.prompt.prompts.shared_prefix
        itemsize = backend.dtype.itemsize
        self._units_together = capacity.frames_together(backend, self._family.unit_bytes(itemsize))
        self._image_units_together = capacity.frames_together(backend, self._family.image_unit_bytes(itemsize))
        prefill_clips = backend.prefill_tokens // max(1, self._length(settings.longest) - len(self._prefix))
        units = max(1, self._family.unit_count(settings.longest))
        self.clips_together = max(1, min(prefill_clips, self._units_together // units))

    def engine(self, slots: int) -> Engine:
        if self._family.prompts_each_block:
            # With one clip in flight, only smaller batches of its prompts take less memory.
            prompts = self._family.prompts(self._settings.longest)
            return JoinedEngine(self._engine(slots * prompts, smaller_batches=slots == 1), slots)
        return self._engine(slots)

    def _engine(self, slots: int, smaller_batches: bool = False) -> Engine:
        if self._in_batches:
            return BatchEngine(self._generating, slots, self._stats, self._backend if smaller_batches else None)
        settings = EngineSettings(slots, self._backend.check_every, self._backend.prefill_tokens)
        with torch.no_grad():
            prefix = self._embed(self._prefix)[None] if self._prefix else None
        return SlotEngine(self._text, self._backend, settings, prefix, self._stats)

    def prepare(self, clips: Sequence[Clip]) -> list[Request]:
        if not clips:
            return []
        with torch.no_grad():
            return [self._request(clip, blocks) for clip, blocks in zip(clips, self._blocks(clips), strict=True)]

    def caption(self, end: End) -> Caption:
        answers = [part.ids for part in end.parts] if isinstance(end, JoinedEnd) else [end.ids]
        text = _joined([self._text_of(ids) for ids in answers])
        return Caption(text, len(end.ids), end.reason is EndReason.LENGTH)

    def _text_of(self, ids: Sequence[int]) -> str:
        # Not every tokenizer marks its stop tokens as special, so they could become text.
        is_stopped = len(ids) > 0 and ids[-1] in self._settings.stop_ids
        return self._settings.prompt.tokenizer.decode(ids[:-1] if is_stopped else ids)

    def max_slots(self) -> int:
        settings, config, itemsize = self._settings, self._text.config, self._backend.dtype.itemsize
        length = self._length(settings.longest)
        units = min(self._units_together, self.clips_together * max(1, self._family.unit_count(settings.longest)))
        prompt = capacity.slot_memory(config, length, settings.generation, itemsize)
        work = units * self._family.unit_bytes(itemsize)
        if self._in_batches:  # all prompts of a batch are prefilled together
            eager_length = length if makes_own_masks(config) else 0
            prompt += capacity.prefill_memory(config, length, itemsize, eager_length)
        else:
            work += capacity.prefill_memory(config, max(self._backend.prefill_tokens, length), itemsize)
        estimate = capacity.MemoryEstimate(slot=prompt * self._family.prompts(settings.longest), work=work)
        beams = settings.generation.num_beams
        return capacity.max_slots(self._backend, estimate, beams, self.clips_together, self._rehearse)

    def stages(self) -> Mapping[str, float]:
        return {"vision_seconds": self._vision_seconds, **dataclasses.asdict(self._stats)}

    def _rehearse(self, clips: int) -> None:
        """Run the vision stage, a prefill and the first decoding steps for `clips` clips without content."""
        stats, vision_seconds = self._stats, self._vision_seconds
        self._stats = EngineStats()
        no_token = frozenset({self._text.vocabulary})  # an id beyond the logits: captions reach their full length
        engine = self.engine(clips)
        longest = self._settings.longest
        for request in self.prepare([dataclasses.replace(longest, row=row) for row in range(clips)]):
            engine.add(dataclasses.replace(request, stop_ids=no_token))
        for _ in range(2):  # a prefill, and decoding steps
            engine.step()
        self._stats, self._vision_seconds = stats, vision_seconds

    def _length(self, clip: Clip) -> int:
        """Tokens of one prompt."""
        return sum(map(len, self._settings.prompt.prompts.pieces(clip))) + sum(self._family.prompt_lengths(clip))

    def _request(self, clip: Clip, blocks: Sequence[torch.Tensor]) -> Request:
        pieces, lengths = self._settings.prompt.prompts.pieces(clip), self._family.prompt_lengths(clip)
        positions, next_position = self._family.positions(pieces, lengths, clip)
        has_prefix = len(self._prefix) > 0 and tuple(pieces[0][: len(self._prefix)]) == tuple(self._prefix)
        skipped = len(self._prefix) if has_prefix else 0
        texts = [self._embed(piece) for piece in (pieces[0][skipped:], *pieces[1:])]
        groups = [[block] for block in blocks] if self._family.prompts_each_block else [blocks]
        prompts = []
        for group in groups:
            assert [len(block) for block in group] == lengths, "visual blocks must have the length that was promised"
            parts = [texts[0]]
            for block, text in zip(group, texts[1:], strict=True):
                parts += [block, text]
            prompts.append(torch.cat([part for part in parts if len(part)]))
        return Request(
            key=clip.row,
            embeddings=torch.stack(prompts) if self._family.prompts_each_block else prompts[0],
            positions=positions[..., skipped:],
            next_position=next_position,
            options=self._settings.generation,
            stop_ids=self._settings.stop_ids,
            has_prefix=has_prefix,
            history_ids=self._history(pieces, lengths, clip.is_image),
            stream=clip.row,
        )

    def _history(self, pieces: Sequence[Sequence[int]], lengths: Sequence[int], is_image: bool) -> tuple[int, ...]:
        """The tokens of a prompt that the repetition rules cover.

        transformers has a token in place of each visual token, and covers these too. The prompt of an encoder-decoder
        model is the input of its encoder, which the rules never cover.
        """
        prompt = self._settings.prompt
        if not prompt.counts_prompt or self._text.config.is_encoder_decoder:
            return ()
        token = prompt.image_token if is_image else prompt.visual_token
        visual = () if token is None else (token,)
        parts = zip(pieces, [*(visual * length for length in lengths), ()], strict=True)
        return tuple(itertools.chain.from_iterable((*piece, *block) for piece, block in parts))

    def _embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Embeddings of text tokens, (tokens, width)."""
        embedding = self._model.get_input_embeddings()
        ids = torch.tensor(list(token_ids), dtype=torch.int64, device=embedding.weight.device)
        return embedding(ids)

    def _blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        """The visual blocks of each clip. The tower runs on chunks of units of one kind and shape."""
        begin = time.monotonic()
        by_kind: dict[tuple[bool, tuple[int, ...]], list[tuple[int, np.ndarray]]] = {}
        for index, clip in enumerate(clips):
            units = self._family.units(clip)
            by_kind.setdefault((clip.is_image, units.shape[1:]), []).append((index, units))
        blocks: list[list[torch.Tensor]] = [[] for _ in clips]
        for (is_image, _), group in by_kind.items():
            units = np.concatenate([units for _, units in group])
            together = self._image_units_together if is_image else self._units_together
            starts = range(0, len(units), together)
            features = torch.cat([self._features(units[start : start + together], is_image) for start in starts])
            start = 0
            for index, own in group:
                blocks[index] = self._family.blocks(self._model, features[start : start + len(own)], clips[index])
                start += len(own)
        self._backend.synchronize()
        self._vision_seconds += time.monotonic() - begin
        return blocks

    def _features(self, units: np.ndarray, is_image: bool) -> torch.Tensor:
        features = self._family.image_features if is_image else self._family.features
        return features(self._model, torch.from_numpy(units).to(self._backend.device))


def _joined(answers: Sequence[str]) -> str:
    """The text of all answers of a clip. An answer that repeats the one before it appears once."""
    return "; ".join(answer for answer, _ in itertools.groupby(filter(None, answers)))
