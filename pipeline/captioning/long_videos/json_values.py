"""Reads the values of a parsed JSON object, and names what is wrong with it. Knows nothing about what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

_MAX_SHOWN = 60


class JsonObject:
    """A parsed JSON object whose values are checked when they are read.

    All methods raise ValueError if the key is missing or its value is of another kind; the message names the object,
    the key and the value.
    """

    def __init__(self, value: Any, name: str) -> None:
        """name: of the object, for messages.

        Raises:
            ValueError: `value` is not an object.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {_shown(value)}, not an object")
        self._values, self._name = value, name

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """default: the text if the key is missing; None if it must not be."""
        if default is not None and key not in self:
            return default
        text: str = self._checked(key, "a text", _is_text)
        return text

    def one_of(self, key: str, known: Sequence[str]) -> str:
        text: str = self._checked(key, f"one of {', '.join(known)}", lambda value: _is_text(value) and value in known)
        return text

    def count(self, key: str) -> int:
        count: int = self._checked(key, "a whole number from 0 on", _is_count)
        return count

    def number(self, key: str) -> float:
        return float(self._checked(key, "a number", _is_number))

    def number_or_null(self, key: str) -> float | None:
        return None if self._checked(key, "a number or null", _is_number_or_null) is None else self.number(key)

    def items(self, key: str) -> list[Any]:
        items: list[Any] = self._checked(key, "a list", lambda value: isinstance(value, list))
        return items

    def texts(self, key: str) -> list[str]:
        return self._list(key, "texts", _is_text)

    def counts(self, key: str) -> list[int]:
        return self._list(key, "whole numbers from 0 on", _is_count)

    def numbers(self, key: str) -> list[float]:
        return list(map(float, self._list(key, "numbers", _is_number)))

    def texts_by_name(self, key: str) -> dict[str, str]:
        texts: dict[str, str] = self._checked(
            key, "an object of texts", lambda value: isinstance(value, dict) and all(map(_is_text, value.values()))
        )
        return dict(texts)

    def _list(self, key: str, kind: str, check: Callable[[Any], bool]) -> list[Any]:
        items: list[Any] = self._checked(
            key, f"a list of {kind}", lambda value: isinstance(value, list) and all(map(check, value))
        )
        return items

    def _checked(self, key: str, kind: str, check: Callable[[Any], bool]) -> Any:
        if key not in self:
            raise ValueError(f"{self._name} has no '{key}'")
        value = self._values[key]
        if not check(value):
            raise ValueError(f"{self._name}: '{key}' is {_shown(value)}, not {kind}")
        return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
