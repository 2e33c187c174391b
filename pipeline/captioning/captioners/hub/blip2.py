"""BLIP-2: a Q-Former turns a frame into a few visual tokens, and each sampled frame gets a caption of its own.

Source: BLIP-2 (Li et al., 2023, arXiv:2301.12597) as transformers implements it. The text model is OPT (causal) or
Flan-T5 (encoder-decoder; the encoder reads visual tokens and text).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ..images.base import ImageTransform
from ..weights import WeightNames
from .family import HubFamily
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

_T5_BIAS = "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
"""In Flan-T5 checkpoints of older code; transformers computes no bias in the attention to the encoder."""


class Blip2(HubFamily):
    """See `HubFamily`. The model was trained on single images, so a clip has a prompt for each of its frames."""

    prompts_each_block = True
    needs_generate = True
    images_are_frames = True
    no_text_questions = (
        "its text model has learned to continue a text after an image, and knows neither conversations nor instructions"
    )

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        self.config, self.frame_transform = config, frame_transform
        self._vision, self._queries = config["vision_config"], int(config["num_query_tokens"])

    def block_lengths(self, clip: Clip) -> list[int]:
        return [self._queries] * len(_distinct(clip))

    def weight_names(self) -> WeightNames:
        return WeightNames(with_adapters(()), lambda name: name == _T5_BIAS)

    def model_class(self) -> type[Any]:
        from .blip2_model import Blip2WithExactPositions

        return Blip2WithExactPositions

    def text_model(self, model: Any) -> Any:
        """OPT or T5: the `generate` of the whole model expects images."""
        return model.language_model

    def dtype_problem(self, dtype_name: str) -> str:
        # transformers keeps the second product of each MLP in float32; here the whole model has one type.
        if dtype_name == "float16" and self.config["text_config"]["model_type"] == "t5":
            return "the values of its text model, T5, overflow in float16; give --dtype bfloat16 or --dtype float32"
        return ""

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import normalised

        dtype = model.language_projection.weight.dtype
        patches = model.vision_model(normalised(units, self.frame_transform, dtype)).last_hidden_state
        queries = model.query_tokens.expand(len(patches), -1, -1)
        answers = model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
        return model.language_projection(answers.to(dtype))

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features[index] for index in _distinct(clip)]

    def unit_bytes(self, itemsize: int) -> int:
        tokens = (int(self._vision["image_size"]) // int(self._vision["patch_size"])) ** 2 + 1
        widths = 4 * self._vision["hidden_size"] + 2 * self._vision["intermediate_size"]
        return int(tokens * widths * itemsize)


def _distinct(clip: Clip) -> list[int]:
    """The distinct frames among the sampled ones, in time order: a short clip repeats frames."""
    return list(dict.fromkeys(clip.frame_index))
