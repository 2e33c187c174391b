"""Checks a PLLaVA checkpoint and its options before a framework is imported: config, prompt and weight files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...backends import Backend
from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.length_limit import LengthLimit
from ...generation.options import GenerationOptions
from ...meta.asks import Asks
from ...process.errors import UsageError
from ..checkpoint_source import CheckpointSource
from ..clip_prompts import ClipPrompts
from ..prompts import IMAGE_PLACEHOLDER, check_prompt_part
from ..text_prompts import TextTemplate
from ..tokenizer import CheckpointTokenizer
from ..weights import CheckpointWeights
from .configuration import PllavaConfig
from .processing import FrameProcessor
from .weight_names import weight_names

if TYPE_CHECKING:
    from .captioner import PllavaCaptioner
    from .modeling import PllavaForConditionalGeneration


@dataclass(frozen=True)
class PllavaOptions:
    """The user's options for the model.

    checkpoint: folder of the checkpoint.
    num_frames: number of frames to sample from each clip.
    asks: what is asked about every clip.
    system: the system prompt; empty for none.
    pooling_shape: visual tokens as (time, rows, columns); None for the checkpoint's own.
    weight_folder: a folder with LoRA or other trained weights, which replace those of the checkpoint (`--weight_dir`).
    use_lora: whether missing LoRA weights in both folders are an error.
    lora_alpha: LoRA alpha; None to read it from an adapter_config.json.
    conv_mode: name of a conversation template; None to choose by the checkpoint's vocabulary.
    """

    checkpoint: Path
    num_frames: int
    asks: Asks
    system: str
    pooling_shape: tuple[int, int, int] | None = None
    weight_folder: Path | None = None
    use_lora: bool = False
    lora_alpha: float | None = None
    conv_mode: str | None = None


class PllavaSource(CheckpointSource["PllavaCaptioner"]):
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
        self.config = PllavaConfig.from_folder(folder)
        self.pooling_shape = options.pooling_shape or self.config.pooling_shape
        self.sampling = FrameSampling("segments", options.num_frames)
        self.frame_processor = FrameProcessor.from_folder(folder, self.config.image_size)
        self.frame_transform = self.frame_processor
        self.longest = empty_clip(self.sampling, self.frame_processor)
        tokenizer = CheckpointTokenizer(folder, self.config.image_token_id)
        self._template_name, template, self._template_reason = tokenizer.template(options.conv_mode)
        self._template = template

        def text(clip: Clip, question: str, system: str | None) -> str:
            check_prompt_part("the question", question)
            check_prompt_part("the system prompt", system or "")
            return template.prompt(question, options.system if system is None else system)

        prompts = ClipPrompts(
            lambda prompt: list(tokenizer.split_prompt(prompt)),
            text,
            [self.longest],
            options.asks,
            tokenizer.special_token_in,
        )
        super().__init__(folder, prompts, tokenizer, generation)
        self.stop_ids = frozenset(tokenizer.stop_ids(template))
        self._check_length()
        self.weights = CheckpointWeights(
            folder, weight_names(self.config), options.weight_folder, options.lora_alpha, options.use_lora
        )

    def _check_length(self) -> None:
        grid = self.config.patch_grid
        if max(self.pooling_shape[1:]) > grid:
            raise UsageError(
                f"pooling shape {_dashed(self.pooling_shape)} is finer than the {grid}x{grid} patches of a frame"
            )
        text, visual_tokens = self.prompts.most_tokens(self.longest), int(np.prod(self.pooling_shape))
        length = text + visual_tokens + self.generation.max_new_tokens
        if length > self.config.max_positions:
            raise UsageError(
                f"{text} prompt tokens, {visual_tokens} visual tokens (pooling shape "
                f"{_dashed(self.pooling_shape)}) and --max_new_tokens {self.generation.max_new_tokens} make {length}; "
                f"the model was made for {self.config.max_positions}: lower one of these"
            )

    def _prompt_texts(self) -> Sequence[str]:
        return [self.prompts.text(self.longest, question) for question in self.asks.texts]

    def _text_template(self, system: str, name: str) -> TextTemplate:
        check_prompt_part(name, system)
        source = f"conversation template {self._template_name}: {self._template_reason}"
        placeholders = [IMAGE_PLACEHOLDER]
        return TextTemplate(lambda question: self._template.text_prompt(question, system), source, placeholders)

    def _limit(self) -> LengthLimit:
        return LengthLimit(self.config.max_positions)

    def _own_fingerprint(self) -> Mapping[str, str]:
        return {"stop ids": str(tuple(sorted(self.stop_ids))), "pooling shape": _dashed(self.pooling_shape)}

    def _own_lines(self) -> list[str]:
        in_config = "the checkpoint's config" if self.config.has_pooling_shape else "the default"
        chosen = "--pooling_shape" if self.options.pooling_shape else in_config
        lines = [
            f"checkpoint {self.folder}, {self.sampling.num_frames} frames, pooling shape "
            f"{_dashed(self.pooling_shape)} ({chosen})",
            f"conversation template {self._template_name}: {self._template_reason}",
        ]
        if len(self.asks.asks) > 1:
            lines += self._lines_of_prompts()
        if self.weights.lora_alpha is not None:
            lines.append(f"LoRA merged into {self.weights.lora_weights} weights with alpha {self.weights.lora_alpha:g}")
        return lines

    def _empty_model(self) -> PllavaForConditionalGeneration:
        from ..loading import meta_model
        from .modeling import PllavaForConditionalGeneration

        return meta_model(PllavaForConditionalGeneration, self.config)

    def _captioner(self, model: PllavaForConditionalGeneration, backend: Backend) -> PllavaCaptioner:
        from .captioner import PllavaCaptioner

        return PllavaCaptioner(self, model, backend)


def empty_clip(sampling: FrameSampling, processor: FrameProcessor) -> Clip:
    """A clip of black frames, with the largest number of frames; its frames take no memory."""
    frames, size = sampling.most_frames, processor.crop_size
    pixels = np.broadcast_to(np.zeros(1, np.uint8), (frames, size, size, 3))
    return Clip(0, "", pixels, tuple(range(frames)))


def _dashed(shape: Sequence[int]) -> str:
    return "-".join(map(str, shape))
