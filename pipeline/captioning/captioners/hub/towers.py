"""Vision towers of transformers, run up to the layer whose output a family reads. Needs the framework.

A tower is built with the layers that are run and no more (`keep_layers`). So its last hidden state is the wanted one,
and the states of other layers are not kept in memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..images.base import ImageTransform
from .family import kept_layers


def keep_layers(vision_config: Any, layer: int) -> None:
    """Let a tower end at the layer whose output is `hidden_states[layer]` of the whole tower."""
    vision_config.num_hidden_layers = kept_layers(int(vision_config.num_hidden_layers), layer)


def tower_features(tower: torch.nn.Module, pixels: torch.Tensor, has_class_token: bool) -> torch.Tensor:
    """Patch features (frames, patches, vision width) of a CLIP or SigLIP tower; its final layer norm is not applied.

    has_class_token: whether the first token is a class token, which is left out.
    """
    model: Any = tower.vision_model
    hidden = model.embeddings(pixels)
    if hasattr(model, "pre_layrnorm"):
        hidden = model.pre_layrnorm(hidden)
    hidden = model.encoder(inputs_embeds=hidden).last_hidden_state
    return hidden[:, 1:] if has_class_token else hidden


def normalised(frames: torch.Tensor, transform: ImageTransform, dtype: torch.dtype) -> torch.Tensor:
    """uint8 frames (…, height, width, 3) as normalised values (…, 3, height, width), computed in float32.

    The values are those of `ImageTransform.normalized`. Instead of multiplying by the factor in float64, this divides
    by its inverse in float32, which gives the same float32 values for 1 / 255, 1 / 127.5 and powers of two.
    """
    device = frames.device
    values = frames.to(torch.float32) / torch.tensor(1 / transform.rescale_factor, dtype=torch.float32, device=device)
    shift, scale = (
        torch.tensor(list(value), dtype=torch.float32, device=device) for value in (transform.mean, transform.std)
    )
    leading = len(values.shape) - 3
    channels_first = (*range(leading), leading + 2, leading, leading + 1)
    return ((values - shift) / scale).permute(channels_first).contiguous().to(dtype)


def pool_bilinear(features: torch.Tensor, size: int) -> torch.Tensor:
    """Halve a square grid of features by bilinear interpolation without aligned corners, rounding up.

    features: (frames, size * size, width). Returns (frames, ceil(size / 2) ** 2, width). Two products with a matrix,
    because not every framework has the operator.
    """
    matrix = bilinear_matrix(size, math.ceil(size / 2))
    both = torch.from_numpy(np.kron(matrix, matrix)).to(device=features.device, dtype=features.dtype)
    return torch.bmm(both.expand(len(features), -1, -1), features)


def pool_windows(features: torch.Tensor, size: int, window: int, mode: str) -> torch.Tensor:
    """Pool a square grid of features in windows of `window` x `window` without overlap.

    Rows and columns at the end that do not fill a window are left out. Not every framework has the operators of 2D
    pooling, so this uses reductions.

    features: (frames, size * size, width). mode: `average` or `max`. Returns (frames, (size // window) ** 2, width).
    """
    frames, _, width = features.shape
    count = size // window
    used = features.reshape(frames, size, size, width)[:, : count * window, : count * window]
    windows = used.reshape(frames, count, window, count, window, width)
    pooled = windows.mean((2, 4)) if mode == "average" else windows.amax((2, 4))
    return pooled.reshape(frames, count * count, width)


def resized_grid(grid: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A grid of features (h, w, width) at another size by bilinear interpolation without aligned corners.

    Returns (rows, columns, width). Two products with a matrix, as in `pool_bilinear`.
    """
    height, width, features = grid.shape
    vertical, horizontal = (
        torch.from_numpy(bilinear_matrix(*sizes)).to(device=grid.device, dtype=grid.dtype)
        for sizes in ((height, rows), (width, columns))
    )
    by_row = (vertical @ grid.reshape(height, -1)).reshape(rows, width, features)
    by_column = horizontal @ by_row.permute(1, 0, 2).reshape(width, -1)
    return by_column.reshape(columns, rows, features).permute(1, 0, 2)


def bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """Matrix (new_size, size) of bilinear interpolation along one axis without aligned corners, float32."""
    matrix = np.zeros((new_size, size), np.float32)
    scale = size / new_size
    for i in range(new_size):
        source = max(0.0, (i + 0.5) * scale - 0.5)
        low = min(int(source), size - 1)
        high = min(low + 1, size - 1)
        share = source - low
        matrix[i, low] += 1 - share
        matrix[i, high] += share
    return matrix
