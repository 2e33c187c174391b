"""How long a service asks to wait, by the headers of its response.

`Retry-After` is obeyed however long it is. Rate-limit headers are hints: they may be missing or wrong. Knows nothing
about the library of the service.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime

MAX_WAIT = 60.0
"""Seconds between two tries at most, if the service does not ask for more."""
MAX_HINT = 60.0
"""Seconds to which the reset time of a rate-limit header is bounded."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def longest_wait(tries: int) -> float:
    """Seconds to wait at most before the next try, if the service does not say: 1, 2, 4, … up to MAX_WAIT.

    tries: without an answer so far, at least 1.
    """
    return min(MAX_WAIT, 2.0 ** min(tries - 1, 10))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` (seconds or HTTP date) state; None if neither makes sense.

    headers: names are compared as the mapping does it, so it should ignore case.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is not None:
        return seconds
    until = _timestamp(value)
    if until is None:
        return None
    # The service's own clock, if it states its time: ours may be wrong by minutes.
    now = _timestamp(headers.get("date", ""))
    wait = until - (time.time() if now is None else now)
    return wait if wait >= 0 else None


def reset_hint(headers: Mapping[str, str]) -> float | None:
    """Seconds until the rate limit that is used up is reset, at most MAX_HINT; None if the headers do not say."""
    resets = [
        duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{kind}", "")) == 0
    ]
    known = [reset for reset in resets if reset is not None and reset > 0]
    return min(max(known), MAX_HINT) if known else None


def duration(text: str) -> float | None:
    """Seconds of a duration such as `1s`, `6m0s`, `120ms` or `1.5`; None if it is none."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return _number(text)


def _number(text: str) -> float | None:
    """A number that is finite and not negative."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _timestamp(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        # A date with the zone `-0000` has none: it is in UTC.
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
