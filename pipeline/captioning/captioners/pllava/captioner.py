"""The PLLaVA captioner: checked options and checkpoint, then the loaded model behind `Captioner`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...backends import Backend
from ...errors import UsageError
from ...generation.options import GenerationOptions
from ..base import Caption, Captioner, CaptionerSource, PreparedClip
from .checkpoint import CheckpointWeights
from .configuration import PllavaConfig
from .processing import FrameProcessor
from .tokenizer import PllavaTokenizer, Prompt

if TYPE_CHECKING:
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

    def _check_length(self) -> None:
        grid = self.config.patch_grid
        if max(self.pooling_shape[1:]) > grid:
            raise UsageError(
                f"pooling shape {_dashed(self.pooling_shape)} is finer than the {grid}x{grid} patches of a frame"
            )
        visual_tokens = int(np.prod(self.pooling_shape))
        length = self.prompt.length + visual_tokens + self.generation.max_new_tokens
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
    """A loaded PLLaVA."""

    def __init__(self, source: PllavaSource, model: PllavaForConditionalGeneration, backend: Backend) -> None:
        self._source = source
        self._model = model
        self._backend = backend

    def caption(self, clips: Sequence[PreparedClip]) -> list[Caption]:
        source, generation = self._source, self._source.generation
        captions = []
        for ids in self.token_ids(clips):
            truncated = len(ids) >= generation.max_new_tokens and ids[-1] not in source.prompt.stop_ids
            captions.append(Caption(source.tokenizer.decode(ids), len(ids), truncated))
        return captions

    def token_ids(self, clips: Sequence[PreparedClip]) -> list[list[int]]:
        """New token ids of each clip, the end-of-sequence token included."""
        from ...generation.generate import generate

        return generate(
            self._model.language_model,
            self.prompt_embeddings(clips),
            [clip.row for clip in clips],
            self._source.generation,
            self._source.prompt.stop_ids,
            pad_id=self._source.prompt.stop_ids[0],
        )

    def prompt_embeddings(self, clips: Sequence[PreparedClip]):  # type: ignore[no-untyped-def]  # torch.Tensor
        """What the text model reads: (clips, length, width)."""
        import torch

        prompt = self._source.prompt
        with torch.no_grad():
            return self._model.prompt_embeddings(self.visual_tokens(clips), prompt.before, prompt.after)

    def visual_tokens(self, clips: Sequence[PreparedClip]):  # type: ignore[no-untyped-def]  # torch.Tensor
        """Pooled visual tokens, (clips, T * H * W, width)."""
        import torch

        frames = np.concatenate([clip.frames for clip in clips])
        pixels = torch.from_numpy(self._source.frame_processor.pixel_values(frames))
        pixels = pixels.to(device=self._backend.device, dtype=self._backend.dtype)
        with torch.no_grad():
            tokens = self._model.visual_tokens(pixels, [clip.frame_index for clip in clips], self._source.pooling_shape)
        expected = int(np.prod(self._source.pooling_shape))
        assert tokens.shape[:2] == (len(clips), expected), "visual tokens must be T x H x W"
        return tokens


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _dashed(shape: Sequence[int]) -> str:
    return "-".join(map(str, shape))
