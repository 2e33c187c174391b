"""The text part of a model: decoder and head. Knows nothing about model families, caches and requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .length_limit import LengthLimit


@dataclass(frozen=True)
class TextModel:
    """A text model in two parts, so that the head computes only the positions that are needed.

    decoder: maps token ids or embeddings to hidden states. `SlotEngine` runs causal decoders with the attention
        function of `attention`; only `BatchEngine` runs others.
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
    def limit(self) -> LengthLimit:
        """Longest sequence whose result is correct."""
        return LengthLimit.of(self.config)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.head.weight.shape[0])
