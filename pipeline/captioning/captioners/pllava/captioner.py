"""The PLLaVA captioner: checked options and checkpoint, then the loaded model behind `Captioner`."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...backends import Backend
from ...errors import UsageError
from ...generation.options import GenerationOptions
from ..base import Caption, Captioner, CaptionerSource, ClipFeed, ListFeed, PreparedClip, full_batches
from .checkpoint import CheckpointWeights
from .configuration import PllavaConfig
from .processing import FrameProcessor
from .tokenizer import PllavaTokenizer, Prompt

if TYPE_CHECKING:
    import torch

    from ...generation.engine import GenerationEngine, PromptBatch
    from .modeling import PllavaForConditionalGeneration


@dataclass(frozen=True)
class PllavaOptions:
    """What a user chooses about the model.

    pooling_shape: visual tokens as (time, rows, columns); None for the checkpoint's own.
    weight_folder: a folder with LoRA or trained weights to lay over the checkpoint (`--weight_dir`).
    use_lora: there must be LoRA weights, in one of the two.
    conv_mode: name of a conversation template; None to go by the checkpoint.
    """

    checkpoint: Path
    num_frames: int
    question: str
    system: str
    pooling_shape: tuple[int, int, int] | None = None
    weight_folder: Path | None = None
    use_lora: bool = False
    lora_alpha: float | None = None
    conv_mode: str | None = None


class PllavaSource(CaptionerSource):
    """A PLLaVA checkpoint, checked against its config and the options without importing a framework.

    Raises:
        UsageError: the checkpoint is missing, unfit or incomplete, or an option does not fit it.
    """

    def __init__(self, options: PllavaOptions, generation: GenerationOptions) -> None:
        folder = options.checkpoint
        if not folder.is_dir():
            raise UsageError(
                f"checkpoint folder {folder} does not exist; give --pretrained_model_name_or_path, "
                "or put the checkpoint there (nothing is downloaded)"
            )
        self.options = options
        self.generation = generation
        self.config = PllavaConfig.from_folder(folder)
        self.pooling_shape = options.pooling_shape or self.config.pooling_shape
        self.num_frames = options.num_frames
        self.frame_processor = FrameProcessor.from_folder(folder, self.config.image_size)
        self.frame_transform = self.frame_processor
        self.tokenizer = PllavaTokenizer(folder, self.config.image_token_id)
        self._template_name, template, self._template_reason = self.tokenizer.template(options.conv_mode)
        text = template.prompt(options.question, options.system)
        before, after = self.tokenizer.split_prompt(text)
        self.prompt = Prompt(text, tuple(before), tuple(after), tuple(self.tokenizer.stop_ids(template)))
        self._check_length()
        self.weights = CheckpointWeights(folder, options.weight_folder, options.lora_alpha, options.use_lora)
        self.weights.check(self.config)

    @property
    def prompt_length(self) -> int:
        """Tokens that the text model reads for one clip."""
        return self.prompt.length + int(np.prod(self.pooling_shape))

    def _check_length(self) -> None:
        grid = self.config.patch_grid
        if max(self.pooling_shape[1:]) > grid:
            raise UsageError(
                f"pooling shape {_dashed(self.pooling_shape)} is finer than the {grid}x{grid} patches of a frame"
            )
        visual_tokens = int(np.prod(self.pooling_shape))
        length = self.prompt_length + self.generation.max_new_tokens
        if length > self.config.max_positions:
            raise UsageError(
                f"{self.prompt.length} prompt tokens, {visual_tokens} visual tokens (pooling shape "
                f"{_dashed(self.pooling_shape)}) and --max_new_tokens {self.generation.max_new_tokens} make {length}; "
                f"the model was made for {self.config.max_positions}: lower one of them"
            )

    def fingerprint(self) -> Mapping[str, str]:
        config = (self.options.checkpoint / "config.json").read_bytes()
        return {
            "checkpoint": f"config {_digest(config)} weights {self.weights.digest()}",
            "tokenizer": _digest(self.tokenizer.file.read_bytes()),
            "lora alpha": str(self.weights.lora_alpha),
            "prompt": self.prompt.text,
            "stop ids": str(self.prompt.stop_ids),
            "frames": str(self.num_frames),
            "preprocessing": str(self.frame_processor),
            "pooling shape": _dashed(self.pooling_shape),
            "generation": self.generation.fingerprint(),
        }

    def describe(self) -> list[str]:
        in_config = "the checkpoint's config" if self.config.has_pooling_shape else "the default"
        chosen = "--pooling_shape" if self.options.pooling_shape else in_config
        lines = [
            f"checkpoint {self.options.checkpoint}, {self.num_frames} frames, pooling shape "
            f"{_dashed(self.pooling_shape)} ({chosen})",
            f"conversation template {self._template_name}: {self._template_reason}",
        ]
        if self.weights.lora_alpha is not None:
            lines.append(f"LoRA folded into {self.weights.lora_weights} weights with alpha {self.weights.lora_alpha:g}")
        return lines

    def load(self, backend: Backend) -> PllavaCaptioner:
        from .loading import load_model

        model = load_model(self.config, self.weights, backend.device, backend.dtype)
        return PllavaCaptioner(self, model, backend)


class PllavaCaptioner(Captioner):
    """A loaded PLLaVA.

    share_prefix: compute keys and values of the text before the image once, not for every clip.
    """

    def __init__(
        self,
        source: PllavaSource,
        model: PllavaForConditionalGeneration,
        backend: Backend,
        share_prefix: bool = True,
        refill: bool = True,
    ) -> None:
        from ...generation.engine import EngineTally

        self._source, self._model, self._backend = source, model, backend
        self.share_prefix, self._refill = share_prefix, refill
        self._tally = EngineTally()
        self._vision_seconds = 0.0

    def caption(self, clips: ClipFeed, slots: int) -> Iterator[tuple[int, Caption]]:
        source = self._source
        for row, ids in self.token_ids(clips, slots):
            truncated = len(ids) >= source.generation.max_new_tokens and ids[-1] not in source.prompt.stop_ids
            yield row, Caption(source.tokenizer.decode(ids), len(ids), truncated)

    def token_ids(self, clips: ClipFeed, slots: int) -> Iterator[tuple[int, list[int]]]:
        """Row and new token ids of each clip, the end-of-sequence token included."""
        if self._source.generation.num_beams > 1:
            yield from self._beam_search(clips, slots)
            return
        for generated in self._engine(slots).run(_Prompts(self, clips)):
            yield generated.row, generated.ids

    def _beam_search(self, clips: ClipFeed, slots: int) -> Iterator[tuple[int, list[int]]]:
        from ...generation.beams import beam_search

        source = self._source
        for batch in full_batches(clips, slots):
            prompts = self.prompt_embeddings(batch)
            begin = time.monotonic()
            found = beam_search(self._model.language_model, prompts, source.generation, source.prompt.stop_ids)
            self._tally.decode_seconds += time.monotonic() - begin
            self._tally.decode_tokens += sum(map(len, found))
            yield from zip([clip.row for clip in batch], found, strict=True)

    def _engine(self, slots: int) -> GenerationEngine:
        from ...generation.engine import EngineSettings, GenerationEngine

        prompt = self._source.prompt
        return GenerationEngine(
            self._model.language_model,
            self._backend,
            self._source.generation,
            prompt.stop_ids,
            self._model.embed(prompt.before) if self.share_prefix else None,
            self._source.prompt_length,
            EngineSettings(slots, self._backend.check_every, self._backend.prefill_tokens, self._refill),
            self._tally,
        )

    def most_slots(self) -> int:
        from ...generation.capacity import most_slots

        config, source = self._model.language_model.config, self._source
        return most_slots(self._backend, config, source.prompt_length, source.generation, self._rehearse)

    def _rehearse(self, slots: int) -> None:
        processor = self._source.frame_processor
        frames = np.zeros((self._source.num_frames, processor.crop_size, processor.crop_size, 3), np.uint8)
        clips = [PreparedClip(row, frames, tuple(range(len(frames)))) for row in range(slots)]
        self._engine(slots).rehearse(_Prompts(self, ListFeed(clips)))

    def stages(self) -> Mapping[str, float]:
        return {"vision_seconds": self._vision_seconds, **dataclasses.asdict(self._tally)}

    def prompt_embeddings(self, clips: Sequence[PreparedClip], without_prefix: bool = False) -> torch.Tensor:
        """What the text model reads: (clips, length, width), with or without the text before the image."""
        import torch

        prompt = self._source.prompt
        with torch.no_grad():
            return self._model.prompt_embeddings(
                self.visual_tokens(clips), () if without_prefix else prompt.before, prompt.after
            )

    def visual_tokens(self, clips: Sequence[PreparedClip]) -> torch.Tensor:
        """Pooled visual tokens, (clips, T * H * W, width)."""
        import torch

        begin = time.monotonic()
        frames = torch.from_numpy(np.concatenate([clip.frames for clip in clips])).to(self._backend.device)
        with torch.no_grad():
            processor = self._source.frame_processor
            pixels = self._model.pixel_values(frames, processor.mean, processor.std)
            tokens = self._model.visual_tokens(pixels, [clip.frame_index for clip in clips], self._source.pooling_shape)
        expected = int(np.prod(self._source.pooling_shape))
        assert tokens.shape[:2] == (len(clips), expected), "visual tokens must be T x H x W"
        self._backend.synchronize()
        self._vision_seconds += time.monotonic() - begin
        return tokens


class _Prompts:
    """Clips on their way into the engine, as prompts: the vision stage."""

    def __init__(self, captioner: PllavaCaptioner, clips: ClipFeed) -> None:
        self._captioner, self._clips = captioner, clips

    def take(self, limit: int, wait: bool) -> PromptBatch | None:
        from ...generation.engine import PromptBatch

        clips = self._clips.take(limit, wait)
        if not clips:
            return None
        embeddings = self._captioner.prompt_embeddings(clips, without_prefix=self._captioner.share_prefix)
        return PromptBatch([clip.row for clip in clips], embeddings)

    @property
    def exhausted(self) -> bool:
        return self._clips.exhausted


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _dashed(shape: Sequence[int]) -> str:
    return "-".join(map(str, shape))
