"""The part of a model that reads prompts and writes answers; knows no family, no cache and no request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class TextModel:
    """A causal text model in two parts, so that only chosen positions go through the head.

    decoder: from token ids or embeddings to hidden states, with the attention of `attention`.
    head: from hidden states to logits.
    config: of the text model.
    """

    decoder: torch.nn.Module
    head: torch.nn.Module
    config: PretrainedConfig

    @classmethod
    def of(cls, model: PreTrainedModel) -> TextModel:
        """The text model of a causal model, or within a model of images and text, of transformers."""
        return cls(model.get_decoder(), model.get_output_embeddings(), model.config.get_text_config())

    @property
    def max_positions(self) -> int:
        """Longest sequence that is computed as the model was made, in tokens.

        Attention without masks knows no sliding window; within one window there is no difference.
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
