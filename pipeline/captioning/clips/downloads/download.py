"""Download a clip, with retries within a deadline. Runs in the decoding process.

fsspec does the transfer. It is imported with this module, so only when the first URL comes. Knows nothing about
processes and decoders.
"""

from __future__ import annotations

import errno
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

from fsspec.exceptions import FSTimeoutError

from ..content import is_web_page, playlist_in, text_at_start
from . import http, s3
from .attempt import CutOff, Failure, Progress, Refused
from .limits import DownloadLimits, Outcome
from .urls import redacted, scheme_of

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, and the most before a later one. Each pause is twice the one before it, times a
random number from 0.5 to 1: many processes must not come back to a busy server at the same time."""
_SITES: Mapping[str, ModuleType] = {"http": http, "https": http, "s3": s3}
_SHORTEST_ATTEMPT = 0.1
"""Seconds. A time limit of 0 means none to fsspec."""
_WHY_ONE_ATTEMPT = "the last downloads from this host have failed until their deadline"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(url: str, path: str, limits: DownloadLimits, deadline: float) -> Outcome:
    """Write what `url` refers to into the file at `path`, replacing its content.

    An attempt that failed for a reason that may pass is repeated until the deadline.

    deadline: of `time.monotonic()`, at most `limits.timeout` from now.
    """
    failures: Counter[str] = Counter()  # keeps the order
    pause = FIRST_PAUSE
    while True:
        failure = _attempt(url, path, limits, max(deadline - time.monotonic(), _SHORTEST_ATTEMPT))
        if failure is None:
            return Outcome()
        failures[_text(failure, url)] += 1
        if not failure.is_temporary:
            return Outcome(_joined(failures))
        attempts = failures.total()
        if attempts >= limits.attempts:
            return Outcome(f"{_joined(failures)} (no other attempt: {_WHY_ONE_ATTEMPT})", may_pass=True)
        wait = max(pause * random.uniform(0.5, 1.0), failure.pause)
        if wait >= deadline - time.monotonic():
            return Outcome(
                f"no download within {limits.timeout:g} s (--download_timeout), {attempts} "
                f"attempt{'s' if attempts > 1 else ''}: {_joined(failures)}",
                may_pass=True,
            )
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def _attempt(url: str, path: str, limits: DownloadLimits, seconds: float) -> Failure | None:
    """One attempt of at most `seconds`. Returns None if it succeeded."""
    scheme, progress = scheme_of(url), Progress(limits.max_bytes)
    site = _SITES[scheme]
    url = scheme + url[len(scheme) :]  # s3fs knows the scheme in lower case only
    try:
        # get_file also takes the arguments of fsspec.asyn.sync: `timeout`.
        system = site.file_system(url, limits)
        system.get_file(url, path, callback=progress, timeout=seconds, **site.arguments(progress))
        progress.check_complete(path)
    except Refused as error:
        return Failure(str(error))
    except CutOff as error:
        return Failure(f"the connection was cut after {error}", is_temporary=True)
    except Exception as error:  # of fsspec, aiohttp, botocore, or the disk
        return _failure(error, site, limits, progress)
    problem = _refusal(path)
    return Failure(problem) if problem else None


def _refusal(path: str) -> str:
    """Why a downloaded file is not passed to a decoder; '' if it is."""
    text = text_at_start(path)
    if playlist := playlist_in(text):
        return f"the downloaded file is {playlist}, not a clip; what it refers to is not fetched"
    return "the server sent a web page, not a clip" if is_web_page(text) else ""


def _failure(error: Exception, site: ModuleType, limits: DownloadLimits, progress: Progress) -> Failure:
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Failure(f"{tempfile.gettempdir()} is full ({error.strerror}); free space there, or set TMPDIR")
    is_time_limit = isinstance(error, FSTimeoutError)  # of get_file; fsspec also raises it in place of other time-outs
    cause = error.__cause__ if is_time_limit else error
    failure: Failure | None = site.failure(cause, limits)
    if failure is None and is_time_limit:
        failure = Failure("the time was over", is_temporary=True)
    if failure is None:
        return Failure(type(error).__name__, detail=str(error))
    if failure.is_temporary and progress.value:
        return replace(failure, message=f"{failure.message} after {progress.received()}")
    return failure


def _text(failure: Failure, url: str) -> str:
    detail = redacted(" ".join(failure.detail.split()), url)
    return f"{failure.message}: {detail}" if detail else failure.message


def _joined(failures: Counter[str]) -> str:
    return "; ".join(message if count == 1 else f"{message} ({count} times)" for message, count in failures.items())
