"""A checkpoint in the layout of transformers, checked before the framework is imported.

Knows nothing about families but what `HubFamily` provides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...process.errors import UsageError
from ..base import CaptionerSource
from ..checkpoint_config import describe_penalties, with_checkpoint_defaults
from ..tokenizer import CheckpointTokenizer
from ..weights import CheckpointWeights, WeightNames
from .family import HubFamily
from .prompts import ClipPrompts
from .settings import HubSettings

if TYPE_CHECKING:
    from .captioner import HubCaptioner


@dataclass(frozen=True)
class HubOptions:
    """The user's choices about the model.

    weight_folder: folder with LoRA or trained weights that replace those of the checkpoint (`--weight_dir`).
    use_lora: whether LoRA weights are required.
    """

    checkpoint: Path
    weight_folder: Path | None = None
    use_lora: bool = False
    lora_alpha: float | None = None


@dataclass(frozen=True)
class HubPrompt:
    """How the prompts of a run are made.

    prompts: the tokenized prompts. description: which template makes them, for the log and the fingerprint.
    counts_prompt: whether tokens of the prompt count for the repetition penalty.
    """

    prompts: ClipPrompts
    description: str
    counts_prompt: bool


class HubSource(CaptionerSource):
    """A checked checkpoint. Only `check_weights` and `load` import the framework.

    typical: a clip without content whose prompt is as long as that of an average clip.

    Raises:
        UsageError: the checkpoint is incomplete, or an option does not fit it.
    """

    def __init__(
        self,
        family: HubFamily,
        options: HubOptions,
        prompt: HubPrompt,
        tokenizer: CheckpointTokenizer,
        stop_ids: frozenset[int],
        names: WeightNames,
        generation: GenerationOptions,
        sampling: FrameSampling,
        short_side: int,
        typical: Clip,
        max_positions: int,
    ) -> None:
        self._family, self._options, self._prompt, self._tokenizer = family, options, prompt, tokenizer
        self._stop_ids, self._typical = stop_ids, typical
        self._given_generation = generation
        self.generation = with_checkpoint_defaults(generation, options.checkpoint)
        self.frame_transform = family.frame_transform
        self.sampling, self.short_side = sampling, short_side
        self._check_length(max_positions)
        self.weights = CheckpointWeights(
            options.checkpoint, names, options.weight_folder, options.lora_alpha, options.use_lora
        )

    def _check_length(self, max_positions: int) -> None:
        text = sum(map(len, self._prompt.prompts.pieces(self._typical)))
        visual = sum(self._family.prompt_lengths(self._typical))
        length = text + visual + self.generation.max_new_tokens
        if length > max_positions:
            raise UsageError(
                f"{text} text tokens, {visual} visual tokens and --max_new_tokens {self.generation.max_new_tokens} "
                f"make {length}; the model supports {max_positions}: use fewer frames or a smaller --max_new_tokens"
            )

    def fingerprint(self) -> Mapping[str, str]:
        config = (self._options.checkpoint / "config.json").read_bytes()
        return {
            "checkpoint": f"config {_digest(config)} weights {self.weights.digest()}",
            "tokenizer": _digest(self._tokenizer.file.read_bytes()),
            "lora alpha": str(self.weights.lora_alpha),
            "prompt": self._prompt.description,
            "stop ids": str(sorted(self._stop_ids)),
            "frames": str(self.sampling),  # the gallery reads it
            "short side": str(self.short_side or "as decoded"),
            "preprocessing": str(self.frame_transform),
            "generation": self.generation.fingerprint(),
        }

    def describe(self) -> list[str]:
        scaled = f", scaled down to a shorter side of {self.short_side}" if self.short_side else ""
        lines = [
            f"checkpoint {self._options.checkpoint}, frames: {self.sampling}{scaled}",
            f"prompt: {self._prompt.description}",
        ]
        if self.weights.lora_alpha is not None:
            lines.append(f"LoRA merged into {self.weights.lora_weights} weights, alpha {self.weights.lora_alpha:g}")
        return lines + describe_penalties(self._given_generation, self.generation)

    def check_weights(self) -> None:
        from ..loading import check_weights

        check_weights(self._empty_model(), self.weights)

    def load(self, backend: Backend) -> HubCaptioner:
        """Load the model onto the backend's device.

        Raises:
            UsageError: as `check_weights`.
            RunError: a weight is not finite, or overflows in the backend's type.
        """
        from ..loading import load_weights
        from .captioner import HubCaptioner

        model = load_weights(self._empty_model(), self.weights, backend.device, backend.dtype)
        settings = HubSettings(
            self._family,
            self._prompt.prompts,
            self._tokenizer,
            self.generation,
            self._stop_ids,
            self._typical,
            self._prompt.counts_prompt,
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
                f"{self._options.checkpoint / 'config.json'}: transformers can't build {model_class.__name__} from it: "
                f"{error!r}; compare it with the config.json of the published checkpoint"
            ) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
