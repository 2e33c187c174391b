"""The finished rows of one rank: into its journal, into its counts, and an end of the run if too many of them fail."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence

from ..captioners.api.errors import BLOCKED, EMPTY, INVALID, REFUSED, REJECTED, SERVICE
from ..clips.time_range import TimeRange
from ..journal.journal import Journal
from ..meta.names import failures_path
from ..meta.ranges import row_name
from ..meta.results import RowResult
from ..process.errors import RunError
from ..process.limited_log import LimitedLog
from ..workers.world import World
from .options import JobOptions
from .rank_stats import RankStats

logger = logging.getLogger(__name__)

FAILURE_WINDOW = 1000
"""Number of last rows to which `--max_failure_rate` applies."""
DEVICE_FAILURES = 8
"""If this many clips in a row failed in the captioner, each captioned alone, the device is the cause, not the clips."""
SERVICE_FAILURES = 32
"""If this many rows in a row have no caption because the service did not answer, the service is the cause."""


class MassFailure(RunError):
    """Too many rows failed: the clips are not the cause."""


_ANSWERED = (BLOCKED, REFUSED, EMPTY, INVALID)
"""Stages of failures that are answers of a service."""
_HINTS = {
    **dict.fromkeys(("path", "decode"), "check that the disks of the clips are mounted"),
    **dict.fromkeys(_ANSWERED, "see the messages above, and change the question or the model"),
    REJECTED: "the service does not accept the requests, see the messages above",
    SERVICE: "check that the service works, see the messages above",
}
"""What to do if most rows fail, by the stage at which they fail."""


class FinishedRows:
    """Records the results of rows. For the end of a run because of failures, a row counts if it has no caption.

    max_service_failures: as SERVICE_FAILURES; more if requests fail together, as those of an expired batch do.
    max_rejections: rows in a row whose requests the service may not accept before it has answered any.
    service_has_answered: whether the service has ever answered in this run, or in an interrupted one that it resumes.
    """

    service_has_answered = False

    def __init__(
        self,
        options: JobOptions,
        journal: Journal,
        world: World,
        stats: RankStats,
        max_service_failures: float = SERVICE_FAILURES,
        max_rejections: float = SERVICE_FAILURES,
    ) -> None:
        self._max_rejections = max_rejections
        self._max_service_failures = max_service_failures
        self._max_failure_rate = options.max_failure_rate
        self._journal, self._world, self._stats = journal, world, stats
        self._recent: deque[str] = deque(maxlen=FAILURE_WINDOW)  # the stage at which a row failed; empty if none
        self._device_failures = self._service_failures = self._rejections = 0
        place = f"the journal until the run ends, then in {failures_path(options.output).name}"
        self._warnings = LimitedLog(logger, place)

    def close(self) -> None:
        self._warnings.close()

    def add(self, result: RowResult, path: str, part: TimeRange | None = None) -> None:
        """Record the result of a row.

        path, part: of its file, for the log; `part` is None for the whole file.

        Raises:
            MassFailure: more than `max_failure_rate` of the last FAILURE_WINDOW rows have no caption,
                DEVICE_FAILURES clips in a row have none because of errors in the captioner, or
                `max_service_failures` rows in a row have none because the service did not answer, or
                `max_rejections` because it has not accepted any request so far.
            RunError: the journal can't be written.
        """
        self._journal.finish([result])
        failures = result.failures
        for failure, columns in failures.items():
            column = "" if len(columns) == len(result.columns) else f", {', '.join(columns)}"
            self._warnings.warning("row %d (%s%s): %s", result.row, row_name(path, part), column, failure)
        stages = [] if result.has_caption else [failure.stage for failure in failures]
        self._recent.append(stages[0] if stages else "")
        self._device_failures = self._device_failures + 1 if "caption" in stages else 0
        self._count_service_failure(result.has_caption, stages)
        failed = sum(map(len, failures.values()))
        self._stats.failed += failed
        self._stats.captioned += len(result.columns) - failed
        self._stats.failed_rows += bool(failures)
        self._stats.captioned_rows += result.has_caption
        self._stats.tokens += result.tokens
        self._world.watchdog.progress()
        self.report_counts()
        self._check_failure_rate()

    def _count_service_failure(self, has_caption: bool, stages: Sequence[str]) -> None:
        if has_caption or any(stage in _ANSWERED for stage in stages):
            self._service_failures = self._rejections = 0
        elif SERVICE in stages:
            self._service_failures += 1
        elif REJECTED in stages:
            self._service_failures = 0
            self._rejections = 0 if self.service_has_answered else self._rejections + 1
        # A row that was not sent, because its clip could not be loaded, says nothing about the service.

    def report_counts(self) -> None:
        """Report this rank's counts to rank 0; a row counts when its result is durable."""
        self._world.report_counts(self._journal.durable, self._stats.failed_rows, 1)

    def _check_failure_rate(self) -> None:
        if self._device_failures >= DEVICE_FAILURES:
            raise MassFailure(
                f"{self._device_failures} clips in a row failed in the captioner, each captioned alone: the device or "
                "the framework is at fault, see the messages above. The next run captions these clips again"
            )
        if self._service_failures >= self._max_service_failures:
            raise MassFailure(
                f"the service did not answer the requests of {self._service_failures} rows in a row, see the messages "
                "above. The next run asks again"
            )
        if self._rejections >= self._max_rejections:
            raise MassFailure(
                f"the service has not accepted any request, of {self._rejections} rows, see the messages above. Change "
                "what the messages name; the next run asks again"
            )
        if len(self._recent) < FAILURE_WINDOW:
            return
        failed = FAILURE_WINDOW - self._recent.count("")
        if failed > self._max_failure_rate * FAILURE_WINDOW:
            stage = Counter(filter(None, self._recent)).most_common(1)[0][0]
            raise MassFailure(
                f"{failed} of the last {FAILURE_WINDOW} rows failed, most of them at stage {stage}, more than "
                f"--max_failure_rate {self._max_failure_rate:g}: {_HINTS.get(stage, 'see the messages above')}. The "
                "next run captions the failed rows again"
            )
