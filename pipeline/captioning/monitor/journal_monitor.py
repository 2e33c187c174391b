"""Polls the journals of a folder: the progress of the newest run, and the speed of each rank.

Each poll reads only the lines that were added since the previous poll, so frequent polls cost little.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from ..journal.folder import journals
from .journal_tail import JournalTail
from .run_progress import RankProgress, RunProgress
from .service_usage import added
from .speed import Speed


class JournalMonitor:
    """Polls the journals of one folder.

    last: the result of the last poll that found journals; None before that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: RunProgress | None = None
        self._tails: dict[Path, JournalTail] = {}
        self._removed: set[Path] = set()
        self._speeds: dict[int, Speed] = {}

    def poll(self) -> RunProgress | None:
        """Progress of the newest run; None if there is no journal."""
        self._read_journals()
        if not self._tails:
            return None
        newest = max(tail.run for tail in self._tails.values())
        if self.last is not None and newest == self.last.run and self._removed:
            return self.last  # the journals are being removed one by one: the remaining ones do not cover the run
        if self.last is None or newest != self.last.run:
            self._speeds.clear()
            self._removed.clear()
        self.last = RunProgress(newest)
        for _, tail in sorted(self._tails.items()):
            self._add_journal(tail, self.last)
        return self.last

    def _read_journals(self) -> None:
        with contextlib.suppress(OSError):  # the folder is being removed
            for path in journals(self.folder):
                self._tails.setdefault(path, JournalTail(path))
        for path, tail in list(self._tails.items()):
            try:
                tail.read_new_lines()
                self._removed.discard(path)
            except OSError:
                del self._tails[path]
                self._removed.add(path)

    def _add_journal(self, tail: JournalTail, progress: RunProgress) -> None:
        is_of_this_run = tail.run == progress.run
        if not is_of_this_run:
            tail.end_session()
        progress.finished_before += tail.finished_before
        progress.failed_before += tail.failed_before
        progress.failures.update(tail.failures)
        progress.service = added(progress.service, tail.usage)
        progress.has_ranges = progress.has_ranges or tail.has_ranges
        progress.finished_rows += [tail.captioned_rows, tail.failed_rows]
        for stage, example in tail.examples.items():
            progress.examples.setdefault(stage, example)
        if is_of_this_run:
            progress.ranks.append(tail.progress)
            if tail.progress.has_loaded:
                self._speeds.setdefault(tail.progress.rank, Speed()).record(time.time(), tail.progress.done)

    def clips_per_second(self, rank: RankProgress) -> float:
        """Recent speed of a rank if polls cover at least 10 s; otherwise its mean speed since `started_at`."""
        speed = self._speeds.get(rank.rank, Speed())
        if speed.seconds >= 10 and speed.per_second() >= 0:
            return speed.per_second()
        seconds = rank.written_at - rank.started_at
        return rank.done / seconds if seconds > 0 else 0.0
