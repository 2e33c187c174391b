"""The text part of a model: decoder and head. Knows nothing about model families, caches and requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class TextModel:
    """A causal text model in two parts, so that the head computes only the positions that are needed.

    decoder: maps token ids or embeddings to hidden states, with the attention function of `attention`.
    head: maps hidden states to logits.
    config: configuration of the text model.
    """

    decoder: torch.nn.Module
    head: torch.nn.Module
    config: PretrainedConfig

    @classmethod
    def of(cls, model: PreTrainedModel) -> TextModel:
        """The text model of a transformers model: a causal model, or a model for images and text."""
        return cls(model.get_decoder(), model.get_output_embeddings(), model.config.get_text_config())

    @property
    def max_positions(self) -> int:
        """Longest sequence, in tokens, whose result is correct.

        The engine's attention does not implement sliding windows. Up to the length of one window the result is the
        same, so a window limits the sequence.
        """
        longest = int(self.config.max_position_embeddings)
        window: int | None = getattr(self.config, "sliding_window", None)
        layers = getattr(self.config, "layer_types", None)
        if window is None or (layers is not None and "sliding_attention" not in layers):
            return longest
        return min(longest, window)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.head.weight.shape[0])
