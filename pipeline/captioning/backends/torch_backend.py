"""PyTorch: CUDA GPUs, and the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import UsageError
from .host_memory import reuse_freed_memory

if TYPE_CHECKING:
    from . import Backend, Choice


def activate(choice: Choice, dtype: str | None) -> Backend:
    """Import PyTorch and select the device.

    Raises:
        UsageError: `--device cuda` where PyTorch sees no GPU.
    """
    from . import Backend

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    device = "cpu"
    if choice.device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: PyTorch sees no CUDA device; check the driver, or give --device cpu")
        torch.cuda.set_device(choice.index)
        device = f"cuda:{choice.index}"
    else:
        reuse_freed_memory()
    if dtype is None:
        dtype = "float32" if choice.device == "cpu" else _cuda_dtype()
    return Backend(
        framework="torch",
        device=device,
        dtype_name=dtype,
        workers=choice.workers,
    )


def _cuda_dtype() -> str:
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
