"""Starts PyTorch: on CUDA GPUs, on Ascend NPUs through torch_npu (not tested on hardware), or on the CPU."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ..process.errors import UsageError
from .host_memory import reuse_freed_memory

if TYPE_CHECKING:
    from . import Backend, Choice

_FIXES = {
    "cuda": "check the driver and CUDA_VISIBLE_DEVICES",
    "npu": "check the driver and ASCEND_RT_VISIBLE_DEVICES",
}


def activate(choice: Choice, dtype: str | None) -> Backend:
    """Import PyTorch and select the device.

    dtype: one of DTYPES, or None for the default of the device.

    Raises:
        UsageError: PyTorch sees no such device, or fewer devices than there are workers on this host.
    """
    from . import Backend

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    device = "cpu"
    if choice.device == "cpu":
        reuse_freed_memory()
    else:
        module = _device_module(choice.device)
        _check_count(choice, module)
        module.set_device(choice.index)
        device = f"{choice.device}:{choice.index}"
        dtype = dtype or _accelerator_dtype(choice.device, module)
        if dtype == "float32":
            _multiply_in_float32(choice.device, module)
    return Backend(
        framework="torch",
        device=device,
        dtype_name=dtype or "float32",
        workers=choice.workers,
    )


def _device_module(device: str) -> Any:
    """`torch.cuda` or `torch.npu`, which have the same functions."""
    import torch

    if device == "npu":
        importlib.import_module("torch_npu")  # defines torch.npu
    return getattr(torch, device)


def _check_count(choice: Choice, module: Any) -> None:
    seen = int(module.device_count()) if module.is_available() else 0
    if not seen:
        raise UsageError(
            f"--device {choice.device}: PyTorch sees no {choice.device.upper()} device; {_FIXES[choice.device]}, "
            "or give --device cpu"
        )
    if choice.local_workers > seen:
        raise UsageError(
            f"{choice.local_workers} workers on this host need a {choice.device} device each, but PyTorch sees {seen}; "
            f"start {seen} workers (--nproc_per_node), or {_FIXES[choice.device]}"
        )


def _accelerator_dtype(device: str, module: Any) -> str:
    emulated = {} if device == "npu" else {"including_emulation": False}
    has_bfloat16 = module.is_bf16_supported(**emulated)
    return "bfloat16" if has_bfloat16 else "float16"


def _multiply_in_float32(device: str, module: Any) -> None:
    """Keep all 23 mantissa bits of float32 in products. By default convolutions use TF32 on CUDA, with 10 bits, and
    HF32 on NPUs."""
    import torch

    if device == "npu":
        module.matmul.allow_hf32 = False
        module.conv.allow_hf32 = False
    else:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
