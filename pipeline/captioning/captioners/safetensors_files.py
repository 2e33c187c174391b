"""Reads the safetensors files of a folder into numpy: all headers first, then one tensor at a time.

Knows nothing about models: tensors have their stored names.
The `safetensors` package can't read bfloat16 into numpy, and its torch interface loses large bfloat16 values under
mindnlp, which converts them through float16. Here bfloat16 is converted to float32 exactly.
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
MAX_SAMPLES = 2048
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. Reading it reads only its own bytes.

    offset: position in the file, in bytes.
    size: size in bytes.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def identity(self) -> str:
        """Text for the digest: everything that is known about the tensor without reading its values."""
        return f"{self.name} {self.dtype} {self.shape} {self.file.stat().st_size}\n"

    def read_float32(self) -> np.ndarray:
        """The values as float32, exact for every stored type but F64.

        Raises:
            UsageError: the stored type is not supported (integers, 8-bit floats).
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
    """The tensors of a folder's weight files, file by file.

    If there is an index, these are the files that it lists, and a PEFT adapter; otherwise all files, sorted by name.

    Raises:
        UsageError: the folder or all weight files are missing, a file of the index is missing, or a file is damaged.
    """
    return [tensor for file in _weight_files(folder) for tensor in read_header(file)]


def samples(tensors: Sequence[StoredTensor]) -> Iterator[bytes]:
    """Samples of the stored bytes of `tensors`: at most MAX_SAMPLES samples, each of at most SAMPLE_BYTES.

    All tensors have the same number of samples, evenly spread; a small tensor is read completely, in one read. If there
    are more than MAX_SAMPLES tensors, an evenly spread selection of them is sampled. The files are read in the order of
    `tensors`, each from start to end: at most 2048 reads and 8 MiB in total, for files of any size.
    """
    count = min(len(tensors), MAX_SAMPLES)
    chosen = [tensors[number * len(tensors) // count] for number in range(count)]
    samples_each = MAX_SAMPLES // max(1, count)
    for file, group in itertools.groupby(chosen, key=lambda tensor: tensor.file):
        with file.open("rb", buffering=0) as stream:
            for tensor in sorted(group, key=lambda tensor: tensor.offset):
                for offset, size in _sample_ranges(tensor, samples_each):
                    stream.seek(offset)
                    yield stream.read(size)


def _sample_ranges(tensor: StoredTensor, count: int) -> Iterator[tuple[int, int]]:
    """Offset and size of each sample, in bytes."""
    if tensor.size <= count * SAMPLE_BYTES:
        yield tensor.offset, tensor.size
        return
    for number in range(count):
        middle = (2 * number + 1) * tensor.size // (2 * count)
        yield tensor.offset + middle - SAMPLE_BYTES // 2, SAMPLE_BYTES


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, from its index if it has one."""
    if not folder.is_dir():
        raise UsageError(f"checkpoint folder {folder} does not exist")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{index} can't be read: {error!r}") from error
        files = [folder / name for name in names]
        files += folder.glob("adapter_model.safetensors")  # a PEFT adapter next to the shards
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UsageError(f"checkpoint {folder} lacks {', '.join(missing)}, which its index lists")
    if not files:
        pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pth")]), None)
        hint = f" ({pickled.name} is a pickle file, which can run code: convert it)" if pickled else ""
        raise UsageError(f"checkpoint {folder} holds no .safetensors file{hint}")
    return files


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of its header.

    Raises:
        UsageError: the file is not a complete safetensors file.
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
