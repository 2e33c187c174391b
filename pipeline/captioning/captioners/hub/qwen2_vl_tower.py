"""Runs the vision towers of Qwen2-VL and Qwen2.5-VL on units of one size. Needs the framework.

The modules are those of transformers. Its own `forward` joins all units to one sequence and makes one attention call
for each unit or window. Here units are a batch, and windows of the same size share a call. What follows from the size
of a frame alone is computed on the host (`qwen2_vl_grid`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from ...backends import kernels
from .qwen2_vl_grid import GridPlan


def normalised_rows(rows: torch.Tensor, scale: float, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    """(rows * scale - mean) / std in float32.

    rows: uint8 (…, values of a patch). mean, std: float32, of each value.
    """
    shift, divisor = (torch.from_numpy(values).to(rows.device) for values in (mean, std))
    return (rows.to(torch.float32) * scale - shift) / divisor


def tower_features(
    tower: torch.nn.Module, rows: torch.Tensor, plan: GridPlan, full_layers: Collection[int]
) -> torch.Tensor:
    """Visual tokens of each unit, row by row, (units, tokens, width of the text model).

    tower: `model.visual` of transformers' model.
    rows: normalised patches, (units, patches, values of a patch); the patches of a visual token are neighbours.
    full_layers: the layers whose patches attend to the whole unit.
    """
    model: Any = tower
    weight = model.patch_embed.proj.weight
    # A convolution whose stride is the size of its kernel is a linear layer.
    hidden = torch.nn.functional.linear(rows.to(weight.dtype), weight.reshape(weight.shape[0], -1))
    units, patches, width = hidden.shape
    if plan.order is not None:
        tokens = hidden.reshape(units, len(plan.order), -1)
        hidden = _selected(tokens, plan.order).reshape(units, patches, width)
    cosine, sine = (torch.from_numpy(table).to(hidden.device) for table in (plan.cosine, plan.sine))
    for layer, block in enumerate(model.blocks):
        windows = ((1, patches),) if layer in full_layers else plan.windows
        attention = block.attn
        states = attention.qkv(block.norm1(hidden)).reshape(units, patches, 3, attention.num_heads, -1)
        mixed = kernels.window_attention(states, cosine, sine, attention.scaling, windows)
        hidden = hidden + attention.proj(mixed)
        hidden = hidden + block.mlp(block.norm2(hidden))
    features = model.merger(hidden).reshape(units, -1, model.merger.mlp[-1].out_features)
    return features if plan.inverse is None else _selected(features, plan.inverse)


def _selected(tokens: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    return torch.index_select(tokens, 1, torch.from_numpy(index).to(tokens.device))
