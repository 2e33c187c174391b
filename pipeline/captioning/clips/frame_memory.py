"""Shared memory that carries frames from a decoding process to its worker. Both processes use this file.

The memory is an anonymous file (memfd). The kernel frees it when the last process that has it open ends, for any
reason. It takes no space in /dev/shm, whose size containers limit.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FramesInMemory:
    """The shape and dtype that are needed to read an array from a FrameMemory."""

    shape: tuple[int, ...]
    dtype: str


class FrameMemory:
    """Memory for one array at a time.

    fd: an open memfd, which this object then owns; None creates a new one.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("clip-frames", os.MFD_CLOEXEC) if fd is None else fd

    def put(self, frames: np.ndarray) -> FramesInMemory:
        """Write an array over the previous one. The memory grows when needed."""
        if os.fstat(self.fd).st_size < frames.nbytes:
            os.ftruncate(self.fd, frames.nbytes)
        if frames.nbytes:
            with mmap.mmap(self.fd, frames.nbytes) as memory:
                memory[:] = np.ascontiguousarray(frames).tobytes()
        return FramesInMemory(frames.shape, frames.dtype.str)

    def get(self, frames: FramesInMemory) -> np.ndarray:
        """A copy of the array."""
        dtype = np.dtype(frames.dtype)
        size = int(np.prod(frames.shape)) * dtype.itemsize
        if not size:
            return np.zeros(frames.shape, dtype)
        with mmap.mmap(self.fd, size, prot=mmap.PROT_READ) as memory:
            return np.frombuffer(memory.read(size), dtype).reshape(frames.shape)

    def close(self) -> None:
        os.close(self.fd)
