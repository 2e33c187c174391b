"""Out-of-memory errors are recognised by the frameworks' texts and types; other errors are not."""

from __future__ import annotations

import errno

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.backends.memory_errors import is_out_of_memory
from tests.out_of_memory import ASCEND_OUT_OF_MEMORY

OUT_OF_MEMORY = [
    *ASCEND_OUT_OF_MEMORY,
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 3 MiB is free",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "NPU out of memory. Tried to allocate 22.00 MiB (NPU 0; 60.97 GiB total capacity; 10.24 GiB already allocated)",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
]
OTHER = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "Memory copy failed for kernel MatMul",
    "Free memory failed.",
    "Map memory failed.",
    "Release device memory failed.",
    "Call rtMalloc to allocate device memory Success, size: 4096",
    "Launch kernel failed, name:Default/MatMul-op0",
    "Clear overflow memory failed, aclrtMemset size = 4",
    "The device memory is null, please allocate the device memory for tensor x",
    "shape (207001, 4) does not fit",
    "",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_texts_of_out_of_memory_errors(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert Backend("mindspore", "npu:0", "bfloat16").is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text)), "the frameworks raise only RuntimeError"


@pytest.mark.parametrize("text", OTHER)
def test_texts_of_other_errors(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))


def test_types_and_codes() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.model
def test_types_of_the_framework(backend: Backend) -> None:
    assert not backend.is_out_of_memory(RuntimeError("anything")), "mindnlp's torch.OutOfMemoryError is RuntimeError"
    if backend.framework == "torch":
        import torch

        assert backend.is_out_of_memory(torch.OutOfMemoryError("any text"))
        error = torch.AcceleratorError("CUDA error: any text")
        error.error_code = 2
        assert backend.is_out_of_memory(error)
        error.error_code = 700  # an illegal address
        assert not backend.is_out_of_memory(error)
