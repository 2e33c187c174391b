"""Gathers byte records of many ranks, by AllGather in rounds of bounded memory.

In a round every rank packs whole records into a buffer of int32 words, until the buffer is full: for each record its
length in bytes, then the bytes. All ranks pad their buffers to the length of the longest one, and call AllGather.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from .collectives import Collectives

ROUND_BYTES = 32 * 2**20
"""Memory for the gathered buffers of one round, on every rank."""


def words_of(record: bytes) -> int:
    """int32 words that a record takes in a buffer, without its length."""
    return -(-len(record) // 4)


def gather_records(
    collectives: Collectives, records: Iterable[bytes], round_bytes: int = ROUND_BYTES, is_wanted: bool = True
) -> Iterator[bytes]:
    """Yield the records of all ranks: round by round, in order of rank within a round.

    All ranks must iterate to the end.

    is_wanted: whether this rank uses the records. If not, it only takes part in the collectives and yields nothing.
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
            gathered = collectives.all_gather(padded)
            if is_wanted:
                for buffer, used in zip(gathered, state[:, 0], strict=True):
                    yield from _unpack(buffer[:used])
        if not state[:, 1].any():
            return


class _Packer:
    """Fills buffers with whole records. A record larger than a buffer gets a larger buffer of its own.

    capacity: words in a buffer.
    """

    def __init__(self, records: Iterator[bytes], capacity: int) -> None:
        self._records = records
        self._capacity = capacity
        self._next = next(records, None)

    @property
    def has_more(self) -> bool:
        return self._next is not None

    def next_buffer(self) -> np.ndarray:
        parts: list[bytes] = []
        used = 0
        while self._next is not None and (not parts or used + 1 + words_of(self._next) <= self._capacity):
            record = self._next
            parts += [len(record).to_bytes(4, sys.byteorder), record, b"\0" * (-len(record) % 4)]
            used += 1 + words_of(record)
            self._next = next(self._records, None)
        return np.frombuffer(b"".join(parts), np.int32)


def _unpack(words: np.ndarray) -> Iterator[bytes]:
    data = words.tobytes()
    position = 0
    while position < len(data):
        begin = position + 4
        length = int.from_bytes(data[position:begin], sys.byteorder)
        yield data[begin : begin + length]
        position = begin + -(-length // 4) * 4
