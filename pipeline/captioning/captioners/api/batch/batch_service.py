"""Files and batches of a service, through the `openai` library. Repeats calls that fail for a while.

Knows nothing about requests, answers and what is noted about batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from openai import APIError, APIStatusError

from ..errors import RequestFailed, ServiceStop, TryAgain
from ..responses import one_line
from ..retry_after import longest_wait
from ..service import NETWORK_ERRORS, Service
from .request_files import ENDPOINT

logger = logging.getLogger(__name__)

VALIDATING = "validating"
COMPLETED, EXPIRED, CANCELLED, FAILED = "completed", "expired", "cancelled", "failed"
ENDED = frozenset((COMPLETED, EXPIRED, CANCELLED, FAILED))
"""The states from which a batch does not change any more."""
TOKEN_LIMIT = "token_limit_exceeded"
"""The code of a batch that failed because too many tokens of the organisation wait in batches."""
PATIENCE_SECONDS = 3600.0
"""A call is repeated at least for this time: a batch may need a day, and a service may be away for some minutes."""
_SLICE_SECONDS = 1.0
_CALL_SECONDS = 120.0
_TRANSFER_SECONDS = 3600.0
"""Time limits of one try: of a call, and of the upload or download of a file. The client has none."""
_WINDOW: Final = "24h"
_NAME = "captions_batch"
"""The entry of a batch's metadata that has its name."""
_MAX_LISTED = 10_000
"""Batches of the account that are looked through for one; the newest come first."""
_MAX_OLDER = 100
"""Batches in a row that are older than the request file: then the one that is looked for is not among the others."""
_CLOCK_SECONDS = 3600.0
"""The clocks of the service and of this host differ less."""
_MAX_ERRORS = 3
"""Errors of a batch that a message shows."""
_NOT_FOUND = 404
_NO_LISTS = (404, 405, 501)
"""Statuses of a service that does not list batches."""

T = TypeVar("T")


class NotFound(Exception):
    """The service does not know the file or the batch, or has no Batch API."""


class MayExist(Exception):
    """Nobody knows whether the service has a batch: it does not list its batches."""


class _LocalError(Exception):
    """A local file can't be written; the cause says why."""


@dataclass(frozen=True)
class BatchState:
    """What the service says about a batch.

    status: one of ENDED, or another text while it is processed.
    completed, failed: number of requests so far.
    error: why it failed; empty if it did not. error_codes: of its errors.
    """

    batch_id: str
    status: str
    output_file_id: str = ""
    error_file_id: str = ""
    completed: int = 0
    failed: int = 0
    error: str = ""
    error_codes: frozenset[str] = frozenset()

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class BatchService:
    """The Batch API of a service. Every method raises ServiceStop if no call can succeed any more.

    model: is named if the key may not use it.
    sleep: waits between two tries of a call; it is also called, with 0, at least every second of a call.
    max_tries, patience: a call is repeated until both are used up.
    """

    def __init__(
        self,
        service: Service,
        model: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_tries: int = 10,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._service, self._model, self._client, self.sleep = service, model, service.client, sleep
        self._max_tries, self._patience = max_tries, patience

    async def upload(self, path: Path) -> str:
        """Upload a request file; returns its id. The file is read in pieces while it is sent.

        Raises:
            RequestFailed: the service does not accept the file.
            OSError: the file can't be read.
        """
        with path.open("rb") as file:

            async def send() -> str:
                file.seek(0)
                return _id_of(await self._client.files.create(file=(path.name, file), purpose="batch"))

            try:
                return await self._repeated("upload of a request file", send, _TRANSFER_SECONDS)
            except NotFound:
                raise ServiceStop(
                    f"the service at {self._client.base_url} has no Batch API (status 404); leave out --batch"
                ) from None

    async def create(self, input_file_id: str, name: str, may_exist: bool = False, written_at: float = 0.0) -> str:
        """Create a batch; returns its id.

        A call that ends without an answer may have created the batch. So before another call, and before the first
        one if `may_exist`, the batches of the account are looked through for it.

        written_at: the time of its request file, in seconds since 1970: older batches are not looked through.

        Raises:
            RequestFailed: the service does not accept the batch.
            MayExist: the batches can't be looked through.
        """

        async def send() -> str:
            nonlocal may_exist
            if may_exist:
                found = await self._find(input_file_id, name, written_at)
                if found:
                    logger.info("the batch %s was submitted already", found)
                    return found
            may_exist = True
            batch = await self._client.batches.create(
                input_file_id=input_file_id, endpoint=ENDPOINT, completion_window=_WINDOW, metadata={_NAME: name}
            )
            return _id_of(batch)

        try:
            return await self._repeated("submission of a batch", send)
        except NotFound:
            raise RequestFailed(f"status 404: does it still have the file {input_file_id}?") from None

    async def find(self, input_file_id: str, name: str, written_at: float = 0.0) -> str:
        """The id of a batch, if the service has it and it has not failed; empty if not. Parameters as for `create`.

        Raises:
            MayExist: the batches can't be looked through.
        """
        return await self._repeated("list of batches", lambda: self._find(input_file_id, name, written_at))

    async def state(self, batch_id: str) -> BatchState:
        """The state of a batch.

        Raises:
            NotFound: the service does not know it.
        """

        async def ask() -> BatchState:
            state = _state(await self._client.batches.retrieve(batch_id))
            return replace(state, error=self.said(state.error))

        try:
            return await self._repeated(f"state of the batch {batch_id}", ask)
        except RequestFailed as error:
            raise ServiceStop(f"the state of the batch {batch_id} is not available: {error}") from None

    async def download(self, file_id: str, path: Path) -> None:
        """Write a file of results to `path`, piece by piece.

        Raises:
            NotFound: the service does not have it any more.
            RequestFailed: the service does not give it.
            OSError: it can't be written.
        """
        with path.open("wb") as file:

            async def fetch() -> None:
                with _local_errors():
                    file.seek(0)
                    file.truncate()
                async with self._client.files.with_streaming_response.content(file_id) as response:
                    async for piece in response.iter_bytes():
                        with _local_errors():
                            file.write(piece)

            try:
                await self._repeated(f"download of the results {file_id}", fetch, _TRANSFER_SECONDS)
            except _LocalError as error:
                assert error.__cause__ is not None
                raise error.__cause__ from None

    def said(self, text: str) -> str:
        """A text of the service as a message: without the key, in one line."""
        return one_line(self._service.redacted(text))

    async def _find(self, input_file_id: str, name: str, written_at: float) -> str:
        listed, older, previous = 0, 0, float("inf")
        is_newest_first = True
        try:
            async for batch in self._client.batches.list(limit=100):
                is_ours = (batch.metadata or {}).get(_NAME) == name or batch.input_file_id == input_file_id
                if is_ours and batch.status != FAILED:
                    return _id_of(batch)
                created = batch.created_at or float("inf")
                is_newest_first, previous = is_newest_first and created <= previous, created
                older = older + 1 if created < written_at - _CLOCK_SECONDS else 0
                listed += 1
                if listed >= _MAX_LISTED or (is_newest_first and older >= _MAX_OLDER):
                    break
        except APIStatusError as error:
            problem = self._service.problem(error, self._model)
            if error.status_code in _NO_LISTS or isinstance(problem, RequestFailed):
                raise MayExist(f"the service does not list its batches (status {error.status_code})") from None
            raise
        except (AttributeError, TypeError) as error:
            raise TryAgain(f"the list of batches is unusable: {error}") from None
        return ""

    async def _repeated(self, what: str, call: Callable[[], Awaitable[T]], seconds: float = _CALL_SECONDS) -> T:
        """The result of a call that is repeated, with growing waits, as long as that may help.

        seconds: time limit of one try.
        """
        begin, tries, messages = time.monotonic(), 0, Counter[str]()
        while True:
            try:
                return await self._within(seconds, call)
            except asyncio.TimeoutError:
                problem: Exception = TryAgain(f"no answer within {seconds:g} s")
            except TryAgain as error:
                problem = error
            except ValueError:
                problem = TryAgain("the answer is not JSON")
            except (APIError, *NETWORK_ERRORS) as error:
                if getattr(error, "status_code", None) == _NOT_FOUND:
                    raise NotFound(f"{what}: not found") from None
                problem = self._service.problem(error, self._model)
            if not isinstance(problem, TryAgain):
                raise problem from None
            tries += 1
            messages[str(problem)] += 1
            if tries >= self._max_tries and time.monotonic() - begin >= self._patience:
                counted = "; ".join(f"{text} ({count} times)" for text, count in messages.items())
                raise ServiceStop(f"{what}: the service gave no answer in {tries} tries: {counted}") from None
            wait = problem.retry_after
            if wait is None:
                wait = longest_wait(tries) * random.uniform(0.5, 1.0)
            logger.warning("%s: %s; next try in %.0f s", what, problem, wait)
            await self.sleep(wait)

    async def _within(self, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call.

        Raises:
            asyncio.TimeoutError: there is none after this time.
        """
        deadline = time.monotonic() + seconds
        task = asyncio.ensure_future(call())
        try:
            while not task.done():
                if time.monotonic() >= deadline:
                    raise asyncio.TimeoutError
                await asyncio.wait({task}, timeout=_SLICE_SECONDS)
                await self.sleep(0)
            return task.result()
        finally:
            task.cancel()


@contextlib.contextmanager
def _local_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _LocalError from error


def _id_of(value: object) -> str:
    """The id of a file or a batch. The library checks no answer.

    Raises:
        TryAgain: it has none.
    """
    found = getattr(value, "id", None)
    if not isinstance(found, str) or not found:
        raise TryAgain("unusable answer: it has no id")
    return found


def _state(batch: object) -> BatchState:
    status = getattr(batch, "status", None)
    if not isinstance(status, str):
        raise TryAgain("unusable answer: it has no status")
    data = getattr(getattr(batch, "errors", None), "data", None)
    errors = [
        (str(getattr(error, "code", None) or ""), str(getattr(error, "message", None) or ""))
        for error in (data if isinstance(data, list) else [])
    ]
    counts = getattr(batch, "request_counts", None)
    return BatchState(
        _id_of(batch),
        status,
        _text(batch, "output_file_id"),
        _text(batch, "error_file_id"),
        _count(counts, "completed"),
        _count(counts, "failed"),
        "; ".join(f"{code or 'error'}: {message}" for code, message in errors[:_MAX_ERRORS]),
        frozenset(code for code, _ in errors if code),
    )


def _text(value: object, name: str) -> str:
    found = getattr(value, name, None)
    return found if isinstance(found, str) else ""


def _count(value: object, name: str) -> int:
    found = getattr(value, name, None)
    return found if isinstance(found, int) else 0
