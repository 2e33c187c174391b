"""Compares the operators that backends can replace with their formulas, on the framework of this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from tests.golden import default_kernels

pytestmark = pytest.mark.model


def expected_attention(query: Any, key: Any, value: Any, scale: float, mask: np.ndarray) -> np.ndarray:
    """Attention in float64, from the formula. mask: True for visible keys."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (np.repeat(tensor.numpy().astype(np.float64), groups, 1) for tensor in (key, value))
    scores = np.where(mask, query.numpy() @ keys.swapaxes(2, 3) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ values)


def _float_mask(visible: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.where(visible, 0, -1e30).astype(np.float32))


def test_default_operators_and_those_of_this_backend_match_the_formulas(backend: Backend) -> None:
    """MindSpore's CPU backend has its own operators; on PyTorch both are the same."""
    import torch

    from pipeline.captioning.backends import kernels

    rng = np.random.default_rng(0)

    def tensor(*shape: int) -> Any:
        return torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32))

    key, value = tensor(2, 2, 300, 8), tensor(2, 2, 300, 8)
    for module in (kernels, default_kernels()):
        for queries, is_causal in ((300, True), (290, True), (24, True), (2, True), (300, False), (1, False)):
            query = tensor(2, 6, queries, 8)
            output = module.attention(query, key, value, 0.3, is_causal)
            visible = np.tri(queries, 300, 300 - queries, dtype=bool) | (not is_causal)
            np.testing.assert_allclose(output.numpy(), expected_attention(query, key, value, 0.3, visible), atol=1e-5)
        for queries, rows in ((1, 2), (7, 2), (1, 1), (7, 1)):
            query, visible = tensor(2, 6, queries, 8), rng.random((rows, 1, queries, 300)) < 0.5
            mask = module.score_mask(_float_mask(visible), torch.float32)
            output = module.masked_attention(query, key, value, 0.3, mask)
            np.testing.assert_allclose(output.numpy(), expected_attention(query, key, value, 0.3, visible), atol=1e-5)
        for slots in ([0, 1], [1, 0], [1], [0, 0, 1]):
            query, visible = tensor(len(slots), 6, 7, 8), rng.random((len(slots), 1, 7, 290)) < 0.5
            mask = module.score_mask(_float_mask(visible), torch.float32)
            output = module.slots_attention(query, key, value, slots, 0.3, mask)
            keys, values = (torch.stack([cache[slot, :, :290] for slot in slots]) for cache in (key, value))
            np.testing.assert_allclose(output.numpy(), expected_attention(query, keys, values, 0.3, visible), atol=1e-5)
        cache, expected = module.allocate((3, 2, 5, 4), "cpu", torch.float32), np.zeros((3, 2, 5, 4), np.float32)
        block, column = tensor(1, 2, 3, 4), tensor(3, 2, 1, 4)
        module.write(cache, 1, 1, block)
        module.write(cache, 0, 4, column)
        expected[1:2, :, 1:4], expected[:, :, 4:] = block.numpy(), column.numpy()
        np.testing.assert_array_equal(module.read(cache, [2, 1], 0, 5).numpy(), expected[[2, 1]])
        part = module.read(cache, [1], 2, 4)
        np.testing.assert_array_equal(part.numpy(), expected[[1], :, 2:4])
        module.write(cache, 1, 2, tensor(1, 2, 2, 4))
        np.testing.assert_array_equal(part.numpy(), expected[[1], :, 2:4], "`read` did not return a copy")
        copy = module.allocate((1, 2, 4, 4), "cpu", torch.float32)
        module.write(copy, 0, 1, part)  # the result of `read` can be written to another cache
        np.testing.assert_array_equal(copy.numpy()[:, :, 1:3], expected[[1], :, 2:4])


def test_window_attention(backend: Backend) -> None:
    """Each patch sees its window; queries and keys are rotated in pairs of numbers that are half a head apart."""
    import torch

    from pipeline.captioning.backends import kernels

    rng = np.random.default_rng(1)
    heads, width, windows = 2, 6, ((3, 4), (1, 8), (2, 1))
    window_of = np.repeat(np.arange(6), [4, 4, 4, 8, 1, 1])
    patches = len(window_of)
    states = rng.normal(0, 1, (2, patches, 3, heads, width)).astype(np.float32)
    angles = rng.normal(0, 2, (patches, width // 2)).astype(np.float32)
    cosine = np.concatenate([np.cos(angles)] * 2, 1)
    sine = np.concatenate([-np.sin(angles), np.sin(angles)], 1)
    turned = (states[..., : width // 2] + 1j * states[..., width // 2 :]) * np.exp(1j * angles)[:, None, None]
    rotated = np.concatenate([turned.real, turned.imag], -1).astype(np.float32)
    query, key, value = (
        torch.from_numpy(np.ascontiguousarray(part.swapaxes(1, 2)))
        for part in (rotated[:, :, 0], rotated[:, :, 1], states[:, :, 2])
    )
    expected = expected_attention(query, key, value, 0.3, window_of[:, None] == window_of)
    expected = expected.swapaxes(1, 2).reshape(2, patches, heads * width)
    tensors = tuple(torch.from_numpy(array) for array in (states, cosine, sine))
    for module in (kernels, default_kernels()):
        found = module.window_attention(*tensors, 0.3, windows)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        np.testing.assert_array_equal(tensors[0].numpy(), states)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize(("key_heads", "queries"), [(6, 1), (2, 1), (2, 7)])
def test_scores_of_16_bit_types_are_not_rounded(backend: Backend, name: str, key_heads: int, queries: int) -> None:
    """Attention on accelerators and on PyTorch's CPU: the error is not larger than that of rounding the output."""
    if backend.framework == "mindspore":
        pytest.skip("MindSpore's CPU computes in float32; on Ascend mindnlp's kernel runs")
    import torch

    module = default_kernels()
    dtype, rng = getattr(torch, name), np.random.default_rng(0)

    def tensor(*shape: int) -> Any:
        return torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32)).to(dtype)

    # Rounding of scores is visible only if they differ much, so the queries are three times as large.
    query, key, value = tensor(3, 6, queries, 64) * 3, tensor(3, key_heads, 600, 64), tensor(3, key_heads, 600, 64)
    visible = rng.random((3, 1, queries, 600)) < 0.5
    expected = expected_attention(query.float(), key.float(), value.float(), 64**-0.5, visible)
    mask = module.score_mask(_float_mask(visible), dtype)
    for output in (
        module.masked_attention(query, key, value, 64**-0.5, mask),
        module.slots_attention(query, key, value, [0, 1, 2], 64**-0.5, mask),
    ):
        assert np.linalg.norm(output.float().numpy() - expected) < 0.004 * np.linalg.norm(expected)
    order = [2, 0, 1]  # the slots of two rows are adjacent
    output = module.slots_attention(query[order], key, value, order, 64**-0.5, mask[order]).float().numpy()
    assert np.linalg.norm(output - expected[order]) < 0.004 * np.linalg.norm(expected)
    prefilled = module.attention(query, key, value, 64**-0.5, True).float().numpy()
    causal = np.tri(queries, 600, 600 - queries, dtype=bool)
    expected = expected_attention(query.float(), key.float(), value.float(), 64**-0.5, causal)
    assert np.linalg.norm(prefilled - expected) < 0.004 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_row_without_visible_keys_gives_finite_output(backend: Backend, name: str) -> None:
    """Such rows belong to free slots: keys and values from their output are cached, and a mask does not hide NaN."""
    if backend.framework == "mindspore" and name != "float32":
        pytest.skip("MindSpore's CPU computes in float32")
    import torch

    module, dtype = default_kernels(), getattr(torch, name)
    query = torch.full((2, 4, 1, 8), 60.0).to(dtype)
    keys = torch.full((2, 2, 32, 8), -60.0).to(dtype)
    mask = module.score_mask(_float_mask(np.zeros((2, 1, 1, 32), bool)), dtype)
    assert np.isfinite(module.masked_attention(query, keys, keys, 1.0, mask).float().numpy()).all()


def test_the_mask_for_npus_is_bool(backend: Backend) -> None:
    import torch

    class OnNpu:
        """A mask whose device is an NPU."""

        def __init__(self, mask: Any) -> None:
            self.mask, self.device = mask, type("Device", (), {"type": "npu"})()

        def __gt__(self, other: float) -> Any:
            return self.mask > other

    visible = np.array([[[[True, False, True]]]])
    mask: Any = OnNpu(_float_mask(visible))
    assert default_kernels().score_mask(mask, torch.bfloat16).numpy().tolist() == visible.tolist()
    assert default_kernels().score_mask(mask, torch.float32) is mask


def test_slots_attention_in_float16(backend: Backend) -> None:
    """The operator of this backend, which computes in the type of the tensors on MindSpore's CPU."""
    import torch

    from pipeline.captioning.backends import kernels

    rng = np.random.default_rng(2)
    query, keys, values = (
        torch.from_numpy(rng.normal(0, 1, shape).astype(np.float16)) for shape in ((2, 6, 5, 8), *[(4, 2, 40, 8)] * 2)
    )
    visible = np.tri(5, 40, 30, dtype=bool)[None, None].repeat(2, 0)
    mask = kernels.score_mask(_float_mask(visible), torch.float16)
    output = kernels.slots_attention(query, keys, values, [3, 1], 0.3, mask)
    assert output.dtype == torch.float16
    picked = (torch.from_numpy(tensor.numpy()[[3, 1]].astype(np.float32)) for tensor in (keys, values))
    expected = expected_attention(query.float(), *picked, 0.3, visible)
    np.testing.assert_allclose(output.float().numpy(), expected, atol=0.01)
