"""The host's arithmetic for tiles, compared with what transformers' models and processors do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.captioners.images.internvl import tile_grid
from pipeline.captioning.captioners.images.tiles import DEFAULT_PINPOINTS, best_resolution, grid_shape, kept_patches

_sides = st.integers(1, 4000)


@given(height=_sides, width=_sides)
@settings(max_examples=1000, deadline=None)
def test_tiles_and_patches_that_remain(height: int, width: int) -> None:
    import torch
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    pinpoints = [list(pair) for pair in DEFAULT_PINPOINTS]
    best = best_resolution(height, width, DEFAULT_PINPOINTS)
    assert best == select_best_resolution((height, width), pinpoints)
    shape = grid_shape(height, width, DEFAULT_PINPOINTS, 336)
    assert shape == get_anyres_image_grid_shape((height, width), pinpoints, 336)
    rows, columns = shape[0] * 24, shape[1] * 24
    numbers = torch.arange(rows * columns).view(1, rows, columns)
    kept_rows, kept_columns = kept_patches(height, width, rows, columns)
    ours = numbers[:, kept_rows.start : kept_rows.stop, kept_columns.start : kept_columns.stop]
    unpadded = unpad_image(numbers, (height, width))
    assert (1, len(kept_rows), len(kept_columns)) == tuple(unpadded.shape)
    assert torch.equal(ours, unpadded)


@given(height=_sides, width=_sides, low=st.integers(1, 6), more=st.integers(0, 58))
@settings(max_examples=500, deadline=None)
def test_grids_of_internvl(height: int, width: int, low: int, more: int) -> None:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    expected = get_optimal_tiled_canvas((height, width), (448, 448), low, low + more)
    assert tile_grid(height, width, (448, 448), low, low + more) == expected


@pytest.mark.parametrize(
    ("width", "height", "tiles", "patches"),
    [
        (1280, 720, (2, 2), (28, 48)),
        (720, 1280, (2, 2), (48, 28)),
        (640, 272, (1, 2), (20, 48)),
        (2000, 500, (1, 3), (18, 72)),
    ],
)
def test_known_shapes(width: int, height: int, tiles: tuple[int, int], patches: tuple[int, int]) -> None:
    shape = grid_shape(height, width, DEFAULT_PINPOINTS, 336)
    kept = kept_patches(height, width, shape[0] * 24, shape[1] * 24)
    assert shape == tiles
    assert tuple(map(len, kept)) == patches
