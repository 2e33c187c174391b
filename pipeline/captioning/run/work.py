"""The work of one rank: take rows from the loader, give requests to the engine, write results to the journal.

Knows nothing about the meta table and about other ranks, except what `World` and the plan provide.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..captioners.base import Captioner, Refused
from ..generation.length_limit import FLAGS
from ..generation.requests import End, EndReason, Engine
from ..journal.journal import Journal
from ..meta.results import ColumnResult, Failure, caption_result
from ..process.errors import RunError
from ..process.signals import interruption
from ..workers.leases import PENDING, RETRIES, LeasedRows, RowTask
from ..workers.world import World
from .finished_rows import FinishedRows
from .loaded_model import LoadedModel
from .model_rows import AskedRow, EndedRow, ModelRows, RowLoader
from .options import JobOptions
from .planning import RankPlan
from .rank_stats import RankStats

logger = logging.getLogger(__name__)

RETRY_DIVISOR = 8
"""Rows that were in flight when a worker died, with many others, are retried with the slots divided by this."""
FIRST_STEP_SECONDS = 7200.0
"""Time limit of the first step, which may compile for a long time."""
_DECODER_START_SECONDS = 300.0
"""Time limit for starting a decoding process; large enough for any slow disk."""
_POLL_SECONDS = 0.2
"""Time between two checks whether the run has been interrupted."""


@dataclass
class _Group:
    """Rows that are captioned separately from other rows, because an error occurred while they were in flight.

    slots: maximum number of these rows in flight.
    """

    slots: int
    rows: deque[AskedRow] = field(default_factory=deque)


@dataclass
class RankWorker:
    """Captions the rows that one rank leases from rank 0."""

    options: JobOptions
    rows: ModelRows
    model: LoadedModel
    journal: Journal
    world: World
    stats: RankStats = field(default_factory=RankStats)

    def __post_init__(self) -> None:
        self._captioner: Captioner | None = None
        self._finished = FinishedRows(self.options, self.journal, self.world, self.stats)
        options = self.options
        decoders = 2  # tried one after the other, each with the full time limit
        self._clip_seconds = _DECODER_START_SECONDS + decoders * options.decode_timeout + options.download_timeout

    def run(self, plan: RankPlan) -> RankStats:
        """Lease and caption rows until no row is left. When this returns, every result is in the journal.

        Raises:
            MassFailure: see `FinishedRows`.
            RunError: the captioner failed before it accepted a clip, the journal can't be written, or the run failed
                on another rank.
            KeyboardInterrupt: a signal interrupted the run.
        """
        with contextlib.closing(self._finished):
            self._run(plan)
        backend = self.model.backend
        self.stats.backend = f"{backend.framework} on {backend.device} in {backend.dtype_name}"
        if self._captioner is not None:
            self.stats.stages = dict(self._captioner.stages())
        self.stats.peak_device_memory_mib = backend.peak_memory() / 2**20
        self.stats.peak_memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return self.stats

    def _run(self, plan: RankPlan) -> None:
        for kind in (PENDING, RETRIES):
            rows = LeasedRows(functools.partial(self.world.lease, kind), self.journal.lease)
            if rows.has_rows:
                # Clips are decoded while the model is being loaded.
                with self._loader(rows, plan, rows.clips_ahead) as loader:
                    captioner = self._loaded_captioner()
                    is_retry = kind == RETRIES
                    slots = max(1, self.stats.slots // RETRY_DIVISOR) if is_retry else self.stats.slots
                    self.caption(loader, captioner, slots, is_retry)
        if plan.has_isolated:
            self.journal.record_waiting()
            self.world.barrier()
        if plan.isolated:
            with self._loader(plan.isolated, plan, lambda: sys.maxsize) as loader:
                self.caption(loader, self._loaded_captioner(), slots=1)

    def _loaded_captioner(self) -> Captioner:
        """The captioner; the first call loads it."""
        if self._captioner is None:
            begin = time.monotonic()
            self._captioner = self.model.captioner
            self.stats.load_seconds += time.monotonic() - begin
            logger.info("model loaded in %.1f s", self.stats.load_seconds)
            self.stats.slots = self.options.batch_size or self.rows.max_slots(self._captioner)
            self.journal.loaded()
            self._finished.report_counts()
            self.world.watchdog.progress()
            self.world.watchdog.allow(FIRST_STEP_SECONDS)
        return self._captioner

    def _loader(self, tasks: Iterable[RowTask], plan: RankPlan, ahead: Callable[[], int]) -> RowLoader:
        return self.rows.loader(tasks, self.options, plan.host_workers, self.stats.slots, ahead)

    def caption(self, loader: RowLoader, captioner: Captioner, slots: int, is_retry: bool = False) -> None:
        """Caption all clips of `loader`.

        The loop loads clips, prepares their requests, adds these to the engine, calls its `step`, and writes the
        results of rows whose questions are all answered to the journal.

        slots: maximum number of clips in flight.
        is_retry: the rows were in flight when a worker died.
        """
        engine: Engine | None = None
        engine_slots, in_flight = 0, dict[int, AskedRow]()
        # The loader fills the first group, `_recover` adds others. The last group is captioned first.
        groups = [_Group(slots)]
        with interruption.postponed():
            while groups:
                group, group_loader = groups[-1], loader if len(groups) == 1 else None
                may_load = group_loader is not None and not group_loader.has_ended
                if not in_flight and (not (group.rows or may_load) or interruption.requested):
                    groups.pop()
                    engine = None
                    continue
                if engine is None:
                    most = group.slots if may_load else min(group.slots, len(group.rows))
                    engine, engine_slots = self._engine(captioner, most)
                rows = self._next_rows(group, group_loader, captioner, engine, is_retry)
                in_flight |= {asked.row: asked for asked in rows}
                begin, problem = time.monotonic(), None
                try:
                    self._prepare(captioner, engine, rows)
                    events = engine.step() if in_flight and not (rows and engine.requests_needed) else []
                    for event in events:
                        if isinstance(event, End):
                            in_flight[_row(event.key)].answer(event.question, _answer(captioner, event))
                except Exception as error:
                    problem = _one_line(error), self.model.backend.is_out_of_memory(error)
                self.stats.device_seconds += time.monotonic() - begin
                if problem is not None:
                    engine = None
                    self._recover(groups, in_flight, engine_slots, *problem)
                    continue
                if events:
                    self.world.watchdog.progress()
                for asked in list(in_flight.values()):
                    if asked.is_answered:
                        del in_flight[asked.row]
                        self._finish(asked)
                    elif asked.may_ask_next:
                        del in_flight[asked.row]
                        group.rows.append(asked)
        self.stats.decode_wait_seconds += loader.wait_seconds
        self.stats.decode_seconds += loader.decode_seconds

    def _engine(self, captioner: Captioner, most: int) -> tuple[Engine, int]:
        """A new engine and its number of slots: `most`, or fewer if the memory does not suffice.

        Raises:
            RunError: the engine can't be made, not even with one slot if the reason is out of memory.
        """
        slots = min(most, self.stats.slots)
        try:
            engine = captioner.engine(slots)
            engine.on_token = self.world.watchdog.progress
            return engine, slots
        except Exception as error:
            if slots == 1 or not self.model.backend.is_out_of_memory(error):
                raise RunError(f"the captioner failed before it accepted a clip: {_one_line(error)}") from error
        self._halve_slots(slots)
        return self._engine(captioner, most)

    def _halve_slots(self, slots: int) -> None:
        self.model.backend.release_memory()
        self.stats.slots = slots // 2
        logger.warning("out of memory with %d clips in flight; continuing with %d", slots, slots // 2)

    def _next_rows(
        self, group: _Group, loader: RowLoader | None, captioner: Captioner, engine: Engine, is_retry: bool
    ) -> list[AskedRow]:
        """The next rows for the engine: first those of the group, then those of the loader.

        Waits for rows only if another step of the engine is not worthwhile without them. A row that cannot be loaded
        becomes a failure.
        """
        if engine.waiting or interruption.requested:
            return []
        most = min(engine.free, captioner.clips_together)
        of_group = [group.rows.popleft() for _ in range(min(most, len(group.rows)))]
        new: list[AskedRow] = []
        while len(of_group + new) < most and not interruption.requested:
            if loader is None or loader.has_ended:
                break
            must_wait = len(of_group + new) < engine.requests_needed
            loaded = loader.next_row(_POLL_SECONDS if must_wait else 0.0)
            if isinstance(loaded, EndedRow):
                self._finished.add(loaded.result, loaded.path, loaded.range)
            elif loaded is not None:
                new.append(loaded)
            elif not must_wait:
                break
            else:
                self.world.watchdog.allow(self._clip_seconds)
        if new:
            self.journal.start([asked.row for asked in new], is_retry)
        return of_group + new

    def _recover(
        self, groups: list[_Group], in_flight: dict[int, AskedRow], slots: int, message: str, out_of_memory: bool
    ) -> None:
        """Arrange that all rows in flight are asked again after an error; a new engine takes them.

        They become a group of their own with half as many in flight. This is repeated until only the row that causes
        the error fails, and then until only the question about it that causes the error fails. Answers that have
        arrived are kept. Out of memory instead halves the slots for the rest of the run.
        """
        rows = list(in_flight.values())
        in_flight.clear()
        if not rows:
            raise RunError(f"the captioner failed before it accepted a clip: {message}")
        if slots == 1 or (len(rows) == 1 and not out_of_memory):
            for asked in rows:
                if asked.fail_asked(Failure("caption", (message,))):
                    self._finish(asked)
                else:
                    groups.append(_Group(1, deque([asked])))
        elif out_of_memory:
            self._halve_slots(slots)
            groups[-1].rows.extendleft(reversed(rows))
        else:
            half = len(rows) // 2
            logger.warning("an error (%s) with %d clips in flight; continuing with %d", message, len(rows), half)
            groups.append(_Group(half, deque(rows)))

    def _prepare(self, captioner: Captioner, engine: Engine, rows: Sequence[AskedRow]) -> None:
        """Add the requests of rows to the engine. A question that can't be asked is answered with a failure."""
        if not rows:
            return
        now, by_row = time.monotonic(), {asked.row: asked for asked in rows}
        for asked in rows:
            asked.added = now if asked.added is None else asked.added
        # A request keeps its embeddings, so no variable may keep it: that would be the memory of a whole batch.
        for request in self.rows.requests(captioner, rows):
            if isinstance(request, Refused):
                message = request.message + (FLAGS if request.is_too_long else "")
                by_row[request.row].answer(request.question, Failure("prompt", (message,)))
            else:
                engine.add(request)

    def _finish(self, asked: AskedRow) -> None:
        result = asked.result()
        if self.options.times_rows and asked.added is not None:
            result = replace(result, seconds=round(time.monotonic() - asked.added, 3), frames=asked.frames)
        self._finished.add(result, asked.path, asked.range)


def _row(key: Hashable) -> int:
    assert isinstance(key, tuple) and isinstance(key[0], int), "the key of a request is (row, question)"
    return key[0]


def _answer(captioner: Captioner, end: End) -> ColumnResult:
    if end.is_error:
        if end.reason is EndReason.TOO_LONG:
            return Failure("prompt", (end.message + FLAGS,))
        return Failure("caption", (end.message,))
    caption = captioner.caption(end)
    return caption_result(caption.text, caption.tokens, caption.truncated)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
