"""What is known about the questions of the rows of a run with `--batch`, and the results of the rows.

Knows nothing about the service and about request files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...captioners.api.answer import NO_CLIP, AnsweredClip
from ...captioners.api.asker import Asker, Attempt, StoredResult
from ...captioners.api.batch.records import BatchRecords, custom_id
from ...captioners.api.usage import Usage
from ...clips.clip import Clip
from ...meta.results import ColumnResult, Failure, RowResult
from ...workers.leases import RowTask
from .rows import ServiceRows


@dataclass
class KnownAnswers:
    """What is known about the questions of a row, by number.

    stored: results of the store, with their keys. failures: of requests. local: results that no service gives.
    asked: questions that are in a request file or an open batch. new: those that must be asked, with their keys.
    clip: as far as it is known without loading it.
    """

    stored: dict[int, tuple[str, StoredResult]] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    local: dict[int, ColumnResult] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    new: dict[int, tuple[str, Attempt]] = field(default_factory=dict)
    clip: AnsweredClip | None = None


class BatchQuestions:
    """The questions of all rows. `keys` and `known` are thread-safe.

    needed: names of the open batches that have questions of the rows.

    is_written: whether a request, by custom id, is in the request file that is being written.
    """

    def __init__(
        self,
        rows: ServiceRows,
        asker: Asker,
        records: BatchRecords,
        is_written: Callable[[str], bool],
        usage: Usage,
    ) -> None:
        self._rows, self._asker, self._records, self._is_written = rows, asker, records, is_written
        self._usage = usage
        self.needed: set[str] = set()
        # Of rows with results that no service gives: the clip can't be loaded, or a question may not be asked about it.
        self._local: dict[int, dict[int, ColumnResult]] = {}
        self._clips: dict[int, AnsweredClip] = {}
        self._paid_now: set[bytes] = set()  # keys of answers of this run that no result has used yet

    def keys(self, task: RowTask) -> Mapping[int, str] | None:
        """The keys of the row's questions; None if its file can't be read, which the decoder reports better."""
        try:
            return self._rows.keys(task)
        except (OSError, ValueError):
            return None

    def known(self, task: RowTask, keys: Mapping[int, str]) -> KnownAnswers:
        """What is known about the questions of a row. keys: of `keys`."""
        local = self._local.get(task.row, {})
        known = KnownAnswers(clip=self._clips.get(task.row))
        for number, key in keys.items():
            found = self._asker.next(key)
            if number in local:
                known.local[number] = local[number]
                continue
            if isinstance(found, StoredResult):
                known.stored[number], known.clip = (key, found), found.clip
                continue
            request = custom_id(key, found.number)
            if self._is_written(request):
                known.asked.append(number)
            elif batch := self._records.batch_of(request):
                self.needed.add(batch)
                known.asked.append(number)
            elif failure := self._records.failure(request):
                text = failure.message if found.number == 0 else f"asked once more ({found.note}): {failure.message}"
                known.failures[number], known.clip = Failure(failure.stage, (text,)), failure.clip
            else:
                known.new[number] = key, found
        if known.clip is not None:
            for number, result in self._rows.refused(task, known.clip.is_image).items():
                for others in (known.stored, known.failures, known.new):
                    others.pop(number, None)
                known.local[number] = result
        return known

    def loaded(self, task: RowTask, clip: Clip) -> None:
        """Remember which questions may not be asked about a clip."""
        refused = self._rows.refused(task, clip.is_image)
        if refused:
            self._local.setdefault(task.row, {}).update(refused)
            self._clips[task.row] = AnsweredClip(task.path, clip.partial, clip.is_image)

    def failed(self, task: RowTask, number: int, failure: Failure) -> None:
        """Remember that a question can't be asked."""
        self._local.setdefault(task.row, {})[number] = failure

    def paid(self, key: str) -> None:
        """Remember that an answer was paid in this run."""
        self._paid_now.add(bytes.fromhex(key))

    def result(self, task: RowTask, known: KnownAnswers) -> RowResult:
        """The result of a row, if no question is asked or new any more. Counts its outcomes."""
        self._local.pop(task.row, None)
        self._clips.pop(task.row, None)
        results: dict[int, ColumnResult] = {**known.local, **known.failures}
        for failure in known.failures.values():
            self._usage.outcomes[failure.stage] += 1
        for number, (key, stored) in known.stored.items():
            results[number] = stored.result
            digest = bytes.fromhex(key)
            if digest in self._paid_now:
                self._paid_now.remove(digest)
                self._usage.outcomes[stored.outcome] += 1
            else:
                self._asker.count_stored(stored)
        return self._rows.result(task, results, known.clip or NO_CLIP)
