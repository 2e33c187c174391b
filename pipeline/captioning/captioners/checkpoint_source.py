"""A checked checkpoint: what the sources of all families share. Only `check_weights` and `load` import the framework.

Knows nothing about templates, frames and the layout of a checkpoint.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..backends import Backend
from ..generation.length_limit import LengthLimit
from ..generation.options import GenerationOptions
from ..process.errors import UsageError
from .base import Captioner, CaptionerSource
from .checkpoint_config import describe_penalties, with_checkpoint_defaults
from .clip_prompts import ClipPrompts
from .text_prompts import TextPrompts, TextTemplate
from .tokenizer import CheckpointTokenizer
from .weights import CheckpointWeights

if TYPE_CHECKING:
    import torch

Loaded = TypeVar("Loaded", bound=Captioner)
_MOST_SYSTEMS = 16
"""Requests of a server may have system prompts of their own, so only these many are kept."""


class CheckpointSource(CaptionerSource, Generic[Loaded]):
    """A checked checkpoint.

    A subclass sets `weights`, `stop_ids` (token ids that end an answer), and the attributes of `CaptionerSource`.

    folder: of the checkpoint.
    prompts: of the run. tokenizer: of the checkpoint.
    generation: the user's options; values of None are read from the checkpoint's generation_config.json.

    Raises:
        UsageError: the penalties in generation_config.json are not usable.
    """

    weights: CheckpointWeights
    stop_ids: frozenset[int]

    def __init__(
        self, folder: Path, prompts: ClipPrompts, tokenizer: CheckpointTokenizer, generation: GenerationOptions
    ) -> None:
        self.folder, self.prompts, self.tokenizer, self.asks = folder, prompts, tokenizer, prompts.asks
        self.generation = with_checkpoint_defaults(generation, folder)
        self._given_generation = generation
        self._text_prompts: dict[str, TextPrompts] = {}
        self._systems_of_flags: set[str] = set()

    def fingerprint(self) -> Mapping[str, str]:
        return {
            **self._model_fingerprint(),
            **dict(zip(self._prompt_entries(), self._prompt_texts(), strict=True)),
            "frames": str(self.sampling),  # the gallery reads it
            "preprocessing": str(self.frame_transform),
            "generation": self.generation.fingerprint(),
            **self._own_fingerprint(),
        }

    def _model_fingerprint(self) -> dict[str, str]:
        """The entries about the text model and its tokenizer."""
        config = (self.folder / "config.json").read_bytes()
        return {
            "checkpoint": f"config {digest(config)} weights {self.weights.digest()}",
            "tokenizer": digest(self.tokenizer.file.read_bytes()),
            "lora alpha": str(self.weights.lora_alpha),
        }

    def text_prompts(self, system: str = "") -> TextPrompts:
        prompts = self._prompts_of_texts(system, "--system")
        self._systems_of_flags.add(system)
        return prompts

    def text_prompts_of_request(self, system: str) -> TextPrompts:
        """As `text_prompts`, for a system prompt of a request, which may contain no special token.

        Raises:
            UsageError: see `text_prompts`; or the system prompt contains a special token.
        """
        prompts = self._prompts_of_texts(system, "the system prompt")
        token = self.tokenizer.special_token_in(system)
        if token and system not in self._systems_of_flags:
            raise UsageError(f"the system prompt contains {token}, a special token of the model; remove it")
        return prompts

    def _prompts_of_texts(self, system: str, name: str) -> TextPrompts:
        """name: of the system prompt, for messages."""
        if system not in self._text_prompts:
            template, window = self._text_template(system, name), self._limit().tokens
            if window is None:
                raise UsageError(
                    f"{self.folder / 'config.json'} has no max_position_embeddings of the text model, so it is not "
                    "known how much text fits; take the file from the published checkpoint"
                )
            if len(self._text_prompts) >= _MOST_SYSTEMS:
                self._text_prompts.clear()
            self._text_prompts[system] = TextPrompts(
                template,
                self.tokenizer,
                window,
                self.generation,
                self.stop_ids,
                self._model_fingerprint(),
                describe_penalties(self._given_generation, self.generation),
            )
        return self._text_prompts[system]

    def describe(self) -> list[str]:
        return [*self._own_lines(), *describe_penalties(self._given_generation, self.generation)]

    def check_weights(self) -> None:
        from .loading import check_weights

        check_weights(self._empty_model(), self.weights)

    def load(self, backend: Backend) -> Loaded:
        """Load the model onto the backend's device.

        Raises:
            UsageError: as `check_weights`; or the model can't compute in the backend's type.
            RunError: a weight is not finite, or overflows in the backend's type.
        """
        from .loading import load_weights

        model = load_weights(self._empty_model(), self.weights, backend.device, backend.dtype)
        return self._captioner(model, backend)

    def _lines_of_prompts(self) -> list[str]:
        """The prompt of each question, for the log."""
        texts = self._prompt_texts()
        if len(texts) == 1:
            return [f"prompt: {texts[0]}"]
        return [f"prompt of {column}: {text}" for column, text in zip(self.asks.columns, texts, strict=True)]

    @abstractmethod
    def _prompt_texts(self) -> Sequence[str]:
        """The prompt of each question as text."""

    @abstractmethod
    def _text_template(self, system: str, name: str) -> TextTemplate:
        """The template of prompts without a clip.

        system: the system prompt; empty for that of the template. name: its name, for messages.

        Raises:
            UsageError: the family can't answer questions about text, or the system prompt is not usable.
        """

    @abstractmethod
    def _limit(self) -> LengthLimit:
        """The longest sequence of the text model."""

    @abstractmethod
    def _own_fingerprint(self) -> Mapping[str, str]:
        """Entries of the fingerprint that only this kind of source has."""

    @abstractmethod
    def _own_lines(self) -> list[str]:
        """Lines for the log, without those about penalties."""

    @abstractmethod
    def _empty_model(self) -> torch.nn.Module:
        """The model on the meta device, see `loading.meta_model`."""

    @abstractmethod
    def _captioner(self, model: Any, backend: Backend) -> Loaded:
        """The captioner with a loaded model."""


def digest(data: bytes) -> str:
    """The beginning of the SHA-256 digest."""
    return hashlib.sha256(data).hexdigest()[:16]
