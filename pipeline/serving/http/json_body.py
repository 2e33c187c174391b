"""A body as a JSON object: strict, and without a crash for any bytes. Knows no field of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .errors import RequestError

_SMALL = 2**16
"""A body with more bytes is parsed in a thread, so that the event loop is not blocked."""
_MOST_VALUES = 2**20
"""Of a body: each empty list takes three bytes in a body, and sixty in memory. Commas in texts count, too."""


async def json_object(body: bytes) -> dict[str, Any]:
    """The object of a body.

    Raises:
        RequestError: the body is not JSON in UTF-8, or not an object, has NaN or infinity, or a name twice in an
            object, or too many values.
    """
    return parse(body) if len(body) <= _SMALL else await asyncio.to_thread(parse, body)


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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:100]!r} occurs twice in an object")
    return values


def _bad(why: str) -> RequestError:
    return RequestError(f"the body can't be read as JSON: {why}", None, "invalid_json")
