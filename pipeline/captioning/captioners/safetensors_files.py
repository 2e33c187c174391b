"""The safetensors files of a folder, read lazily into numpy: headers first, one tensor at a time afterwards.

Knows no model: names are as they are stored.
The `safetensors` package does not read bfloat16 into numpy, and its torch route loses large bfloat16
values under mindnlp (through float16); here bfloat16 becomes float32 exactly.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..process.errors import UsageError

_NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER_BYTES = 100_000_000
MOST_SAMPLES = 2048
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; reading it touches its own bytes only.

    offset, size: in bytes.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def identity(self) -> str:
        """What tells this tensor from another without reading it."""
        return f"{self.name} {self.dtype} {self.shape} {self.file.stat().st_size}\n"

    def read_float32(self) -> np.ndarray:
        """The values as float32, exact for every stored type but F64.

        Raises:
            UsageError: a type that weights do not have (integers, 8-bit floats).
        """
        if self.dtype not in _NUMPY_TYPES:
            raise UsageError(
                f"{self.file}: {self.name} is stored as {self.dtype}; supported: {', '.join(_NUMPY_TYPES)}"
            )
        with self.file.open("rb") as file:
            count = math.prod(self.shape)
            stored = np.fromfile(file, _NUMPY_TYPES[self.dtype], count, offset=self.offset)
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False).reshape(self.shape)


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """The tensors of a folder's weight files, in the order of the files' names or of its index.

    Raises:
        UsageError: there is no such file, one that the index names is missing, or one is damaged.
    """
    return [tensor for file in _weight_files(folder) for tensor in read_header(file)]


def samples(tensors: Sequence[StoredTensor]) -> Iterator[bytes]:
    """Stored bytes of `tensors` in as many places as MOST_SAMPLES allows, each of SAMPLE_BYTES at most.

    Every tensor has the same number of places, evenly spread over it; small ones are read whole, in one read. Of more
    than MOST_SAMPLES tensors some are left out, at even distances. Files come in the order of `tensors`, and each is
    read from its begin to its end: at most 2048 reads and 8 MiB in all, however large the files are.
    """
    count = min(len(tensors), MOST_SAMPLES)
    chosen = [tensors[number * len(tensors) // count] for number in range(count)]
    places = MOST_SAMPLES // max(1, count)
    for file, group in itertools.groupby(chosen, key=lambda tensor: tensor.file):
        with file.open("rb", buffering=0) as stream:
            for tensor in sorted(group, key=lambda tensor: tensor.offset):
                for offset, size in _places(tensor, places):
                    stream.seek(offset)
                    yield stream.read(size)


def _places(tensor: StoredTensor, count: int) -> Iterator[tuple[int, int]]:
    """Offset and size of each read."""
    if tensor.size <= count * SAMPLE_BYTES:
        yield tensor.offset, tensor.size
        return
    for number in range(count):
        middle = (2 * number + 1) * tensor.size // (2 * count)
        yield tensor.offset + middle - SAMPLE_BYTES // 2, SAMPLE_BYTES


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, by its index where it has one."""
    if not folder.is_dir():
        raise UsageError(f"checkpoint folder {folder} does not exist")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{index} can't be read: {error!r}") from error
        files = [folder / name for name in names]
        files += folder.glob("adapter_model.safetensors")  # a PEFT adapter beside the shards
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UsageError(f"checkpoint {folder} lacks {', '.join(missing)}, which its index names")
    if not files:
        pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pth")]), None)
        hint = f" ({pickled.name} is a pickle, which can run code: convert it)" if pickled else ""
        raise UsageError(f"checkpoint {folder} holds no .safetensors file{hint}")
    return files


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of its header.

    Raises:
        UsageError: not a whole safetensors file.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= _MAX_HEADER_BYTES:
                raise ValueError("no safetensors header")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        tensors = [
            StoredTensor(file, name, entry["dtype"], tuple(entry["shape"]), 8 + size + begin, end - begin)
            for name, entry in header.items()
            for begin, end in [entry["data_offsets"]]
        ]
        needed = 8 + size + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not a readable safetensors file: {error}") from error
    if file.stat().st_size < needed:
        raise UsageError(f"{file} is cut short: {file.stat().st_size} of {needed} bytes; copy it again")
    return tensors
