"""What is noted about batches, in tables of the answer store's file: a run that was killed continues from here.

Knows nothing about the network. Requests of a batch are noted before its file is uploaded, ids before they are used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answer import AnsweredClip, well_formed
from ..store import AnswerStore

WRITTEN, UPLOADED, SUBMITTING = "written", "uploaded", "submitting"
SUBMITTED, FETCHED = "submitted", "fetched"
"""States of a batch: its request file is complete; the service has the file; it may have the batch, because the
submission has begun; it has the batch; the results are stored. All but SUBMITTING are noted after the step has
succeeded."""
OPEN = (WRITTEN, UPLOADED, SUBMITTING, SUBMITTED)

_TABLES = (
    "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, "
    "file TEXT NOT NULL, input_file_id TEXT NOT NULL, batch_id TEXT NOT NULL, requests INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS batch_requests (job TEXT, custom_id TEXT, batch TEXT NOT NULL, path TEXT NOT NULL, "
    "partial INTEGER NOT NULL, is_image INTEGER NOT NULL, PRIMARY KEY (job, custom_id)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS batch_requests_batch ON batch_requests (batch)",
    "CREATE TABLE IF NOT EXISTS batch_failures (job TEXT, custom_id TEXT, stage TEXT NOT NULL, message TEXT NOT NULL, "
    "path TEXT NOT NULL, partial INTEGER NOT NULL, is_image INTEGER NOT NULL, "
    "PRIMARY KEY (job, custom_id)) WITHOUT ROWID",
)


@dataclass(frozen=True)
class BatchRecord:
    """A batch.

    name: unique; also its metadata at the service, by which it is found if its id was not noted.
    state: one of the constants above.
    file: the request file; deleted after the batch is submitted.
    input_file_id, batch_id: empty until they are known.
    requests: number of them.
    """

    name: str
    state: str
    file: Path
    input_file_id: str
    batch_id: str
    requests: int


@dataclass(frozen=True)
class RequestFailure:
    """Why a request of a batch has no answer. stage: see `errors`. clip: of the request."""

    stage: str
    message: str
    clip: AnsweredClip


def job_of(output: Path) -> str:
    """The name of the job with this output, as it is noted: 16 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(os.path.realpath(output))).hexdigest()[:16]


def custom_id(key: str, attempt: int) -> str:
    """The id of a request within its batch; at most 64 characters. `key_and_attempt` is its inverse."""
    return f"{key}-{attempt}"


def key_and_attempt(text: str) -> tuple[str, int]:
    key, _, attempt = text.rpartition("-")
    return key, int(attempt)


class BatchRecords:
    """The batches of one job. `batch_of` and `failure` are thread-safe.

    store: its file has the tables. Other jobs may use the same file at the same time.
    job: of `job_of`.
    """

    def __init__(self, store: AnswerStore, job: str) -> None:
        self._store, self._job = store, job

    async def open(self) -> None:
        """Create the tables if there are none, and remove what a killed run has noted only in part."""
        for statement in _TABLES:
            await self._write(statement)
        await self._write(
            "DELETE FROM batch_requests WHERE job = ? AND batch NOT IN (SELECT name FROM batches WHERE state != ?)",
            self._job,
            FETCHED,
        )

    def batches(self, *states: str) -> list[BatchRecord]:
        """The batches in one of these states, oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self._store.read(
            "SELECT name, state, file, input_file_id, batch_id, requests FROM batches "
            f"WHERE job = ? AND state IN ({marks}) ORDER BY rowid",
            (self._job, *states),
        )
        return [BatchRecord(name, state, Path(file), *others) for name, state, file, *others in rows]

    def batch_of(self, request: str) -> str:
        """The name of the batch that has a request, if its results are not stored yet; empty if there is none.

        request: its custom id.
        """
        found = self._store.read(
            "SELECT batch FROM batch_requests WHERE job = ? AND custom_id = ?",
            (self._job, request),
        )
        return str(found[0][0]) if found else ""

    def failure(self, request: str) -> RequestFailure | None:
        """Why a request of this run has failed; None if it has not. request: its custom id."""
        found = self._store.read(
            "SELECT stage, message, path, partial, is_image FROM batch_failures WHERE job = ? AND custom_id = ?",
            (self._job, request),
        )
        for stage, message, path, partial, is_image in found:
            return RequestFailure(stage, message, AnsweredClip(path, bool(partial), bool(is_image)))
        return None

    def requests_of(self, name: str) -> dict[str, AnsweredClip]:
        """The requests of a batch by custom id."""
        rows = self._store.read(
            "SELECT custom_id, path, partial, is_image FROM batch_requests WHERE job = ? AND batch = ?",
            (self._job, name),
        )
        return {request: AnsweredClip(path, bool(partial), bool(image)) for request, path, partial, image in rows}

    async def written(self, name: str, file: Path, requests: Mapping[str, AnsweredClip]) -> None:
        """Note a complete request file. The batch is noted last: requests without a batch do not count."""
        values = [[request, well_formed(clip.path), clip.partial, clip.is_image] for request, clip in requests.items()]
        await self._write(
            "INSERT OR REPLACE INTO batch_requests SELECT ?, json_extract(value, '$[0]'), ?, "
            "json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]') FROM json_each(?)",
            self._job,
            name,
            json.dumps(values),
        )
        await self._write(
            "INSERT INTO batches VALUES (?, ?, ?, ?, '', '', ?)", name, self._job, WRITTEN, str(file), len(requests)
        )

    async def uploaded(self, name: str, input_file_id: str) -> None:
        await self._write(
            "UPDATE batches SET state = ?, input_file_id = ? WHERE name = ?", UPLOADED, input_file_id, name
        )

    async def submitting(self, name: str) -> None:
        """Note that the next call may create the batch."""
        await self._write("UPDATE batches SET state = ? WHERE name = ?", SUBMITTING, name)

    async def submitted(self, name: str, batch_id: str) -> None:
        await self._write("UPDATE batches SET state = ?, batch_id = ? WHERE name = ?", SUBMITTED, batch_id, name)

    async def not_accepted(self, name: str) -> None:
        """Note that the service has the file, but did not accept the batch: it is submitted again later."""
        await self._write("UPDATE batches SET state = ?, batch_id = '' WHERE name = ?", UPLOADED, name)

    async def fetched(self, name: str, failures: Mapping[str, RequestFailure]) -> None:
        """Note that all answers of a batch are stored. failures: of its other requests, by custom id."""
        await self.failed(failures)
        await self._write("UPDATE batches SET state = ? WHERE name = ?", FETCHED, name)
        await self._write("DELETE FROM batch_requests WHERE job = ? AND batch = ?", self._job, name)

    async def failed(self, failures: Mapping[str, RequestFailure]) -> None:
        """Note failures of requests by custom id."""
        values = [
            [request, failure.stage, well_formed(failure.message), well_formed(clip.path), clip.partial, clip.is_image]
            for request, failure in failures.items()
            for clip in (failure.clip,)
        ]
        fields = ", ".join(f"json_extract(value, '$[{number}]')" for number in range(6))
        await self._write(
            f"INSERT OR REPLACE INTO batch_failures SELECT ?, {fields} FROM json_each(?)", self._job, json.dumps(values)
        )

    async def forget(self, name: str) -> None:
        """Forget a batch: its requests are new again."""
        await self._write("DELETE FROM batches WHERE name = ?", name)
        await self._write("DELETE FROM batch_requests WHERE job = ? AND batch = ?", self._job, name)

    async def forget_failures(self) -> None:
        """The next run tries the failed requests again."""
        await self._write("DELETE FROM batch_failures WHERE job = ?", self._job)

    async def _write(self, statement: str, *parameters: Any) -> None:
        await asyncio.wrap_future(self._store.write(statement, parameters))


def has_tables(store: AnswerStore) -> bool:
    """Whether any run with the Batch API has used the file of a store."""
    return bool(store.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'batches'"))


def open_requests(batches: Iterable[BatchRecord]) -> int:
    """The number of requests of these batches."""
    return sum(batch.requests for batch in batches)
