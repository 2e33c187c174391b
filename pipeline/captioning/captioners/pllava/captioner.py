"""A loaded PLLaVA: converts clips to requests for the engine, and generated tokens to captions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from ...backends import Backend
from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation import capacity
from ...generation.engine import EngineSettings, EngineStats, SlotEngine
from ...generation.options import GenerationOptions
from ...generation.requests import End, EndReason, Engine, Request
from ...generation.text_model import TextModel
from ...generation.whole_batch import BatchEngine
from ..base import Caption, Captioner
from ..tokenizer import CheckpointTokenizer, Prompt
from .modeling import PllavaForConditionalGeneration
from .processing import FrameProcessor


class PllavaSettings(Protocol):
    """The part of `PllavaSource` that the captioner needs."""

    generation: GenerationOptions
    prompt: Prompt
    tokenizer: CheckpointTokenizer
    frame_processor: FrameProcessor
    sampling: FrameSampling
    pooling_shape: tuple[int, int, int]

    @property
    def prompt_length(self) -> int:
        """Tokens in the prompt of one clip, visual tokens included."""


class PllavaCaptioner(Captioner):
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
        self._source, self._model, self._backend = source, model, backend
        self._text = TextModel.of(model.language_model)
        has_beams = source.generation.num_beams > 1
        self._prefix_length = len(source.prompt.before) if share_prefix and not has_beams else 0
        self._stop_ids = frozenset(source.prompt.stop_ids)
        self._stats = EngineStats()
        self._vision_seconds = 0.0
        self._frames_together = capacity.frames_together(backend, model.frame_bytes(backend.dtype.itemsize))
        prompt_tokens = source.prompt_length - self._prefix_length
        prefill_clips = backend.prefill_tokens // prompt_tokens
        self.clips_together = max(1, min(prefill_clips, self._frames_together // source.sampling.most_frames))

    def engine(self, slots: int) -> Engine:
        if self._source.generation.num_beams > 1:
            return BatchEngine(self._model.language_model, slots, self._stats)
        settings = EngineSettings(slots, self._backend.check_every, self._backend.prefill_tokens)
        prefix = self._model.embed(self._source.prompt.before) if self._prefix_length else None
        return SlotEngine(self._text, self._backend, settings, prefix, self._stats)

    def prepare(self, clips: Sequence[Clip]) -> list[Request]:
        if not clips:
            return []
        embeddings = self.prompt_embeddings(clips, self._prefix_length)
        length = self._source.prompt_length
        return [
            Request(
                key=clip.row,
                embeddings=embeddings[index],
                positions=np.arange(self._prefix_length, length),
                next_position=length,
                options=self._source.generation,
                stop_ids=self._stop_ids,
                has_prefix=self._prefix_length > 0,
                stream=clip.row,
            )
            for index, clip in enumerate(clips)
        ]

    def caption(self, end: End) -> Caption:
        return Caption(self._source.tokenizer.decode(end.ids), len(end.ids), end.reason is EndReason.LENGTH)

    def max_slots(self) -> int:
        source, config, itemsize = self._source, self._text.config, self._backend.dtype.itemsize
        length = source.prompt_length
        prefill_tokens = max(self._backend.prefill_tokens, length)
        frames = min(self._frames_together, self.clips_together * source.sampling.most_frames)
        estimate = capacity.MemoryEstimate(
            slot=capacity.slot_memory(config, length, source.generation, itemsize),
            work=capacity.prefill_memory(config, prefill_tokens, itemsize) + frames * self._model.frame_bytes(itemsize),
        )
        beams = source.generation.num_beams
        return capacity.max_slots(self._backend, estimate, beams, self.clips_together, self._rehearse)

    def _rehearse(self, clips: int) -> None:
        """Run the vision stage, a prefill and the first decoding steps for `clips` empty clips.

        Memory use does not grow after that. The stages' figures stay as they were.
        """
        stats, vision_seconds = self._stats, self._vision_seconds
        self._stats = EngineStats()
        size, num_frames = self._source.frame_processor.crop_size, self._source.sampling.most_frames
        frames = np.zeros((num_frames, size, size, 3), np.uint8)
        no_token = frozenset({self._text.vocabulary})  # an id beyond the logits: captions reach their full length
        engine = self.engine(clips)
        for request in self.prepare([Clip(row, "", frames, tuple(range(num_frames))) for row in range(clips)]):
            engine.add(dataclasses.replace(request, stop_ids=no_token))
        for _ in range(2):  # a prefill, and decoding steps
            engine.step()
        self._stats, self._vision_seconds = stats, vision_seconds

    def stages(self) -> Mapping[str, float]:
        return {"vision_seconds": self._vision_seconds, **dataclasses.asdict(self._stats)}

    def prompt_embeddings(self, clips: Sequence[Clip], skipped: int = 0) -> torch.Tensor:
        """Input embeddings of the text model, (clips, length - skipped, width).

        skipped: number of tokens to omit at the start of the prompt.
        """
        prompt = self._source.prompt
        with torch.no_grad():
            return self._model.prompt_embeddings(self.visual_tokens(clips), prompt.before[skipped:], prompt.after)

    def visual_tokens(self, clips: Sequence[Clip]) -> torch.Tensor:
        """Pooled visual tokens, (clips, T * H * W, width). The vision tower runs on chunks of frames."""
        begin = time.monotonic()
        depth, rows, columns = self._source.pooling_shape
        processor, frames = self._source.frame_processor, np.concatenate([clip.frames for clip in clips])
        pooled = []
        with torch.no_grad():
            for start in range(0, len(frames), self._frames_together):
                chunk = torch.from_numpy(frames[start : start + self._frames_together]).to(self._backend.device)
                pixels = self._model.pixel_values(chunk, processor.mean, processor.std)
                pooled.append(self._model.pooled_frames(pixels, rows, columns))
            features, tokens, start = torch.cat(pooled), [], 0
            for clip in clips:
                clip_features = features[start : start + len(clip.frames)]
                tokens.append(self._model.clip_tokens(clip_features, clip.frame_index, depth))
                start += len(clip.frames)
            visual_tokens = torch.stack(tokens)
        assert visual_tokens.shape[1] == depth * rows * columns, "visual tokens must be T x H x W"
        self._backend.synchronize()
        self._vision_seconds += time.monotonic() - begin
        return visual_tokens
