"""Typed access to the fields of a JSON object; what is wrong becomes an error that names the field.

A field with the value null counts as absent. Knows no protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import RequestError


class Fields:
    """The fields of an object. where: the path of the object, such as `messages[0]`; empty for the whole body."""

    def __init__(self, values: Any, where: str = "") -> None:
        if not isinstance(values, Mapping):
            raise RequestError(f"{where} must be an object", where, "invalid_type")
        self._values = values
        self._where = where
        self._known: set[str] = set()

    def path(self, name: str) -> str:
        """The path of a field, for messages."""
        return f"{self._where}.{name}" if self._where else name

    def error(self, name: str, problem: str, code: str = "invalid_value") -> RequestError:
        """The error that a field has a problem."""
        path = self.path(name)
        return RequestError(f"{path} {problem}", path, code)

    def any(self, name: str) -> Any:
        """The value of a field; None if it is absent."""
        self._known.add(name)
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(name, "must be a string", "invalid_type")
        return checked_text(value, self.path(name))

    def flag(self, name: str) -> bool:
        """A boolean; False if it is absent."""
        value = self.any(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false", "invalid_type")
        return value

    def whole(self, name: str, minimum: int, maximum: int) -> int | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, "must be a whole number", "invalid_type")
        if not minimum <= value <= maximum:
            raise self.error(name, f"must be from {minimum} to {maximum}")
        return value

    def number(self, name: str, minimum: float, maximum: float, above: bool = False) -> float | None:
        """A finite number. above: it must be greater than `minimum`."""
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(name, "must be a number", "invalid_type")
        is_low = value <= minimum if above else value < minimum
        if is_low or value > maximum or not math.isfinite(value):
            raise self.error(name, f"must be {'above' if above else 'at least'} {minimum:g} and at most {maximum:g}")
        return float(value)

    def object(self, name: str) -> Fields:
        """The fields of an object; of an empty one if it is absent."""
        value = self.any(name)
        return Fields({} if value is None else value, self.path(name))

    def ignore(self, *names: str) -> None:
        """Accept these fields with any value."""
        self._known.update(names)

    def refuse_others(self) -> None:
        """Refuse the fields that were not asked for, unless they are null."""
        for name, value in self._values.items():
            if name not in self._known and value is not None:
                raise self.error(name[:100], "is not supported by this server", "unsupported_parameter")


def checked_text(text: str, path: str) -> str:
    """The text, if it can be written as UTF-8: JSON can name half a character.

    Raises:
        RequestError: it can't.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{path} contains half of a surrogate pair", path, "invalid_value") from None
    return text
