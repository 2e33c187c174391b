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
from types import ModuleType

from fsspec.exceptions import FSTimeoutError

from . import http, s3
from .attempt import CutOff, Failure, Progress, Refused
from .content import refusal
from .limits import DownloadLimits
from .urls import redacted, scheme_of

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, and the most before a later one. Each pause is twice the one before it, times a
random number from 0.5 to 1: many processes must not come back to a busy server at the same time."""
_SITES: Mapping[str, ModuleType] = {"http": http, "https": http, "s3": s3}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(url: str, path: str, limits: DownloadLimits) -> str:
    """Write what `url` refers to into the file at `path`, replacing its content.

    Returns '' if the whole file was received, else why not: the failure of every attempt, without the URL and without
    credentials. An attempt that failed for a reason that may pass is repeated until the deadline.
    """
    deadline = time.monotonic() + limits.timeout
    failures: Counter[str] = Counter()  # keeps the order
    pause = FIRST_PAUSE
    while True:
        failure = _attempt(url, path, limits, deadline - time.monotonic())
        if failure is None:
            return ""
        failures[redacted(" ".join(failure.message.split()), url)] += 1
        if not failure.is_temporary:
            return _joined(failures)
        wait = max(pause * random.uniform(0.5, 1.0), failure.pause)
        if wait >= deadline - time.monotonic():
            attempts = failures.total()
            return (
                f"no download within {limits.timeout:g} s (--download_timeout), {attempts} "
                f"attempt{'s' if attempts > 1 else ''}: {_joined(failures)}"
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
        system.get_file(url, path, callback=progress, timeout=seconds, **site.CHUNK)
        progress.check_complete()
    except Refused as error:
        return Failure(str(error))
    except CutOff as error:
        return Failure(f"the connection was cut after {error}", is_temporary=True)
    except Exception as error:  # of fsspec, aiohttp, botocore, or the disk
        return _failure(error, site, limits, progress)
    problem = refusal(path)
    return Failure(problem) if problem else None


def _failure(error: Exception, site: ModuleType, limits: DownloadLimits, progress: Progress) -> Failure:
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Failure(f"{tempfile.gettempdir()} is full ({error.strerror}); free space there, or set TMPDIR")
    is_time_limit = isinstance(error, FSTimeoutError)  # of get_file; fsspec also raises it in place of other time-outs
    cause = error.__cause__ if is_time_limit else error
    failure: Failure | None = site.failure(cause, limits)
    if failure is None and is_time_limit:
        failure = Failure("the time was over", is_temporary=True)
    if failure is None:
        return Failure(f"{type(error).__name__}: {error}")
    if failure.is_temporary and progress.value:
        return Failure(f"{failure.message} after {progress.received()}", True, failure.pause)
    return failure


def _joined(failures: Counter[str]) -> str:
    return "; ".join(message if count == 1 else f"{message} ({count} times)" for message, count in failures.items())
