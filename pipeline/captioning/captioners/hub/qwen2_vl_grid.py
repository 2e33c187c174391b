"""Windows and rotary tables for a grid of patches in the vision towers of Qwen2-VL and Qwen2.5-VL.

Framework-free: computed once for each size of frame, and the same for every unit of that size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

_THETA = 10000.0
"""Base of the rotary frequencies of both towers; not in the config."""


@dataclass(frozen=True)
class GridPlan:
    """How a tower processes a grid.

    order: the visual token at each place of the tower's sequence, int64 (tokens,). The tokens of a window are
        neighbours, and so are windows of the same size. None: row by row.
    inverse: the place of each visual token, (tokens,).
    windows: see `kernels.window_attention`, of the layers with window attention.
    cosine, sine: see `kernels.window_attention`. The first half of `sine` is negated.
    """

    order: np.ndarray | None
    inverse: np.ndarray | None
    windows: tuple[tuple[int, int], ...]
    cosine: np.ndarray
    sine: np.ndarray


@functools.lru_cache(maxsize=64)
def grid_plan(rows: int, columns: int, merge: int, window: int | None, head_width: int) -> GridPlan:
    """The plan of a grid.

    rows, columns: of visual tokens; each is merge x merge patches.
    window: side of a window in visual tokens; windows at the right and lower edge may be smaller. None: no windows.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    windows: tuple[tuple[int, int], ...] = ((1, rows * columns * merge**2),)
    order = inverse = None
    if window is not None and max(rows, columns) > window:
        window_of = row // window * -(-columns // window) + column // window
        sizes = np.bincount(window_of)
        order = np.lexsort((window_of, -sizes[window_of]))
        inverse = np.argsort(order)
        row, column = row[order], column[order]
        each_size, counts = np.unique(sizes, return_counts=True)
        windows = tuple(
            (int(count), int(size) * merge**2) for size, count in zip(each_size[::-1], counts[::-1], strict=True)
        )
    cosine, sine = _rotary(row, column, merge, head_width)
    return GridPlan(order, inverse, windows, cosine, sine)


def _rotary(row: np.ndarray, column: np.ndarray, merge: int, head_width: int) -> tuple[np.ndarray, np.ndarray]:
    """One half of the frequencies turns with the row of a patch, the other half with its column."""
    inner_row, inner_column = np.divmod(np.arange(merge**2), merge)
    positions = np.stack([row[:, None] * merge + inner_row, column[:, None] * merge + inner_column], -1).reshape(-1, 2)
    width = head_width // 2
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies = np.float32(1) / np.float32(_THETA) ** exponents
    angles = (positions[:, :, None].astype(np.float32) * frequencies).reshape(len(positions), -1)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([cosine, cosine], 1), np.concatenate([-sine, sine], 1)
