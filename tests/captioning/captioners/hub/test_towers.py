"""Pooling without the operators of 2D pooling, and towers that end at the layer that is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.images.square import Square

pytestmark = pytest.mark.model

_FRAMES, _WIDTH = 3, 5


def _features(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((_FRAMES, size * size, _WIDTH), np.float32)


@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 1 / 256, 1.0, 0.01])
def test_normalised_values_are_those_of_the_transform(factor: float, backend: Backend) -> None:
    import torch

    from pipeline.captioning.captioners.hub.towers import normalised

    transform = Square(size=(16, 16), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28), rescale_factor=factor)
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    values = normalised(torch.from_numpy(frames), transform, torch.float32).numpy()
    expected = transform.normalized(frames).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-6 if factor == 0.01 else 0)


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
