"""Which errors say that memory is used up; imports no framework.

Frameworks have a type or a code for it in part; the rest is known by its text.
"""

from __future__ import annotations

import errno
import re
import sys

_CUDA_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation of driver_types.h

# Each with where the text comes from; matched without regard to case. MindSpore's are strings of the libraries in its
# wheel of 2.7.0; no text of theirs about freeing, copying or mapping memory matches.
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
    # The enumerations of CUDA's libraries: cublasStatus_t, cusolverStatus_t, cudnnStatus_t; from version 9 on cuDNN has
    # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED.
    r"cu(?:blas|dnn|solver)_status_(?:\w+_)?alloc(?:ation)?_failed",
)
_KNOWN = re.compile("|".join(_TEXTS), re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory, of the device or of the host, is used up.

    A text counts in a RuntimeError alone, which is what the frameworks raise.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # Who has not imported PyTorch has none of its errors. mindnlp, in its place, calls every RuntimeError
    # `OutOfMemoryError`.
    torch = sys.modules.get("torch")
    own_type = getattr(torch, "OutOfMemoryError", RuntimeError)
    if own_type is not RuntimeError and isinstance(error, own_type):
        return True
    if type(error).__name__ == "AcceleratorError" and getattr(error, "error_code", None) == _CUDA_MEMORY_ALLOCATION:
        return True
    return isinstance(error, RuntimeError) and _KNOWN.search(str(error)) is not None
