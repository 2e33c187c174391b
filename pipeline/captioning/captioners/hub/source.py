"""A checkpoint in the layout of transformers, checked before the framework is imported.

Knows nothing about families but what `HubFamily` provides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.length_limit import LengthLimit
from ...generation.options import GenerationOptions
from ...process.errors import UsageError
from ..checkpoint_source import CheckpointSource, digest
from ..family_prompts import FAMILY_PROMPTS
from ..text_prompts import TextTemplate
from ..weights import CheckpointWeights
from .config_defaults import text_settings
from .family import HubFamily
from .frames import HubFrames, first_frame, frames_of, frames_that_fit, largest_clip, length_problem
from .prompts import HubPrompt
from .settings import HubSettings

if TYPE_CHECKING:
    from .captioner import HubCaptioner


@dataclass(frozen=True)
class HubOptions:
    """The user's choices about the model.

    weight_folder: folder with LoRA or trained weights that replace those of the checkpoint (`--weight_dir`).
    use_lora: whether LoRA weights are required.
    tower_folder: folder of the vision tower, whose weights are used where the checkpoint has none (`--vision_tower`).
    """

    checkpoint: Path
    weight_folder: Path | None = None
    use_lora: bool = False
    lora_alpha: float | None = None
    tower_folder: Path | None = None


class HubSource(CheckpointSource["HubCaptioner"]):
    """A checked checkpoint. Only `check_weights` and `load` import the framework.

    Its attribute `longest` is a clip without content, see `HubFrames`.

    Raises:
        UsageError: the checkpoint is incomplete, or an option does not fit it.
    """

    def __init__(
        self,
        family: HubFamily,
        options: HubOptions,
        prompt: HubPrompt,
        generation: GenerationOptions,
        frames: HubFrames,
    ) -> None:
        super().__init__(options.checkpoint, prompt.prompts, prompt.tokenizer, generation)
        self._family, self._options, self._prompt = family, options, prompt
        self.images_are_frames = family.images_are_frames
        self.stop_ids = frozenset(prompt.tokenizer.stop_ids())
        self.longest, self._frames_note = frames.longest, frames.note
        self.frame_transform, self.image_transform = family.frame_transform, family.image_transform
        self.several_transform = family.several_transform
        self.sampling, self.short_side = frames.sampling, frames.short_side
        problem = length_problem(family, prompt, frames.longest, self.generation)
        if problem:
            raise UsageError(problem)
        self.weights = CheckpointWeights(
            options.checkpoint,
            family.weight_names(),
            options.weight_folder,
            options.lora_alpha,
            options.use_lora,
            options.tower_folder,
        )

    def _prompt_texts(self) -> Sequence[str]:
        return self._prompt.descriptions

    def _own_fingerprint(self) -> Mapping[str, str]:
        tower = self._options.tower_folder
        pieces = self._pieces(self.longest)
        return {
            "family": str(self._family.config["model_type"]),
            **({"vision tower": f"config {digest((tower / 'config.json').read_bytes())}"} if tower else {}),
            "prompt tokens": digest(repr(pieces[0] if len(pieces) == 1 else pieces).encode()),
            "stop ids": str(sorted(self.stop_ids)),
            "short side": str(self.short_side or "as decoded"),
        }

    def image_fingerprint(self) -> Mapping[str, str]:
        image = first_frame(self.longest)
        return {
            "image preprocessing": str(self.image_transform or self.frame_transform),
            "image prompt tokens": digest(repr(self._pieces(image)).encode()),
        }

    def _pieces(self, clip: Clip) -> list[list[list[int]]]:
        """The token ids of the prompts about a clip, by name of column: captions do not depend on the order of asks."""
        questions = sorted(zip(self.asks.columns, self.asks.texts, strict=True))
        return [self.prompts.pieces(clip, question) for _, question in questions]

    def _own_lines(self) -> list[str]:
        scaled = f", scaled down to a shorter side of {self.short_side}" if self.short_side else ""
        lines = [
            f"checkpoint {self.folder}, frames: {self.sampling}{scaled}"
            + (f" ({self._frames_note})" if self._frames_note else ""),
            *self._lines_of_prompts(),
            f"stop tokens: {', '.join(map(self.tokenizer.token, sorted(self.stop_ids)))}",
        ]
        if self._options.tower_folder is not None:
            lines.append(f"vision tower: {self._options.tower_folder}, where the checkpoint has no weights of its own")
        if self.weights.lora_alpha is not None:
            lines.append(f"LoRA merged into {self.weights.lora_weights} weights, alpha {self.weights.lora_alpha:g}")
        return lines

    def _text_template(self, system: str, name: str) -> TextTemplate:
        why, prompt = self._family.no_text_questions, self._prompt.family_prompt
        if why or prompt is None:
            family, reason = self._family.config["model_type"], f": {why}" if why else ""
            raise UsageError(
                f"{self.folder}: the family {family} cannot answer questions about text{reason}; "
                "use a checkpoint of another family, for example qwen2_5_vl or pllava"
            )

        def text(question: str) -> str:
            return prompt.text_alone(question, system).text

        source = prompt.text_alone("?", system, name).source
        return TextTemplate(text, source, [*FAMILY_PROMPTS[prompt.family].placeholders.values()])

    def _limit(self) -> LengthLimit:
        return LengthLimit.from_settings(text_settings(self._family.config))

    def check_dtype(self, dtype_name: str) -> None:
        problem = self._family.dtype_problem(dtype_name)
        if problem:
            raise UsageError(f"{self.folder}: {problem}")

    def _captioner(self, model: Any, backend: Backend) -> HubCaptioner:
        from .captioner import HubCaptioner

        largest = largest_clip(self._family, self._prompt, self.generation, self.longest, self.short_side)
        settings = HubSettings(
            self._family,
            self._prompt,
            self.generation,
            self.stop_ids,
            largest,
            self.text_prompts_of_request,
        )
        return HubCaptioner(settings, model, backend)

    def _empty_model(self) -> Any:
        from ...generation.attention import set_attention
        from ..loading import meta_model

        model_class = self._family.model_class()
        try:
            config = model_class.config_class.from_dict(dict(self._family.config))
            self._family.adapt(config)
            set_attention(config)
            return meta_model(model_class, config)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Entries that only transformers reads are checked here.
            raise UsageError(
                f"{self.folder / 'config.json'}: transformers can't build {model_class.__name__} from it: "
                f"{error!r}; compare it with the config.json of the published checkpoint"
            ) from error


def source_from_flags(
    family: HubFamily,
    make_prompt: Callable[[Clip], HubPrompt],
    flags: argparse.Namespace,
    sampling: FrameSampling,
    generation: GenerationOptions,
    tower_folder: Path | None = None,
) -> HubSource:
    """The source of a family's checkpoint, with the frames that fit if no flag gives their number.

    make_prompt: makes the prompts of a run from the longest clip.

    Raises:
        UsageError: see HubSource.
    """
    frames = frames_of(family, sampling, flags.short_side or 0)
    prompt = make_prompt(frames.longest)
    if flags.num_frames is None and flags.max_frames is None:
        frames = frames_that_fit(family, prompt, generation, frames)
    folder = flags.pretrained_model_name_or_path
    options = HubOptions(folder, flags.weight_dir, flags.use_lora, flags.lora_alpha, tower_folder)
    return HubSource(family, options, prompt, generation, frames)
