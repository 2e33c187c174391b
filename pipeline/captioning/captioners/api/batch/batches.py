"""Batches from a complete request file to stored answers. A kill at any step loses nothing, and nothing is paid twice.

Knows nothing about tables of captions and clips. One coroutine uses it: nothing runs in the background.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..answer import Answer, AnsweredClip
from ..errors import SERVICE, RequestFailed, ServiceStop
from ..store import AnswerStore
from .batch_service import COMPLETED, EXPIRED, FAILED, TOKEN_LIMIT, BatchService, BatchState, NotFound
from .records import (
    SUBMITTED,
    UPLOADED,
    WRITTEN,
    BatchRecord,
    BatchRecords,
    RequestFailure,
    custom_id,
    key_and_attempt,
    open_requests,
)
from .request_files import MAX_BYTES, MAX_REQUESTS, RequestFile
from .result_files import result_lines

logger = logging.getLogger(__name__)

MAX_OPEN = 20
"""Batches that are open at the same time, at most."""
_STORED_TOGETHER = 1000
"""Answers that are stored before the next ones are read."""
_LOG_SECONDS, _LONGEST_SILENCE = 60.0, 600.0
"""Least time between two lines about waiting, and the most if nothing has changed."""


class Batches:
    """The batches of a job.

    folder: for request files and results, which are deleted as soon as they are not needed; of this job only.
    on_answer: called with the key and each answer that has been stored.
    on_fetched: called when all answers of a batch have been stored.
    wait: waits this many seconds. It is also called often, with 0, during long work.
    max_requests, max_bytes: of a request file. The service may make the first one smaller.
    restart: forget batches that the service does not know, and ask their requests again.
    """

    def __init__(
        self,
        service: BatchService,
        store: AnswerStore,
        records: BatchRecords,
        folder: Path,
        on_answer: Callable[[str, Answer], None],
        on_fetched: Callable[[], None],
        wait: Callable[[float], Awaitable[None]],
        poll_seconds: float,
        max_open: int = MAX_OPEN,
        max_requests: int = MAX_REQUESTS,
        max_bytes: int = MAX_BYTES,
        restart: bool = False,
    ) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self._service, self._store, self._records = service, store, records
        self._folder, self._on_answer, self._on_fetched = folder, on_answer, on_fetched
        self._wait, self._poll_seconds, self._max_open, self._restart = wait, poll_seconds, max_open, restart
        self._next_poll = 0.0
        self._alone = ""  # the name of the last batch, if no other was open when it was submitted
        self._logged, self._logged_at = "", 0.0

    @property
    def open_requests(self) -> int:
        """Requests of batches that the service has, or will have."""
        return open_requests(self._records.batches(WRITTEN, UPLOADED, SUBMITTED))

    async def resume(self) -> None:
        """Continue with the batches of a run that was killed.

        Raises:
            ServiceStop: see `BatchService`.
        """
        await self._records.open()
        batches = self._records.batches(WRITTEN, UPLOADED, SUBMITTED)
        if batches:
            count = open_requests(batches)
            logger.info("%d batches of an interrupted run are open, with %d requests", len(batches), count)
        known = {batch.file.name for batch in batches}
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if file.name not in known:
                file.unlink(missing_ok=True)
        for batch in batches:
            if batch.state == WRITTEN and not batch.file.is_file():
                logger.warning("the request file %s is missing; it is written again", batch.file)
                await self._records.forget(batch.name)
            elif batch.state == WRITTEN:
                await self._upload(batch.name, batch.file)
        await self._submit_waiting(may_exist=True)

    async def submit(self, file: RequestFile) -> None:
        """Upload and submit a request file. Waits until fewer than `max_open` batches are open.

        Raises:
            ServiceStop: see `BatchService`.
            OSError: the disk is full.
        """
        file.complete()
        await self._records.written(file.name, file.path, file.requests)
        logger.info("request file %s: %d requests, %.1f MB", file.path.name, len(file.requests), file.size / 1e6)
        await self._upload(file.name, file.path)
        await self._submit_waiting()

    async def poll_if_due(self) -> None:
        """Ask for the states of the open batches if it is time, and fetch the results of those that have ended."""
        if time.monotonic() >= self._next_poll:
            await self._poll()

    async def wait_for_all(self) -> None:
        """Wait until the results of all batches are stored, or their failures noted."""
        while self._records.batches(WRITTEN, UPLOADED, SUBMITTED):
            await self._wait_and_poll()
            await self._create_possible()

    def close(self) -> None:
        """Remove the folder if it is empty."""
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    async def _upload(self, name: str, file: Path) -> None:
        try:
            file_id = await self._service.upload(file)
        except RequestFailed as error:
            await self._fail(name, f"the service does not accept the request file: {error}")
        else:
            await self._records.uploaded(name, file_id)
            logger.info("uploaded %s as %s", file.name, file_id)

    async def _submit_waiting(self, may_exist: bool = False) -> None:
        """Submit all batches whose files are uploaded; wait for other batches as long as too many are open."""
        await self._create_possible(may_exist)
        while self._records.batches(UPLOADED):
            await self._wait_and_poll()
            await self._create_possible(may_exist)

    async def _create_possible(self, may_exist: bool = False) -> None:
        """Submit batches whose files are uploaded, as many as may be open."""
        for batch in self._records.batches(UPLOADED):
            others = len(self._records.batches(SUBMITTED))
            if others >= self._max_open:
                return
            try:
                batch_id = await self._service.create(batch.input_file_id, batch.name, may_exist)
            except RequestFailed as error:
                await self._fail(batch.name, f"the service does not accept the batch: {error}")
                continue
            await self._records.submitted(batch.name, batch_id)
            self._alone = "" if others else batch.name
            batch.file.unlink(missing_ok=True)
            logger.info("submitted the batch %s with %d requests", batch_id, batch.requests)
            self._next_poll = max(self._next_poll, time.monotonic() + self._poll_seconds)

    async def _wait_and_poll(self) -> None:
        await self._wait(max(0.0, self._next_poll - time.monotonic()))
        await self.poll_if_due()

    async def _poll(self) -> None:
        states: list[BatchState] = []
        for batch in self._records.batches(SUBMITTED):
            await self._wait(0)
            try:
                state = await self._service.state(batch.batch_id)
            except NotFound:
                await self._lost(batch)
                continue
            if not state.has_ended:
                states.append(state)
            elif state.status == FAILED and TOKEN_LIMIT in state.error_codes:
                await self._over_limit(batch, state)
            else:
                await self._fetch(batch, state)
        self._next_poll = time.monotonic() + self._poll_seconds
        self._log_waiting(states)

    async def _lost(self, batch: BatchRecord) -> None:
        if not self._restart:
            raise ServiceStop(
                f"the service does not know the batch {batch.batch_id}, which this run has submitted: use the base URL "
                "and a key of the project that submitted it, or give --restart to submit its requests again"
            )
        logger.warning("the service does not know the batch %s: its requests are asked again", batch.batch_id)
        await self._records.forget(batch.name)

    async def _over_limit(self, batch: BatchRecord, state: BatchState) -> None:
        """Handle a batch that the service did not begin because too many tokens wait: nothing was paid.

        It is submitted again when no other batch is open. If none was, its requests become new again and are written
        to files half as large.
        """
        self._max_open = 1
        if batch.name != self._alone:
            logger.warning("batch %s: %s; it is submitted again when no other is open", state.batch_id, state.error)
            await self._records.not_accepted(batch.name)
        elif batch.requests > 1:
            self.max_requests = max(1, min(self.max_requests, batch.requests // 2))
            logger.warning(
                "batch %s: %s; continuing with %d requests a file", state.batch_id, state.error, self.max_requests
            )
            await self._records.forget(batch.name)
        else:
            await self._fail(batch.name, f"batch {state.batch_id}: {state.error}")

    async def _fetch(self, batch: BatchRecord, state: BatchState) -> None:
        """Store the answers of a batch that has ended, note its failures, then note that this is done."""
        requests = self._records.requests_of(batch.name)
        answered: set[str] = set()
        failures: dict[str, RequestFailure] = {}
        problems: list[str] = []
        damaged = 0
        path = self._folder / f"{batch.name}.results"
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                await self._service.download(file_id, path)
            except (NotFound, RequestFailed) as error:
                problems.append(str(error))
                continue
            waiting: list[tuple[str, int, Answer]] = []
            for line in result_lines(path):
                if line is None:
                    damaged += 1
                elif line.custom_id not in requests or line.custom_id in answered:
                    continue
                elif line.answer is None:
                    message = self._service.said(line.message)
                    failures[line.custom_id] = RequestFailure(line.stage, message, requests[line.custom_id])
                else:
                    answered.add(line.custom_id)
                    waiting.append((*key_and_attempt(line.custom_id), line.answer))
                    if len(waiting) >= _STORED_TOGETHER:
                        await self._add(waiting, requests)
                        waiting = []
            await self._add(waiting, requests)
        path.unlink(missing_ok=True)
        if damaged:
            problems.append(f"{damaged} lines of its results are damaged")
        message = "; ".join((_reason(state), *problems))
        for request, clip in requests.items():
            if request in answered:
                failures.pop(request, None)
            else:
                failures.setdefault(request, RequestFailure(SERVICE, message, clip))
        await self._records.fetched(batch.name, failures)
        has_problem = bool(failures or problems)
        logger.log(
            logging.WARNING if has_problem else logging.INFO,
            "fetched the batch %s: %d answers, %d failures%s",
            state.batch_id,
            len(answered),
            len(failures),
            f" ({message})" if problems or state.status != COMPLETED else "",
        )
        self._on_fetched()

    async def _add(self, waiting: list[tuple[str, int, Answer]], requests: dict[str, AnsweredClip]) -> None:
        """Store answers; those that are stored already, because a run was killed while it fetched, are not again."""
        new = [(key, number, answer) for key, number, answer in waiting if len(self._store.answers(key)) <= number]
        added = [self._store.add(key, number, answer, requests[custom_id(key, number)]) for key, number, answer in new]
        await asyncio.gather(*map(asyncio.wrap_future, added))
        for key, _, answer in new:
            self._on_answer(key, answer)
        await self._wait(0)

    async def _fail(self, name: str, message: str) -> None:
        """Note that all requests of a batch have failed."""
        logger.warning("%s", message)
        requests = self._records.requests_of(name)
        failures = {request: RequestFailure(SERVICE, message, clip) for request, clip in requests.items()}
        await self._records.fetched(name, failures)
        (self._folder / f"{name}.jsonl").unlink(missing_ok=True)

    def _log_waiting(self, states: list[BatchState]) -> None:
        """Log the open batches: if something has changed at most every minute, otherwise every ten minutes."""
        if not states:
            return
        counts = Counter(state.status for state in states)
        done = sum(state.completed + state.failed for state in states)
        text = (
            f"{len(states)} batches are open ({', '.join(f'{count} {status}' for status, count in counts.items())}), "
            f"{done:,} of {open_requests(self._records.batches(SUBMITTED)):,} requests done"
        )
        silence = time.monotonic() - self._logged_at
        if silence >= (_LOG_SECONDS if text != self._logged else _LONGEST_SILENCE) or not self._logged:
            logger.info("%s", text)
            self._logged, self._logged_at = text, time.monotonic()


def _reason(state: BatchState) -> str:
    """Why a request of an ended batch has neither an answer nor an error."""
    if state.status == EXPIRED:
        reason = "expired: the service did not process the request in time"
    elif state.status == COMPLETED:
        reason = "has no result for the request"
    else:
        reason = state.status
    return f"batch {state.batch_id} {reason}" + (f": {state.error}" if state.error else "")
