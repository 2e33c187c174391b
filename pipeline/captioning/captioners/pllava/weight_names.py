"""The names of weights in published PLLaVA checkpoints, and which of these weights are not used.

Layouts: unmerged LoRA (pllava-7b/13b/34b), merged LoRA, llava-v1.6 as the base, the names of newer transformers, and
PEFT adapters of the whole model or of its text model. Reads no files.
"""

from __future__ import annotations

import re

from ..weights import WeightNames
from .configuration import PllavaConfig

_PREFIXES = (
    ("language_model.base_model.model.", "language_model."),  # LoRA of the text model, in a complete checkpoint
    ("base_model.model.language_model.", "language_model."),  # a PEFT adapter of the whole model
    ("base_model.model.", "language_model."),  # a PEFT adapter of the text model
    ("model.language_model.", "language_model.model."),  # transformers since 4.52
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
_UNUSED = re.compile(r"(model\.)?image_newline|.*\.post_layernorm\.(weight|bias)")
_VISION_LAYER = re.compile(r"vision_tower\.vision_model\.encoder\.layers\.(\d+)\.")


def weight_names(config: PllavaConfig) -> WeightNames:
    """The names in checkpoints with this configuration. Vision layers that are not run are unused weights."""

    def is_unused(name: str) -> bool:
        layer = _VISION_LAYER.match(name)
        return bool(_UNUSED.fullmatch(name)) or (layer is not None and int(layer[1]) >= config.vision_layers)

    return WeightNames(_PREFIXES, is_unused, "4 for the public pllava-7b; 4, 14 or 32 are usual")
