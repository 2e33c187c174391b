"""Batches from a complete request file to stored answers. A kill at any step loses nothing, and nothing is paid twice.

Knows nothing about tables of captions and clips. One coroutine uses it: nothing runs in the background.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from ..answer import Answer
from ..errors import SERVICE, RequestFailed, ServiceStop
from ..store import AnswerStore
from .batch_service import (
    FAILED,
    TOKEN_LIMIT,
    VALIDATING,
    BatchService,
    BatchState,
    MayExist,
    NotFound,
)
from .fetching import BatchResults
from .leftovers import ids_of
from .queue_limit import Next, QueueLimit
from .records import (
    OPEN,
    SUBMITTED,
    SUBMITTING,
    UPLOADED,
    WRITTEN,
    BatchRecord,
    BatchRecords,
    RequestFailure,
    open_requests,
)
from .request_files import MAX_BYTES, MAX_REQUESTS, RequestFile

logger = logging.getLogger(__name__)

MAX_OPEN = 20
"""Batches that are open at the same time, at most."""
_LOG_SECONDS, _LONGEST_SILENCE = 60.0, 600.0
"""Least time between two lines about waiting, and the most if nothing has changed."""


class Batches:
    """The batches of a job.

    folder: for request files and results, which are deleted as soon as they are not needed; of this job only.
    on_answer: called with the key and each answer that has been stored.
    on_fetched: called when all answers of a batch have been stored.
    wait: waits this many seconds. It is also called often, with 0, during long work.
    max_requests, max_bytes: of a request file.
    restart: do not continue with the batches of an interrupted run. Those that are submitted are paid: their
        answers are stored when they have ended, but the run waits only for those with questions that it asks.
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
        self.max_bytes = max_bytes
        self._limit = QueueLimit(max_open, max_requests, poll_seconds)
        self._service, self._records, self._folder = service, records, folder
        self._results = BatchResults(service, store, records, folder, on_answer, on_fetched, wait)
        self._wait, self._poll_seconds, self._restart = wait, poll_seconds, restart
        self._next_poll = 0.0
        self._alone = ""  # the name of the last batch, if no other was open when it was submitted
        self._left: set[str] = set()  # names of submitted batches that are not continued
        self._unclear: dict[str, str] = {}  # why it is not known whether a batch exists, by name
        self._logged, self._logged_at = "", 0.0

    @property
    def max_requests(self) -> int:
        """Requests that a file may have now: fewer while the service has too much to do."""
        return self._limit.max_requests

    @property
    def open_requests(self) -> int:
        """Requests of batches that the service has, or will have."""
        return open_requests(self._continued(*OPEN))

    async def resume(self) -> None:
        """Continue with the batches of a run that was killed.

        Raises:
            ServiceStop: see `BatchService`.
        """
        await self._records.open()
        batches = self._records.batches(*OPEN)
        if batches:
            count = open_requests(batches)
            logger.info("%d batches of an interrupted run are open, with %d requests", len(batches), count)
        known = {batch.file.name for batch in batches}
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if file.name not in known:
                file.unlink(missing_ok=True)
        if self._restart:
            await self._leave(batches)
            return
        for batch in batches:
            if batch.state == WRITTEN and not batch.file.is_file():
                logger.warning("the request file %s is missing; it is written again", batch.file)
                await self._records.forget(batch.name)
            elif batch.state == WRITTEN:
                await self._upload(batch.name, batch.file)
        await self._submit_waiting()

    async def submit(self, file: RequestFile) -> None:
        """Upload and submit a request file. Waits as long as too many batches are open.

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

    async def wait_for_all(self, needed: Collection[str] = ()) -> None:
        """Wait until the results of all batches are stored, or their failures noted.

        needed: names of batches for which it also waits if they are not continued.

        Raises:
            ServiceStop: see `BatchService`; or nobody knows whether a batch exists.
        """
        while waited := [
            one for one in self._records.batches(*OPEN) if one.name in needed or one.name not in self._left
        ]:
            unclear = [batch for batch in waited if batch.name in self._unclear]
            if len(unclear) == len(waited):
                raise ServiceStop(
                    f"it is not known whether the {open_requests(unclear)} requests of {ids_of(unclear)} are in a "
                    f"batch that is paid: {self._unclear[unclear[0].name]}. They stay noted, and nothing is asked "
                    "twice. If the account has no such batch, give --restart to ask them again"
                )
            await self._wait_and_poll()
            await self._create_possible()

    def close(self) -> None:
        """Remove the folder if it is empty, and log which batches are still open."""
        if left := self._records.batches(*OPEN):
            logger.warning("%s: still open, of an earlier run; a later run with --batch fetches them", ids_of(left))
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _continued(self, *states: str) -> list[BatchRecord]:
        return [batch for batch in self._records.batches(*states) if batch.name not in self._left]

    async def _leave(self, batches: list[BatchRecord]) -> None:
        """Forget the batches of an interrupted run; fetch those that have ended."""
        await self._records.forget_failures()
        for batch in batches:
            batch_id = batch.batch_id
            if batch.state == SUBMITTING:
                try:
                    batch_id = await self._service.find(batch.input_file_id, batch.name, _written_at(batch.file))
                except MayExist as error:
                    logger.warning("%s: it may be in a batch that is paid: %s", batch.input_file_id, error)
            if batch_id:
                await self._records.submitted(batch.name, batch_id)
                self._left.add(batch.name)
            else:
                await self._records.forget(batch.name)
            batch.file.unlink(missing_ok=True)
        if self._left:
            await self._poll()
            if left := self._records.batches(SUBMITTED):
                logger.warning(
                    "the batches %s are open and paid. The run waits for them only if it asks the same questions",
                    ids_of(left),
                )

    async def _upload(self, name: str, file: Path) -> None:
        try:
            file_id = await self._service.upload(file)
        except RequestFailed as error:
            await self._fail(name, f"the service does not accept the request file: {error}")
        else:
            await self._records.uploaded(name, file_id)
            logger.info("uploaded %s as %s", file.name, file_id)

    def _to_create(self) -> list[BatchRecord]:
        return [batch for batch in self._records.batches(UPLOADED, SUBMITTING) if batch.name not in self._unclear]

    async def _submit_waiting(self) -> None:
        """Submit all batches whose files are uploaded; wait for other batches as long as too many are open."""
        await self._create_possible()
        while self._to_create():
            await self._wait_and_poll()
            await self._create_possible()

    async def _create_possible(self) -> None:
        """Submit batches whose files are uploaded, as many as may be open."""
        for batch in self._to_create():
            others = len(self._continued(SUBMITTED))
            if others >= self._limit.max_open or self._limit.is_pausing:
                return
            may_exist = batch.state == SUBMITTING
            await self._records.submitting(batch.name)
            try:
                batch_id = await self._service.create(
                    batch.input_file_id, batch.name, may_exist, _written_at(batch.file)
                )
            except MayExist as error:
                logger.error("submission of %s: no answer, and %s", batch.input_file_id, error)
                self._unclear[batch.name] = str(error)
                continue
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
            is_over_limit = state.status == FAILED and TOKEN_LIMIT in state.error_codes
            if state.status not in (FAILED, VALIDATING):
                self._limit.accepted(batch.name)
            if not state.has_ended:
                states.append(state)
            elif is_over_limit and batch.name in self._left:
                await self._records.forget(batch.name)
            elif is_over_limit:
                await self._over_limit(batch, state)
            else:
                # What a batch that is not continued has not answered is no failure of this run: it may be asked.
                await self._results.fetch(batch, state, has_failures=batch.name not in self._left)
        self._next_poll = time.monotonic() + self._poll_seconds
        self._log_waiting(states)

    async def _lost(self, batch: BatchRecord) -> None:
        if batch.name not in self._left:
            raise ServiceStop(
                f"the service does not know the batch {batch.batch_id}, which this run has submitted: use the base URL "
                "and a key of the project that submitted it, or give --restart to submit its requests again"
            )
        logger.warning("the service does not know the batch %s: its requests are asked again", batch.batch_id)
        await self._records.forget(batch.name)

    async def _over_limit(self, batch: BatchRecord, state: BatchState) -> None:
        """Handle a batch that the service did not begin because too many tokens wait: nothing was paid.

        It is submitted again when no other batch is open. If none was, it is submitted again after a pause; after
        several tries its requests become new again and are written to smaller files.
        """
        step = self._limit.reached(batch.requests, batch.name == self._alone)
        if step is Next.AGAIN:
            logger.warning("batch %s: %s; it is submitted again later", state.batch_id, state.error)
            await self._records.not_accepted(batch.name)
        elif step is Next.SMALLER:
            logger.warning(
                "batch %s: %s; continuing with %d requests a file", state.batch_id, state.error, self.max_requests
            )
            await self._records.forget(batch.name)
        else:
            await self._fail(batch.name, f"batch {state.batch_id}: {state.error}")

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


def _written_at(file: Path) -> float:
    """The time of a request file, in seconds since 1970; 0 if there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
