"""How the C library treats freed memory, where a CPU computes; knows no framework."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGEST_REUSED = 32 * 2**20  # the most that glibc allows
_MOST_KEPT = 256 * 2**20


def reuse_freed_memory() -> None:
    """Keep freed memory for the next intermediate values, instead of returning it to the system and touching new
    pages for each of them. Does nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED)
        library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
