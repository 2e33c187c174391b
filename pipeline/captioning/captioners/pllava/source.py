"""Checks a PLLaVA checkpoint and its options before a framework is imported: config, prompt and weight files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...backends import Backend
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...process.errors import UsageError
from ..base import CaptionerSource
from ..checkpoint_config import describe_penalties, with_checkpoint_defaults
from ..tokenizer import CheckpointTokenizer, Prompt
from ..weights import CheckpointWeights
from .configuration import PllavaConfig
from .processing import FrameProcessor
from .weight_names import weight_names

if TYPE_CHECKING:
    from .captioner import PllavaCaptioner


@dataclass(frozen=True)
class PllavaOptions:
    """The user's options for the model.

    checkpoint: folder of the checkpoint.
    num_frames: number of frames to sample from each clip.
    question: the question in the prompt.
    system: the system prompt; empty for none.
    pooling_shape: visual tokens as (time, rows, columns); None for the checkpoint's own.
    weight_folder: a folder with LoRA or other trained weights, which replace those of the checkpoint (`--weight_dir`).
    use_lora: whether missing LoRA weights in both folders are an error.
    lora_alpha: LoRA alpha; None to read it from an adapter_config.json.
    conv_mode: name of a conversation template; None to choose by the checkpoint's vocabulary.
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
    """A checked PLLaVA checkpoint. Only `check_weights` and `load` import the framework.

    generation: the user's options; values of None are read from the checkpoint's generation_config.json.

    Raises:
        UsageError: the checkpoint is missing, incomplete or not supported, or an option does not fit it.
    """

    def __init__(self, options: PllavaOptions, generation: GenerationOptions) -> None:
        folder = options.checkpoint
        if not folder.is_dir():
            raise UsageError(
                f"checkpoint folder {folder} does not exist; give --pretrained_model_name_or_path, "
                "or copy the checkpoint there (nothing is downloaded)"
            )
        self.options = options
        self.generation = with_checkpoint_defaults(generation, folder)
        self._given_generation = generation
        self.config = PllavaConfig.from_folder(folder)
        self.pooling_shape = options.pooling_shape or self.config.pooling_shape
        self.sampling = FrameSampling("segments", options.num_frames)
        self.frame_processor = FrameProcessor.from_folder(folder, self.config.image_size)
        self.frame_transform = self.frame_processor
        self.tokenizer = CheckpointTokenizer(folder, self.config.image_token_id)
        self._template_name, template, self._template_reason = self.tokenizer.template(options.conv_mode)
        text = template.prompt(options.question, options.system)
        before, after = self.tokenizer.split_prompt(text)
        self.prompt = Prompt(text, tuple(before), tuple(after), tuple(self.tokenizer.stop_ids(template)))
        self._check_length()
        self.weights = CheckpointWeights(
            folder, weight_names(self.config), options.weight_folder, options.lora_alpha, options.use_lora
        )

    @property
    def prompt_length(self) -> int:
        """Tokens in the prompt of one clip, visual tokens included."""
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
                f"the model was made for {self.config.max_positions}: lower one of these"
            )

    def fingerprint(self) -> Mapping[str, str]:
        config = (self.options.checkpoint / "config.json").read_bytes()
        return {
            "checkpoint": f"config {_digest(config)} weights {self.weights.digest()}",
            "tokenizer": _digest(self.tokenizer.file.read_bytes()),
            "lora alpha": str(self.weights.lora_alpha),
            "prompt": self.prompt.text,
            "stop ids": str(self.prompt.stop_ids),
            "frames": str(self.sampling),
            "preprocessing": str(self.frame_processor),
            "pooling shape": _dashed(self.pooling_shape),
            "generation": self.generation.fingerprint(),
        }

    def describe(self) -> list[str]:
        in_config = "the checkpoint's config" if self.config.has_pooling_shape else "the default"
        chosen = "--pooling_shape" if self.options.pooling_shape else in_config
        lines = [
            f"checkpoint {self.options.checkpoint}, {self.sampling.num_frames} frames, pooling shape "
            f"{_dashed(self.pooling_shape)} ({chosen})",
            f"conversation template {self._template_name}: {self._template_reason}",
        ]
        if self.weights.lora_alpha is not None:
            lines.append(f"LoRA merged into {self.weights.lora_weights} weights with alpha {self.weights.lora_alpha:g}")
        return lines + describe_penalties(self._given_generation, self.generation)

    def check_weights(self) -> None:
        from ..loading import meta_model, weight_shapes
        from .modeling import PllavaForConditionalGeneration

        self.weights.check(weight_shapes(meta_model(PllavaForConditionalGeneration, self.config)))

    def load(self, backend: Backend) -> PllavaCaptioner:
        """Load the model onto the backend's device.

        Raises:
            UsageError: see `check_weights`.
            RunError: a weight is not finite, or overflows in the backend's dtype.
        """
        from ..loading import load_weights, meta_model
        from .captioner import PllavaCaptioner
        from .modeling import PllavaForConditionalGeneration

        empty = meta_model(PllavaForConditionalGeneration, self.config)
        return PllavaCaptioner(self, load_weights(empty, self.weights, backend.device, backend.dtype), backend)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _dashed(shape: Sequence[int]) -> str:
    return "-".join(map(str, shape))
