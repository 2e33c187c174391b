"""Stores the results of a batch that has ended. Knows nothing about open batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..answer import Answer, AnsweredClip
from ..errors import SERVICE, RequestFailed
from ..store import AnswerStore
from .batch_service import COMPLETED, EXPIRED, BatchService, BatchState, NotFound
from .records import BatchRecord, BatchRecords, RequestFailure, custom_id, key_and_attempt
from .result_files import result_lines

logger = logging.getLogger(__name__)

_STORED_TOGETHER = 1000
"""Answers that are stored before the next ones are read."""


class BatchResults:
    """Downloads and stores results. Parameters as for `Batches`."""

    def __init__(
        self,
        service: BatchService,
        store: AnswerStore,
        records: BatchRecords,
        folder: Path,
        on_answer: Callable[[str, Answer], None],
        on_fetched: Callable[[], None],
        wait: Callable[[float], Awaitable[None]],
    ) -> None:
        self._service, self._store, self._records, self._folder = service, store, records, folder
        self._on_answer, self._on_fetched, self._wait = on_answer, on_fetched, wait

    async def fetch(self, batch: BatchRecord, state: BatchState, has_failures: bool = True) -> None:
        """Store the answers of a batch that has ended, note its failures, then note that this is done.

        has_failures: false if requests without an answer are new again, and do not count as failures.
        """
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
        await self._records.fetched(batch.name, failures if has_failures else {})
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


def _reason(state: BatchState) -> str:
    """Why a request of an ended batch has neither an answer nor an error."""
    if state.status == EXPIRED:
        reason = "expired: the service did not process the request in time"
    elif state.status == COMPLETED:
        reason = "has no result for the request"
    else:
        reason = state.status
    return f"batch {state.batch_id} {reason}" + (f": {state.error}" if state.error else "")
