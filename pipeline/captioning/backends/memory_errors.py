"""Recognises out-of-memory errors. Imports no framework.

Only some of these errors have a type or a code of their own; the others are recognised by their text.
"""

from __future__ import annotations

import errno
import re
import sys

_CUDA_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation of driver_types.h

# Patterns, each with the source of its texts; the case of letters is ignored. The texts of MindSpore are strings in the
# libraries of its 2.7.0 wheel; none of their texts about freeing, copying or mapping memory matches.
_TEXTS = (
    # PyTorch's and torch_npu's allocators, CUDA's runtime ("CUDA error: out of memory"); MindSpore:
    # "Out of Memory!!! Request memory size:" (libmindspore_ascend_res_manager.so).
    r"out of memory",
    # MindSpore: the heading "Memory not enough:" and "Device(id:0) memory isn't enough and alloc failed, kernel name:"
    # (libmindspore_ms_backend.so), "memory is not enough." (libmindspore_memory_pool.so, of Ascend's pools).
    r"memory (?:is not|isn't|not) enough",
    # MindSpore: "Allocate memory failed", "Allocate workspace memory failed" (libmindspore_pyboost.so, which runs
    # single operators), "Allocate dynamic workspace memory failed", "Allocate continuous memory failed"
    # (libmindspore_ms_backend.so), "Allocating device memory failed" (libmindspore_res_manager.so),
    # "Malloc device memory failed, size[" (libmindspore_ascend_res_manager.so).
    r"\b(?:m?alloc|allocate|allocating) (?:\w+ ){0,2}memory failed",
    # MindSpore: "Failed to allocate memory size" (libmindspore_ms_backend.so), "Failed to allocate weight memory."
    # (libmindspore_ascend_res_manager.so), "Can't allocate workspace memory size:" (libmindspore_ascend.so),
    # "Malloc Mem From Mem Pool failed" (libmindspore_ops_ascend.so).
    # PyTorch: "DefaultCPUAllocator: can't allocate memory: you tried to allocate" (libc10.so).
    r"(?:failed to|can't|could not) allocate (?:\w+ ){0,2}memory|malloc mem from mem pool failed",
    # CANN, below MindSpore and torch_npu: error EL0004 and the name of 207001 in its headers.
    r"\bel0004\b|memory_allocation_failure|acl_error_rt_memory_allocation",
    # The enumerations of CUDA's libraries: cublasStatus_t, cusolverStatus_t, cudnnStatus_t. cuDNN has
    # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED since version 9.
    r"cu(?:blas|dnn|solver)_status_(?:\w+_)?alloc(?:ation)?_failed",
)
_PATTERN = re.compile("|".join(_TEXTS), re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is an out-of-memory error of the device or of the host.

    Texts are checked only in a RuntimeError, because the frameworks raise this type.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # If PyTorch is not imported, no error can have its type. If mindnlp stands in for it, `torch.OutOfMemoryError` is
    # RuntimeError itself.
    torch = sys.modules.get("torch")
    torch_type = getattr(torch, "OutOfMemoryError", RuntimeError)
    if torch_type is not RuntimeError and isinstance(error, torch_type):
        return True
    if type(error).__name__ == "AcceleratorError" and getattr(error, "error_code", None) == _CUDA_MEMORY_ALLOCATION:
        return True
    return isinstance(error, RuntimeError) and _PATTERN.search(str(error)) is not None
