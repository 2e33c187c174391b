"""Open batches of an interrupted run, for a run that does not use the Batch API. Knows nothing about the network."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..store import AnswerStore
from .records import OPEN, BatchRecord, BatchRecords, has_tables


def open_batches(store: AnswerStore, job: str) -> list[BatchRecord]:
    """The open batches of a job. job: of `job_of`."""
    return BatchRecords(store, job).batches(*OPEN) if has_tables(store) else []


async def forget(store: AnswerStore, job: str, batches: Sequence[BatchRecord]) -> None:
    """Forget batches, and remove their request files."""
    records = BatchRecords(store, job)
    for batch in batches:
        await records.forget(batch.name)
        batch.file.unlink(missing_ok=True)
    for folder in {batch.file.parent for batch in batches}:
        _remove_if_empty(folder)


def ids_of(batches: Sequence[BatchRecord]) -> str:
    """The ids of batches at the service, or of their files there, as text; empty if the service has none."""
    return ", ".join(
        batch.batch_id or batch.input_file_id for batch in batches if batch.batch_id or batch.input_file_id
    )


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or there is none
        folder.rmdir()
