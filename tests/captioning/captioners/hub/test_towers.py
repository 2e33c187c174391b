"""Pooling without the operators of 2D pooling, and towers that end at the layer that is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.captioning.backends import Backend

pytestmark = pytest.mark.model

_FRAMES, _WIDTH = 3, 5


def _features(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((_FRAMES, size * size, _WIDTH), np.float32)


@pytest.mark.parametrize(("size", "window"), [(27, 2), (24, 2), (7, 3), (4, 4)])
def test_pool_windows(size: int, window: int, backend: Backend) -> None:
    import torch

    from pipeline.captioning.captioners.hub.towers import pool_windows

    features, count = _features(size), size // window
    grid = features.reshape(_FRAMES, size, size, _WIDTH)
    for mode, reduce in (("average", np.mean), ("max", np.max)):
        expected = [
            [reduce(grid[:, i * window :][:, :window, j * window :][:, :, :window], (1, 2)) for j in range(count)]
            for i in range(count)
        ]
        pooled = pool_windows(torch.from_numpy(features), size, window, mode).numpy()
        expected_array = np.array(expected).reshape(count**2, _FRAMES, _WIDTH).transpose(1, 0, 2)
        np.testing.assert_allclose(pooled, expected_array, atol=1e-6, err_msg=mode)


@pytest.mark.parametrize("size", [27, 24, 7])
def test_pool_bilinear(size: int, backend: Backend) -> None:
    import torch

    from pipeline.captioning.captioners.hub.towers import pool_bilinear

    features, count = _features(size), -(-size // 2)
    # Without aligned corners, output i is at (i + 0.5) * size / count - 0.5.
    places = (np.arange(count) + 0.5) * size / count - 0.5
    expected = features.reshape(_FRAMES, size, size, _WIDTH)
    for axis in (1, 2):
        expected = np.apply_along_axis(lambda line: np.interp(places, np.arange(size), line), axis, expected)
    pooled = pool_bilinear(torch.from_numpy(features), size).numpy()
    np.testing.assert_allclose(pooled, expected.reshape(_FRAMES, count**2, _WIDTH), atol=1e-6)


@pytest.mark.parametrize(("layer", "kept"), [(-1, 24), (-2, 23), (-4, 21), (0, 0), (11, 11), (24, 24)])
def test_keep_layers(layer: int, kept: int, backend: Backend) -> None:
    from pipeline.captioning.captioners.hub.towers import keep_layers

    config = SimpleNamespace(num_hidden_layers=24)
    keep_layers(config, layer)
    assert config.num_hidden_layers == kept == len(range(25)[: layer if layer >= 0 else 25 + layer])
