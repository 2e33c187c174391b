"""The names of weights in checkpoints that the model classes of transformers load.

Older and newer checkpoints of a family have different names. The class of the model has a table of patterns that
translates the older names. Needs transformers; reads no files.
"""

from __future__ import annotations

import re

from transformers import PreTrainedModel

from .weights import WeightNames

_ADAPTER = (("base_model.model.", ""),)  # a PEFT adapter of the whole model
_UNUSED = (
    # Flan-T5 checkpoints converted from older code; transformers computes no bias in cross attention.
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)


def hub_weight_names(model_class: type[PreTrainedModel], unused: str = "", alpha_hint: str = "") -> WeightNames:
    """The names in checkpoints of `model_class`, as `from_pretrained` translates them.

    unused: pattern for the whole names of further weights that are not used, for a family that removes parts of the
        model; the names are the model's.
    alpha_hint: see WeightNames.
    """
    table = [(re.compile(old), new) for old, new in model_class._checkpoint_conversion_mapping.items()]
    patterns = [*_UNUSED, *(getattr(model_class, "_keys_to_ignore_on_load_unexpected", None) or ())]
    ignored = re.compile("|".join(patterns))

    def rename(name: str) -> str:
        for old, new in table:
            if old.search(name):
                return old.sub(new, name)
        return name

    def is_unused(name: str) -> bool:
        return bool(ignored.search(name)) or bool(unused and re.fullmatch(unused, name))

    return WeightNames(_ADAPTER, is_unused, alpha_hint, rename)
