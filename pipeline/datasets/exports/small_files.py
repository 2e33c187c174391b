"""Many small files, each whole or not there, and how to find two of them under one name. Knows nothing about tables."""

from __future__ import annotations

import functools
import os
import secrets
from hashlib import blake2b
from pathlib import Path

import numpy as np

MAX_EXAMPLES = 3
"""Messages name at most so many files or rows."""


def write_file(file: str, text: str, make_folder: bool) -> None:
    """Write `text` to `file`, which is replaced.

    make_folder: make the folder of the file if it is missing.

    Raises:
        OSError: the file can't be written; an earlier one is unchanged.
    """
    folder = os.path.dirname(file)
    if make_folder:
        os.makedirs(folder, exist_ok=True)
    # The name of the clip may have the greatest length that a name can have, so it is not part of the temporary name.
    # The folder may belong to others: the name can't be guessed, and `x` neither opens a file nor follows a link.
    temporary = os.path.join(folder, f".export-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as content:
            content.write(text.encode())
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def contains(file: str, text: str) -> bool:
    """Whether a file has exactly this content; False if it can't be read."""
    try:
        return Path(file).read_bytes() == text.encode()
    except OSError:
        return False


def hash_of(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def identity_of(file: str) -> str:
    """The same for two names of one file."""
    folder, name = os.path.split(file)
    return os.path.join(_real_folder(os.path.join(os.getcwd(), folder)), name)


@functools.lru_cache(4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def conflicting(files: np.ndarray, contents: np.ndarray) -> set[int]:
    """Some of the hashes of files that get different contents.

    files, contents: (n,) uint64 hashes; the content at each place is for the file at this place.
    """
    order = np.lexsort((contents, files))
    files, contents = files[order], contents[order]
    different = (files[1:] == files[:-1]) & (contents[1:] != contents[:-1])
    return set(files[1:][different][:MAX_EXAMPLES].tolist())
