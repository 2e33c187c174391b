"""Builds the model and streams a checkpoint's weights into it, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...errors import RunError
from .checkpoint import CheckpointWeights
from .configuration import PllavaConfig
from .modeling import PllavaForConditionalGeneration

_LARGEST_FLOAT16 = 65504.0


def load_model(
    config: PllavaConfig, weights: CheckpointWeights, device: str, dtype: torch.dtype
) -> PllavaForConditionalGeneration:
    """The model in inference mode on `device`, its weights rounded once, from their stored type to `dtype`.

    The model is made without memory of its own; host memory holds one weight at a time.

    Raises:
        RunError: a weight is not finite, or overflows in `dtype`.
    """

    def stored(name: str, _: torch.Size) -> torch.Tensor:
        value = weights.read(name)
        _check_range(name, value, dtype)
        return torch.from_numpy(value).to(device=device, dtype=dtype)

    return assemble_model(config, device, stored)


def assemble_model(
    config: PllavaConfig, device: str, weight: Callable[[str, torch.Size], torch.Tensor]
) -> PllavaForConditionalGeneration:
    """The model in inference mode with a weight for each name and shape, on `device` already."""
    with torch.device("meta"):
        model = PllavaForConditionalGeneration(config)
    for name, unset in list(model.named_parameters()):
        if ".post_layernorm." not in name:
            _set(model, name, torch.nn.Parameter(weight(name, unset.shape), requires_grad=False))
    model.vision_tower.vision_model.post_layernorm = torch.nn.Identity()  # after the layer that is read
    if config.text["tie_word_embeddings"]:
        model.language_model.lm_head.weight = model.language_model.get_input_embeddings().weight
    _make_buffers(model, device)
    return model.eval()


def _check_range(name: str, value: np.ndarray, dtype: torch.dtype) -> None:
    largest = float(np.abs(value).max(initial=0.0))
    if not np.isfinite(largest):
        raise RunError(f"weight {name} holds values that are not finite; the checkpoint is damaged")
    if dtype == torch.float16 and largest > _LARGEST_FLOAT16:
        raise RunError(f"weight {name} reaches {largest:g}, beyond float16; give --dtype float32 or bfloat16")


def _set(model: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, parameter)


def _make_buffers(model: PllavaForConditionalGeneration, device: str) -> None:
    """The buffers that no checkpoint holds: computed from the config, in float32."""
    embeddings = model.vision_tower.vision_model.embeddings
    positions = embeddings.position_embedding.weight.shape[0]
    embeddings.position_ids = torch.arange(positions, device=device).reshape(1, -1)
    rotary = model.language_model.model.rotary_emb
    model.language_model.model.rotary_emb = type(rotary)(config=rotary.config).to(device)
