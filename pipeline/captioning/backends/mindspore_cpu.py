"""Replaces operators on MindSpore's CPU backend, where mindnlp's versions take most of the time.

numpy computes linear layers and attention and writes the KV cache. numpy arrays and MindSpore's CPU tensors share
memory in both directions. The model code does not change, and nothing is replaced on Ascend.
`docs/performance.md` shows the effect of each replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore
import mindtorch
import mindtorch._apis.cpu as cpu_operators
import numpy as np

from . import kernels

_QUERY_BLOCK = 256  # queries in one block of a prefill: the scores of a block stay in the CPU's cache


def install() -> None:
    """Replace the operators for all models of this process, and let MindSpore run operators synchronously.

    MindSpore's asynchronous launch hides the launch time on Ascend. On a CPU it costs several times the time that it
    saves: its threads compete with the operators for the cores.
    """
    mindspore.runtime.launch_blocking()
    cpu_operators.dense = _linear  # mindnlp dispatches operators by name
    kernels.attention = _attention
    kernels.masked_attention = _masked_attention
    kernels.slots_attention = _slots_attention
    kernels.window_attention = _window_attention
    kernels.fused_types = ()
    kernels.allocate = _allocate
    kernels.write = _write
    kernels.read = _read


def _tensor(array: np.ndarray) -> Any:
    return mindtorch.from_numpy(np.ascontiguousarray(array))


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    values = input.asnumpy()
    output = values.reshape(-1, values.shape[-1]) @ weight.asnumpy().T
    if bias is not None:
        output += bias.asnumpy()
    return _tensor(output.reshape(*values.shape[:-1], -1))


def _attention(query: Any, key: Any, value: Any, scale: float, is_causal: bool) -> Any:
    """Like `kernels.attention`, but in blocks of queries; each block reads only the keys that it sees."""
    keys, values = key.asnumpy(), value.asnumpy()
    queries = _grouped(query.asnumpy() * np.float32(scale), keys.shape[1])
    keys, values = keys[:, :, None], values[:, :, None]
    output = np.empty_like(queries)
    count, total = queries.shape[3], keys.shape[3]
    for begin in range(0, count, _QUERY_BLOCK):
        block = queries[..., begin : begin + _QUERY_BLOCK, :]
        size = block.shape[3]
        seen = total - count + begin + size if is_causal else total
        scores = block @ keys[..., :seen, :].swapaxes(-1, -2)
        if is_causal:
            scores[..., seen - size :] += np.triu(np.full((size, size), kernels.MASKED, np.float32), 1)
        output[..., begin : begin + size, :] = _softmax(scores) @ values[..., :seen, :]
    return _tensor(output.reshape(query.shape))


def _masked_attention(query: Any, key: Any, value: Any, scale: float, mask: Any) -> Any:
    return _tensor(_masked(query.asnumpy(), key.asnumpy(), value.asnumpy(), scale, mask.asnumpy()))


def _slots_attention(query: Any, key: Any, value: Any, slots: Sequence[int], scale: float, mask: Any) -> Any:
    queries, keys, values, masks = (tensor.asnumpy() for tensor in (query, key, value, mask))
    columns = masks.shape[-1]
    output = np.empty_like(queries)
    for row, slot in enumerate(slots):
        rows, cached = slice(row, row + 1), (slice(slot, slot + 1), slice(None), slice(columns))
        output[rows] = _masked(queries[rows], keys[cached], values[cached], scale, masks[rows])
    return _tensor(output)


def _masked(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float, mask: np.ndarray) -> np.ndarray:
    slots, heads, tokens, width = queries.shape
    key_heads, columns = keys.shape[1:3]
    grouped = (queries * np.float32(scale)).reshape(slots, key_heads, -1, width)
    scores = grouped @ keys.swapaxes(-1, -2)
    by_token = scores.reshape(slots, key_heads, heads // key_heads, tokens, columns)
    by_token += mask[:, :, None]
    return (_softmax(scores) @ values).reshape(queries.shape)


def _window_attention(states: Any, cosine: Any, sine: Any, scale: float, windows: Sequence[tuple[int, int]]) -> Any:
    values = states.asnumpy()
    batch, patches, _, heads, width = values.shape
    rotating = values[:, :, :2]
    rotated = np.concatenate([rotating[..., width // 2 :], rotating[..., : width // 2]], -1)
    rotated *= sine.asnumpy()[:, None, None]
    rotated += rotating * cosine.asnumpy()[:, None, None]
    output, start = np.empty((batch, patches, heads, width), values.dtype), 0
    for count, size in windows:
        stop = start + count * size
        query, key, value = (
            _tensor(part[:, start:stop].reshape(batch * count, size, heads, width).swapaxes(1, 2))
            for part in (rotated[:, :, 0], rotated[:, :, 1], values[:, :, 2])
        )
        answer = _attention(query, key, value, scale, is_causal=False).asnumpy().swapaxes(1, 2)
        output[:, start:stop] = answer.reshape(batch, stop - start, heads, width)
        start = stop
    return _tensor(output.reshape(batch, patches, heads * width))


def _grouped(queries: np.ndarray, key_heads: int) -> np.ndarray:
    """(batch, heads, tokens, width) to (batch, key heads, heads of each key head, tokens, width)."""
    batch, heads, tokens, width = queries.shape
    return queries.reshape(batch, key_heads, heads // key_heads, tokens, width)


def _softmax(scores: np.ndarray) -> np.ndarray:
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores


def _allocate(shape: tuple[int, ...], device: str, dtype: Any) -> Any:
    # Only memory allocated by numpy is shared in both directions. What numpy writes there is visible immediately only
    # to numpy, so all operators on the cache use numpy.
    return _tensor(np.zeros(shape, mindtorch.dtype2np[dtype]))


def _write(cache: Any, slot: int, column: int, values: Any) -> None:
    slots, _, columns, _ = values.shape
    cache.asnumpy()[slot : slot + slots, :, column : column + columns] = values.asnumpy()


def _read(cache: Any, slots: Sequence[int], start: int, stop: int) -> Any:
    return _tensor(cache.asnumpy()[list(slots), :, start:stop])
