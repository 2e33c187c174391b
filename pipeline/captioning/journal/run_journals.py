"""The journals of all ranks on all hosts, used as one: opened, read, gathered, forgotten and removed.

Ranks of one host, and hosts with a shared file system, keep their journals in the same folder. The first of these ranks
is the keeper of the folder: it does what is to be done once. Knows no meta table and no captioner.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..meta.results import RowResult
from ..workers.gather import words_of
from ..workers.world import World
from . import folder as folders
from .folder_id import folder_id
from .journal import Journal
from .reader import Fingerprint, JournalContents, read_result_lines

_ROWS_PER_RECORD = 2000


class RunJournals:
    """This rank's view of the journals of a run. Constructing it, `contents` and `results` are collective: every rank
    of the run must call them.

    is_keeper: whether this rank does what is to be done once for its folder.

    Raises:
        RunError: the folder can't be made.
    """

    def __init__(self, world: World, output: Path) -> None:
        self.folder = folders.journal_folder(output)
        self._world = world
        ids = world.gather_json(folder_id(self.folder))
        self._ranks = [rank for rank, found in enumerate(ids) if found == ids[world.rank]]
        self.is_keeper = world.rank == min(self._ranks)

    def contents(self, restart: bool) -> JournalContents:
        """What the journals on all hosts hold, on rank 0; nothing on the others.

        restart: read nothing. The journals are removed later, when no usage error is possible any more.

        Raises:
            RunError: a journal can't be read, or a line is damaged.
        """
        reads = self.is_keeper and not restart
        # A run that failed for another cause than its clips may have noted this on one rank only.
        if any(self._world.gather_json(reads and folders.asks_to_forget_failures(self.folder))) and reads:
            folders.forget_failures(self.folder)
        own = folders.read_contents(self.folder) if reads else JournalContents()
        contents = JournalContents()
        for record in map(json.loads, self._world.gather(_contents_records(own), is_wanted=self._world.is_leader)):
            contents.fingerprints += [f for f in record["fingerprints"] if f not in contents.fingerprints]
            contents.finished.update(record["finished"])
            contents.deaths.update(Counter({int(row): count for row, count in record["deaths"].items()}))
            contents.retried.update(record["retried"])
        return contents

    def open(self, fingerprint: Fingerprint, run: str, rows: int, ranks: int) -> Journal:
        """This rank's journal; see `Journal`."""
        return Journal(self.folder, self._world.rank, fingerprint, run, rows, ranks)

    def results(self, pad_length: int) -> Iterator[RowResult]:
        """The results in the journals of all ranks, on rank 0; nothing on the others. A row may come twice.

        pad_length: longest record that is gathered, in int32 words.
        """
        for record in self._world.gather(self._own_results(pad_length), is_wanted=self._world.is_leader):
            yield RowResult.from_json(record.decode("utf-8", "replace"))

    def _own_results(self, pad_length: int) -> Iterator[bytes]:
        """The results in this rank's journal. The keeper adds the journals of ranks that this run does not have."""
        paths = [folders.journal_path(self.folder, self._world.rank)]
        if self.is_keeper:
            owned = {folders.journal_path(self.folder, rank) for rank in self._ranks}
            paths += [path for path in folders.journals(self.folder) if path not in owned]
        for path in paths:
            if path.exists():
                for line in read_result_lines(path):
                    yield fitted_record(line, pad_length)

    def ask_to_forget_failures(self) -> None:
        """Note in this rank's journal that the failures of this run had another cause than the clips."""
        folders.ask_to_forget_failures(self.folder, self._world.rank)

    def forget_failures(self) -> None:
        """Let the next run try all failed rows again."""
        if self.is_keeper:
            folders.forget_failures(self.folder)

    def remove_unused(self) -> None:
        """Remove the folder if no run has written a journal there."""
        folders.remove_unused_folder(self.folder)

    def remove_earlier(self) -> None:
        """Remove the journals of earlier runs, but not the folder.

        Raises:
            RunError: another run is writing to one, or it can't be removed.
        """
        if self.is_keeper:
            folders.remove_journals(self.folder)

    def remove(self) -> None:
        """Remove journals and folder, when the output is written."""
        if self.is_keeper:
            folders.remove_folder(self.folder)


def fitted_record(record: bytes, pad_length: int) -> bytes:
    """A result as it is gathered, made from its line in a journal: at most `pad_length` int32 words.

    A caption that does not fit becomes a failure; the messages of a failure are cut.
    """
    if words_of(record) <= pad_length:
        return record
    result = RowResult.from_json(record.decode("utf-8", "replace"))
    if result.failure is None:
        message = f"the caption takes {words_of(record)} words of 4 bytes, more than --pad_length {pad_length}"
        result = RowResult.failed(result.row, "gather", [message])
    else:
        # A character takes up to 12 bytes when it is escaped in JSON; half of the space is for the rest.
        characters = pad_length * 4 // 2 // 12
        result = RowResult.failed(result.row, result.failure.stage, ["; ".join(result.failure.messages)[:characters]])
    record = result.to_json().encode("utf-8", "replace")
    assert words_of(record) <= pad_length
    return record


def _contents_records(contents: JournalContents) -> Iterator[bytes]:
    yield _packed(contents.fingerprints, [], contents.deaths, sorted(contents.retried))
    finished = sorted(contents.finished)
    for start in range(0, len(finished), _ROWS_PER_RECORD):
        yield _packed([], finished[start : start + _ROWS_PER_RECORD], {}, [])


def _packed(fingerprints: Any, finished: Sequence[int], deaths: Any, retried: Sequence[int]) -> bytes:
    record = {"fingerprints": fingerprints, "finished": finished, "deaths": deaths, "retried": retried}
    return json.dumps(record).encode("ascii")
