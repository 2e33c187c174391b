"""Reads and checks the entries of a checkpoint's preprocessor_config.json.

Knows the types of entries, not which of them a transform needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from ...process.errors import UsageError
from ..checkpoint_config import read_settings

NAME = "preprocessor_config.json"


@dataclass(frozen=True)
class PreprocessorFile:
    """The entries of a preprocessor_config.json.

    Every method raises UsageError, with the file, the key and the value, for an entry that can't be used.
    """

    path: Path
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> PreprocessorFile:
        """Read the file of a checkpoint folder.

        Raises:
            UsageError: the file is missing, unreadable, or not a JSON object.
        """
        path = folder / NAME
        entries = read_settings(path)
        if not entries:
            raise UsageError(f"{path} is missing or empty; copy it from the published checkpoint")
        return cls(path, entries)

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise the UsageError for the entry `key`."""
        found = f"is {self.entries[key]!r}" if self.entries.get(key) is not None else "is missing"
        raise UsageError(f"{self.path}: {key} {found}; expected {expected}")

    def require(self, key: str, value: bool) -> None:
        """Check that a switch has the only supported value; an absent one has it."""
        if self._get(key, value) is not value:
            self.refuse(key, f"{str(value).lower()}, no other value is supported")

    def whole(self, key: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self._get(key, default)
        if not _is_length(value):
            self.refuse(key, "a whole number of at least 1")
        return value

    def factor(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._get(key, default)
        if not _is_number(value) or value <= 0:
            self.refuse(key, "a positive number")
        return float(value)

    def channels(self, key: str, positive: bool = False) -> tuple[float, float, float]:
        """One number for each RGB channel, stored as a list of three or as one number for all."""
        value = self._get(key, None)
        values = [value] * 3 if _is_number(value) else value
        if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
            self.refuse(key, "three numbers")
        if positive and min(values) <= 0:
            self.refuse(key, "three positive numbers")
        return float(values[0]), float(values[1]), float(values[2])

    def resample(self) -> int:
        """PIL's number of the resampling filter; bicubic if absent."""
        value = self._get("resample", int(Image.Resampling.BICUBIC))
        if not _is_number(value) or value not in list(Image.Resampling):
            numbers = ", ".join(f"{int(filter_)} ({filter_.name.lower()})" for filter_ in sorted(Image.Resampling))
            self.refuse("resample", f"a filter of PIL: {numbers}")
        return int(value)

    def rectangle(self, key: str) -> tuple[int, int]:
        """(height, width) in pixels; a shortest edge or a single number means a square."""
        size = self.edge_or_rectangle(key)
        return (size, size) if isinstance(size, int) else size

    def square(self, key: str) -> int:
        """The side of a square in pixels."""
        height, width = self.rectangle(key)
        if height != width:
            self.refuse(key, "a square")
        return height

    def edge_or_rectangle(self, key: str) -> int | tuple[int, int]:
        """The shortest edge (a single number has this meaning too), or (height, width); in pixels."""
        value = self._get(key, None)
        if isinstance(value, dict):
            value = value.get("shortest_edge", (value.get("height"), value.get("width")))
        if _is_length(value):
            return int(value)
        if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_length, value)):
            self.refuse(key, 'a size in pixels: {"shortest_edge": N}, {"height": N, "width": N} or N')
        return value[0], value[1]

    def resolutions(self, key: str, default: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """A list of (height, width) in pixels."""
        value = self._get(key, default)
        if not isinstance(value, (list, tuple)) or not value:
            self.refuse(key, "a list of [height, width]")
        for pair in value:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(map(_is_length, pair)):
                self.refuse(key, "a list of [height, width]")
        return tuple((height, width) for height, width in value)

    def _get(self, key: str, default: Any) -> Any:
        value = self.entries.get(key)
        return default if value is None else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
