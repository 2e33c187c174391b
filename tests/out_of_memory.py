"""Out-of-memory messages of MindSpore 2.7.0 on Ascend, assembled from the strings in its libraries."""

from __future__ import annotations

ASCEND_OUT_OF_MEMORY = [
    "Allocate memory failed",
    "Allocate workspace memory failed",
    "Allocate dynamic workspace memory failed, alloc size:4096B",
    "Allocate continuous memory failed, device ptr list size: 3, size list size: 3",
    "\n----\n- Memory not enough:\n----\nDevice(id:0) memory isn't enough and alloc failed, kernel name: MatMul",
    "Malloc for kernel output failed, Memory isn't enough, node:Default/MatMul-op0",
    "Memory not enough: alloc size[4096] is larger than the free memory",
    "The device memory is not enough, the free memory size is 17MB",
    "\n----\n- Framework Error Message:\n----\nOut of Memory!!! Request memory size: 2147483648B, Memory Statistic:",
    "\n----\n- Framework Error Message:\n----\nMalloc device memory failed, size[4096], ret[207001]",
    "Failed to allocate memory size 4096",
    "EL0004: Failed to allocate memory.",
]
