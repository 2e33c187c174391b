"""The longest sequence that a text model can process, and the message for a longer one. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLAGS = "; the flags are --num_frames, --question, --max_new_tokens and, for a summary, --context_tokens"
"""What a command adds to the message of a problem. Clients of a server know no flags."""
_LONGEST = {"llama": 2048, "opt": 2048, "mistral": 131072, "qwen2": 32768, "qwen2_vl": 32768, "qwen2_5_vl": 32768}
_WINDOW = 4096
_LAYERS = {"qwen2": 32, "qwen2_vl": 80, "qwen2_5_vl": 80}
_WINDOW_LAYERS = {"qwen2": 28, "qwen2_vl": 80, "qwen2_5_vl": 80}
"""Default values of transformers 4.55, which does not write them to config.json, by the type of the text model."""


@dataclass(frozen=True)
class LengthLimit:
    """The longest sequence, prompt and answer together, whose result is correct.

    tokens: length of this sequence; None if the model has no limit (relative positions).
    is_window: whether a sliding window is the limit. The engine's attention does not implement windows. Up to the
        length of one window the result is the same.
    """

    tokens: int | None
    is_window: bool = False

    @classmethod
    def of(cls, config: object) -> LengthLimit:
        """The limit of a text model, from its transformers configuration."""
        longest: int | None = getattr(config, "max_position_embeddings", None)
        layers = getattr(config, "layer_types", None)
        has_window = layers is None or "sliding_attention" in layers
        return cls._smaller(longest, getattr(config, "sliding_window", None) if has_window else None)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> LengthLimit:
        """The limit of a text model, from its entries in `config.json`; the same as `of` for the model's configuration.

        settings: entries of the text model, which are those of the whole file in Qwen2-VL's and Qwen2.5-VL's layout.
        """
        kind = str(settings.get("model_type", "")).removesuffix("_text")
        longest: int | None = settings.get("max_position_embeddings", _LONGEST.get(kind))
        window: int | None = settings.get("sliding_window", _WINDOW if kind in ("mistral", *_LAYERS) else None)
        if kind in _LAYERS and not settings.get("use_sliding_window", False):
            window = None
        types = settings.get("layer_types")
        if types is not None:
            window = window if "sliding_attention" in types else None
        elif kind in _LAYERS:
            layers = settings.get("num_hidden_layers", _LAYERS[kind])
            window = window if settings.get("max_window_layers", _WINDOW_LAYERS[kind]) < layers else None
        return cls._smaller(longest, window)

    @classmethod
    def _smaller(cls, longest: int | None, window: int | None) -> LengthLimit:
        if window is not None and (longest is None or window < longest):
            return cls(int(window), is_window=True)
        return cls(None if longest is None else int(longest))

    def problem(self, prompt_tokens: int, new_tokens: int) -> str | None:
        """The message if prompt and answer are too long together; None if they fit. It names no flags, see FLAGS."""
        length = prompt_tokens + new_tokens
        if self.tokens is None or length <= self.tokens:
            return None
        return (
            f"{prompt_tokens} prompt tokens and {new_tokens} new tokens make {length}; {self}: use fewer or smaller "
            "frames, a shorter question, or fewer new tokens"
        )

    def prompt_problem(self, tokens: int, is_part: bool = False) -> str | None:
        """The message if a prompt leaves no room for an answer of one token; None if it does. It names no flags.

        is_part: whether these are the tokens of a part of the prompt only.
        """
        if self.tokens is None or tokens < self.tokens:
            return None
        number = f"more than {tokens}" if is_part else tokens
        return f"the prompt has {number} tokens; {self}: use fewer or smaller frames, or a shorter question"

    def __str__(self) -> str:
        if self.tokens is None:
            return "the model has no limit"
        if self.is_window:
            return f"the model's sliding window has {self.tokens} tokens; beyond it the result would be wrong"
        return f"the model was made for {self.tokens}"
