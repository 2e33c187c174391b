"""Sets how the C library reuses freed memory, for computing on a CPU. Imports no framework."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGEST_REUSED = 32 * 2**20  # the largest value that glibc allows
_MAX_KEPT = 256 * 2**20


def reuse_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations, up to 256 MiB, in blocks of up to 32 MiB.

    Otherwise it returns the memory to the system, and each intermediate value causes new page faults. Does nothing if
    the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED)
        library.mallopt(_TRIM_THRESHOLD, _MAX_KEPT)
