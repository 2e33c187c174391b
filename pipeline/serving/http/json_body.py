"""A body as a JSON object: strict, and without a crash for any bytes. Knows no field of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .bodies import Share
from .errors import RequestError

_SMALL = 2**16
"""A body with more bytes is parsed in a thread, so that the event loop is not blocked."""
_MOST_VALUES = 2**20
"""Of a body: each empty list takes three bytes in a body, and sixty in memory. Commas in texts count, too."""


_WIDEST = 4
"""Bytes of a character in memory, of all characters of a text with an emoji; of an ASCII text it is one byte."""


async def json_object(body: bytes, share: Share) -> dict[str, Any]:
    """The object of a body.

    share: has the bytes of the body; grows if its text needs more memory.

    Raises:
        RequestError: the body is not JSON in UTF-8, or not an object, has NaN or infinity, or a name twice in an
            object, or too many values; or there is no memory for it (503).
    """
    if len(body) <= _SMALL:
        return parse(body)
    if await asyncio.to_thread(_is_wide, body):
        share.grow((_WIDEST - 1) * len(body))
    return await asyncio.to_thread(parse, body)


def parse(body: bytes) -> dict[str, Any]:
    """See `json_object`."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise _bad(f"it has more than {_MOST_VALUES} values")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except ValueError as error:  # of the decoder, of our hooks, and of numbers with thousands of digits
        raise _bad(str(error)) from None
    if not isinstance(value, dict):
        raise _bad("it is not an object")
    return value


def _is_wide(body: bytes) -> bool:
    """Whether a text of the body may have other characters than ASCII."""
    return not body.isascii() or b"\\u" in body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name[:100]!r} occurs twice in an object")
            seen.add(name)
    return values


def _bad(why: str) -> RequestError:
    return RequestError(f"the body can't be read as JSON: {why}", None, "invalid_json")
