"""Gathers byte records of many ranks, by AllGather in rounds of bounded memory.

In a round every rank packs as many of its records as fit into a buffer of int32 words: for each the
length in bytes, then the bytes. The ranks agree on the fullest buffer, pad to it, and AllGather.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .collectives import Collectives

ROUND_BYTES = 32 * 2**20
"""Memory for one round's gathered buffers, on every rank."""


def words_of(record: bytes) -> int:
    """int32 words that a record takes in a buffer, without its length."""
    return -(-len(record) // 4)


def gather_records(
    collectives: Collectives, records: Iterable[bytes], round_bytes: int = ROUND_BYTES
) -> Iterator[bytes]:
    """Yield the records of all ranks, on every rank: round by round, in order of rank within a round.

    All ranks must iterate to the end.
    """
    capacity = max(1, round_bytes // 4 // collectives.world_size)
    packer = _Packer(iter(records), capacity)
    while True:
        words = packer.next_buffer()
        state = collectives.all_gather(np.array([len(words), packer.has_more], np.int32))
        longest = int(state[:, 0].max())
        if longest:
            padded = np.zeros(longest, np.int32)
            padded[: len(words)] = words
            for buffer, used in zip(collectives.all_gather(padded), state[:, 0], strict=True):
                yield from _unpack(buffer[:used])
        if not state[:, 1].any():
            return


class _Packer:
    """Fills buffers with whole records; a record larger than a buffer gets one of its own."""

    def __init__(self, records: Iterator[bytes], capacity: int) -> None:
        self._records = records
        self._capacity = capacity
        self._next = next(records, None)

    @property
    def has_more(self) -> bool:
        return self._next is not None

    def next_buffer(self) -> np.ndarray:
        parts: list[np.ndarray] = []
        used = 0
        while self._next is not None and (not parts or used + 1 + words_of(self._next) <= self._capacity):
            record = self._next
            parts.append(np.array([len(record)], np.int32))
            parts.append(np.frombuffer(record + b"\0" * (-len(record) % 4), np.int32))
            used += 1 + words_of(record)
            self._next = next(self._records, None)
        return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _unpack(words: np.ndarray) -> Iterator[bytes]:
    position = 0
    while position < len(words):
        length = int(words[position])
        begin, size = position + 1, -(-length // 4)
        yield words[begin : begin + size].tobytes()[:length]
        position = begin + size
