"""The journals of all ranks on all hosts as one object: open, read, gather and remove them, forget failures.

Ranks of one host, and hosts with a shared file system, keep their journals in the same folder. The lowest of these
ranks is the keeper of the folder: it does everything that has to be done only once for the folder. Knows nothing about
the meta table and the captioner.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..meta.results import CaptionResult, ColumnResult, Failure, RowResult, as_json
from ..workers.gather import words_of
from ..workers.world import World
from . import folder as folders
from .folder_id import folder_id
from .journal import Journal
from .reader import Fingerprint, JournalContents, read_result_lines

MIN_PAD_LENGTH = 64
"""In int32 words. A failure whose messages are shortened must fit into this size."""
_ROWS_PER_RECORD = 2000


class RunJournals:
    """The journals of a run, as one rank uses them. A context manager that closes the journal of this rank.

    The constructor, `contents` and `results` are collective: every rank of the run must call them.

    Raises:
        RunError: the folder can't be created.
    """

    def __init__(self, world: World, output: Path) -> None:
        self.folder = folders.journal_folder(output)
        self._world = world
        ids = world.gather_json(folder_id(self.folder))
        self._ranks = [rank for rank, found in enumerate(ids) if found == ids[world.rank]]
        self._is_keeper = world.rank == min(self._ranks)
        self._journal: Journal | None = None

    def __enter__(self) -> RunJournals:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if self._journal is not None:
            self._journal.__exit__(kind, error, traceback)

    def contents(self, restart: bool) -> JournalContents:
        """The contents of the journals on all hosts, on rank 0; empty on other ranks. Collective.

        restart: do not read the journals. They are removed later, when a usage error is no longer possible.

        Raises:
            RunError: a journal can't be read, or a line is damaged.
        """
        reads = self._is_keeper and not restart
        # If the clips were not the cause of a run's failures, possibly only one rank has recorded that.
        if any(self._world.gather_json(reads and folders.asks_to_forget_failures(self.folder))) and reads:
            folders.forget_failures(self.folder)
        own = folders.read_contents(self.folder) if reads else JournalContents()
        contents = JournalContents()
        for record in map(json.loads, self._world.gather(_contents_records(own), is_wanted=self._world.is_leader)):
            contents.fingerprints += [f for f in record["fingerprints"] if f not in contents.fingerprints]
            for run, column, rows in record["captioned"]:
                contents.add_captions(run, column, rows)
            for column, rows in record["failed"]:
                contents.add_failures(column, rows)
            for run, counts in record["died"].items():
                contents.add_deaths(run, {int(row): count for row, count in counts.items()})
            contents.retried.update(record["retried"])
        return contents

    def open(self, fingerprint: Fingerprint, run: str, rows: int, ranks: int) -> Journal:
        """Open this rank's journal; see `Journal`."""
        self._journal = Journal(self.folder, self._world.rank, fingerprint, run, rows, ranks)
        return self._journal

    def results(self, pad_length: int) -> Iterator[RowResult]:
        """Yield the results in the journals of all ranks on rank 0, nothing on other ranks. Collective.

        A row may have more than one result.

        pad_length: maximum size of a gathered record, in int32 words.
        """
        for record in self._world.gather(self._own_results(pad_length), is_wanted=self._world.is_leader):
            yield RowResult.from_json(record.decode("utf-8", "replace"))

    def _own_results(self, pad_length: int) -> Iterator[bytes]:
        """The results in this rank's journal. The keeper adds the journals of ranks that do not exist in this run."""
        paths = [folders.journal_path(self.folder, self._world.rank)]
        if self._is_keeper:
            owned = {folders.journal_path(self.folder, rank) for rank in self._ranks}
            paths += [path for path in folders.journals(self.folder) if path not in owned]
        for path in paths:
            if path.exists():
                for line in read_result_lines(path):
                    yield fitted_record(line, pad_length)

    def ask_to_forget_failures(self) -> None:
        """Record in this rank's journal that the clips are not the cause of this run's failures."""
        folders.ask_to_forget_failures(self.folder, self._world.rank)

    def forget_failures(self) -> None:
        """Record that the failures do not count, so that the next run tries these rows again."""
        if self._is_keeper:
            folders.forget_failures(self.folder)

    def remove_unused(self) -> None:
        """Remove the folder if it has no journal."""
        folders.remove_unused_folder(self.folder)

    def remove_earlier(self) -> None:
        """Remove the journals of earlier runs, but not the folder.

        Raises:
            RunError: another run is writing to a journal, or a journal can't be removed.
        """
        if self._is_keeper:
            folders.remove_journals(self.folder)

    def remove(self) -> None:
        """Remove journals and folder after the output has been written."""
        if self._is_keeper:
            folders.remove_folder(self.folder)


def fitted_record(record: bytes, pad_length: int) -> bytes:
    """Shorten a result for gathering. record: its line in a journal, as UTF-8 JSON.

    Returns a record of at most `pad_length` int32 words, which is at least `least_pad_length`. The messages of failures
    are cut off; then captions become failures, the longest first, until the record fits.
    """
    words = words_of(record)
    if words <= pad_length:
        return record
    result = RowResult.from_json(record.decode("utf-8", "replace"))
    what = "caption takes" if len(result.results) == 1 else f"{len(result.results)} captions of the row take"
    failure = Failure("gather", (f"the {what} {words} words of 4 bytes, more than --pad_length {pad_length}",))
    captions = {column: one.caption for column, one in result.results.items() if isinstance(one, CaptionResult)}
    longest_last = sorted(captions, key=lambda column: len(as_json(captions[column])))
    # A character that is escaped in JSON takes up to 12 bytes; half of the size is for the other fields.
    characters = pad_length * 4 // 2 // 12 // len(result.results)
    while True:
        for candidate in (result, _with_short_messages(result, characters)):
            shortened = _encoded(candidate)
            if words_of(shortened) <= pad_length:
                return shortened
        result = dataclasses.replace(result, results={**result.results, longest_last.pop(): failure})


def least_pad_length(columns: Iterable[str]) -> int:
    """The least `pad_length` for which a record with failures in all of `columns` can be shortened to fit."""
    frame = RowResult.failed(10**12, columns, "prepare", [""])
    return 2 * words_of(_encoded(dataclasses.replace(frame, partial=True, is_image=True)))


def pad_length_problem(pad_length: int, max_new_tokens: int, columns: Sequence[str]) -> str | None:
    """Why `--pad_length` is too small for the results of a row, with a value that is enough; None if it is not.

    A token of a caption is taken to be one word of 4 bytes.
    """
    tokens = len(columns) * max_new_tokens
    least = max(MIN_PAD_LENGTH, least_pad_length(columns), tokens)
    if pad_length >= least:
        return None
    if pad_length < tokens:
        what = f"{len(columns)} captions of " if len(columns) > 1 else ""
        return (
            f"{what}--max_new_tokens {max_new_tokens} {'are' if what else 'is'} more than --pad_length {pad_length}: "
            f"long captions could not be gathered; give --pad_length {least} or more"
        )
    return f"--pad_length {pad_length} is too small for the failures of {len(columns)} columns; give {least} or more"


def _with_short_messages(result: RowResult, characters: int) -> RowResult:
    """`result` with the messages of each failure joined to one of at most this many characters."""

    def shortened(one: ColumnResult) -> ColumnResult:
        return Failure(one.stage, ("; ".join(one.messages)[:characters],)) if isinstance(one, Failure) else one

    return dataclasses.replace(result, results={column: shortened(one) for column, one in result.results.items()})


def _encoded(result: RowResult) -> bytes:
    return result.to_json().encode("utf-8", "replace")


def _contents_records(contents: JournalContents) -> Iterator[bytes]:
    """Journal contents as records of limited size."""
    yield _packed(fingerprints=contents.fingerprints, died=contents.died, retried=sorted(contents.retried))
    for run, columns in contents.captioned.items():
        for column, captioned in columns.items():
            for rows in _in_parts(captioned):
                yield _packed(captioned=[(run, column, rows)])
    for column, failed in contents.failed.items():
        for rows in _in_parts(failed):
            yield _packed(failed=[(column, rows)])


def _in_parts(rows: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(rows)
    for start in range(0, len(ordered), _ROWS_PER_RECORD):
        yield ordered[start : start + _ROWS_PER_RECORD]


def _packed(**parts: Any) -> bytes:
    """A record with some of the parts of `JournalContents`; the others are empty."""
    nothing: dict[str, Any] = {"fingerprints": [], "captioned": [], "failed": [], "died": {}, "retried": []}
    return json.dumps({**nothing, **parts}).encode("ascii")
