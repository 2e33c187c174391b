"""Emulates an NPU on MindSpore's CPU: tensors have the device `npu:0`, and mixing devices in an operator is an error.

mindnlp dispatches operators by name, with one table for each kind of device. Here the table for NPUs has the names of
the real table and the kernels of the CPU. An operator that the real table lacks, whose kernels MindSpore lacks, or
that does not take the given arguments, is an error too. The emulation does not test an NPU's kernels, their types and
their speed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend


class MixedDevicesError(Exception):
    """An operator was given tensors of several devices."""


@contextlib.contextmanager
def emulated_npu(dtype_name: str = "float32") -> Iterator[Backend]:
    """A backend on the emulated NPU, with the default kernels, as on Ascend. The framework must have been activated."""
    import mindtorch
    from mindtorch import dispatcher, npu

    from pipeline.captioning.backends import kernels
    from tests.golden import KERNELS, default_kernels

    with pytest.MonkeyPatch.context() as patch:
        for name in (*KERNELS, "fused_types"):
            patch.setattr(kernels, name, getattr(default_kernels(), name))
        patch.setitem(dispatcher.api_map, "npu", _Table())
        patch.setattr(dispatcher.Dispatcher, "dispatch", _checked(dispatcher.Dispatcher.dispatch, has_name=True))
        tensor = mindtorch.Tensor
        # mindnlp itself does not check these: it changes the device of values, and accepts indices on any device.
        patch.setattr(tensor, "__getitem__", _checked(tensor.__getitem__, "getitem"))
        patch.setattr(tensor, "__setitem__", _checked(_as_on_cpu(tensor.__setitem__), "setitem"))
        patch.setattr(tensor, "_move_to", _moving(tensor._move_to))
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
            patch.setattr(npu, name, lambda: None)
        patch.setattr(npu, "mem_get_info", lambda: (2**34, 2**35))
        for name in ("memory_allocated", "max_memory_allocated"):
            patch.setattr(npu, name, lambda: 2**20)
        yield Backend("mindspore", "npu:0", dtype_name)


class MissingOnNpuError(Exception):
    """mindnlp has no operator for NPUs that could run the call."""


@functools.cache
def missing_on_npu(name: str) -> str:
    """What mindnlp lacks to run an operator on an NPU; empty if it lacks nothing."""
    from mindtorch._apis import npu

    operator = getattr(npu, name, None)
    if not inspect.isfunction(operator):
        return f"no operator {name}"
    source = inspect.getsource(operator)
    # mindnlp runs pyboost kernels by default, and legacy kernels if there is no pyboost kernel.
    for table in ("pyboost", "legacy"):
        kernels = re.findall(rf"\b{table}\.(\w+)", source)
        absent = [kernel for kernel in kernels if not hasattr(getattr(npu, table), kernel)]
        if absent:
            return f"{name} has no {table} kernel {absent[0]}"
        if kernels:
            return ""
    return ""


class _Table:
    """The operators in mindnlp's table for NPUs, computed by those for CPUs."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from mindtorch._apis import cpu, npu

        missing = missing_on_npu(name)
        if missing:
            raise MissingOnNpuError(missing)
        signature = inspect.signature(getattr(npu, name))
        replaced = {"index": _index, "index_select": _index_select}
        operator: Callable[..., Any] = replaced.get(name) or getattr(cpu, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise MissingOnNpuError(f"{name}: {error}") from error
            return operator(*args, **kwargs)

        return run


def _index(input: Any, indices: list[Any]) -> Any:
    import mindtorch

    index = tuple(slice(None) if _is_placeholder(tensor) else tensor.asnumpy() for tensor in indices)
    return mindtorch.from_numpy(np.ascontiguousarray(input.asnumpy()[index]))


def _index_select(input: Any, dim: int, index: Any) -> Any:
    import mindtorch

    return mindtorch.from_numpy(np.take(input.asnumpy(), index.asnumpy(), dim))


def _as_on_cpu(original: Callable[..., None]) -> Callable[..., None]:
    """`__setitem__` as on the CPU. The variant for NPUs writes to a view, which the CPU's kernels do not support."""
    import mindtorch

    def write(self: Any, index: Any, value: Any) -> None:
        tensors = list(_tensors([self, index, value]))
        devices = [tensor.device for tensor in tensors]
        for tensor in tensors:
            tensor._device = mindtorch.device("cpu")
        try:
            original(self, index, value)
        finally:
            for tensor, device in zip(tensors, devices, strict=True):
                tensor._device = device

    return write


def _is_placeholder(tensor: Any) -> bool:
    """Whether `tensor` is a constant of mindnlp that stands for a dimension without an index."""
    from mindtorch.ops import array

    return any(tensor is constant for constant in (array.empty_tensor_9d, array.empty_tensor_1d, array.tensor_1d))


def _checked(original: Callable[..., Any], name: str = "", has_name: bool = False) -> Callable[..., Any]:
    """`original`, with an error if its arguments contain tensors of several devices.

    has_name: the argument after `self` is the operator's name.
    """

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = list(_tensors([args[1:], kwargs] if has_name else [self, args, kwargs]))
        if len({str(tensor.device) for tensor in tensors}) > 1:
            found = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
            raise MixedDevicesError(f"{args[0] if has_name else name}: {found}")
        return original(self, *args, **kwargs)

    return checked


def _tensors(value: Any) -> Iterator[Any]:
    import mindtorch

    if isinstance(value, mindtorch.Tensor):
        if not _is_placeholder(value):
            yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, slice):
        yield from _tensors([value.start, value.stop, value.step])


def _moving(original: Callable[..., Any]) -> Callable[..., Any]:
    import mindtorch

    def move_to(self: Any, device: Any, non_blocking: bool = False) -> Any:
        if device.type != "npu" or self.device == device:
            return original(self, device, non_blocking)
        moved = mindtorch.Tensor(self.asnumpy().copy())
        moved._device = device
        return moved

    return move_to
