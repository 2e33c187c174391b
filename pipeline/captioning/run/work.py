"""One rank's work: clips from the loader, requests to the engine, results into the journal."""

from __future__ import annotations

import contextlib
import functools
import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..backends import Backend
from ..captioners.base import Captioner, CaptionerSource
from ..clips.clip import Clip, LoadFailure
from ..clips.killable import DecoderLimits
from ..clips.loader import ClipLoader, default_decode_workers
from ..generation.requests import End, EndReason, Engine, Request
from ..journal.journal import Journal
from ..meta.names import failures_path
from ..meta.results import RowResult, caption_result
from ..process.errors import RunError
from ..process.limited_log import LimitedLog
from ..process.signals import interruption
from ..workers.leases import PENDING, RETRIES, LeasedRows
from ..workers.world import World
from .options import JobOptions
from .planning import RankPlan

logger = logging.getLogger(__name__)

FAILURE_WINDOW = 1000
"""Rows over which `--max_failure_rate` is taken."""
AUTO_PREFETCH = 64
"""Clips decoded ahead with `--bs auto`, which is settled only when the model is loaded."""
RETRY_SHARE = 8
"""Clips that were in flight at a death with many others come again in batches so many times smaller."""
FIRST_STEP_SECONDS = 7200.0
"""The first step may compile for long."""
START_SECONDS = 300.0
"""For a decoding process to start, whatever it takes."""
_WAIT_SECONDS = 0.2
"""Between two looks at whether to stop."""
DEVICE_FAILURES = 8
"""So many clips in a row that failed in the captioner, each for itself, are the device's fault, not theirs."""


@dataclass
class RankStats:
    """What a rank did in this run.

    tokens: generated, end-of-sequence tokens included.
    load_seconds: until the model was loaded; `device_seconds` in the captioner, `decode_wait_seconds`
        waiting for clips, `decode_seconds` decoding them, beside the device.
    stages: what the captioner's stages took and did (`Captioner.stages`).
    slots: clips captioned at once, at the end.
    peak_memory_mib: most host memory that the worker's process has held, without its decoding process;
        peak_device_memory_mib: most memory of an accelerator that tensors took.
    backend: framework, device and computing type, in words.
    """

    captioned: int = 0
    failed: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    device_seconds: float = 0.0
    decode_wait_seconds: float = 0.0
    decode_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    slots: int = 0
    peak_memory_mib: float = 0.0
    peak_device_memory_mib: float = 0.0
    backend: str = ""


class MassFailure(RunError):
    """Too many rows in a row failed: the cause is not the clips."""


@dataclass
class _Group:
    """Clips that are captioned apart from the others after an error with them in flight.

    slots: at most so many at once.
    """

    slots: int
    clips: deque[Clip] = field(default_factory=deque)


@dataclass
class RankWorker:
    """Captions the rows that one rank leases."""

    options: JobOptions
    source: CaptionerSource
    backend: Backend
    journal: Journal
    world: World
    stats: RankStats = field(default_factory=RankStats)

    def __post_init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=FAILURE_WINDOW)
        self._device_failures = 0
        self._captioner: Captioner | None = None
        decoders = 2  # one after the other, each with the whole deadline
        self._clip_seconds = START_SECONDS + decoders * self.options.decode_timeout
        where = f"the journal until the run ends, then in {failures_path(self.options.output).name}"
        self._warnings = LimitedLog(logger, where)

    def run(self, plan: RankPlan) -> RankStats:
        """Caption what rank 0 leases, until no row is left; every result is in the journal when this returns.

        Raises:
            MassFailure: more than `max_failure_rate` of the last FAILURE_WINDOW rows failed, or
                DEVICE_FAILURES clips in a row failed in the captioner.
        """
        with contextlib.closing(self._warnings):
            self._run(plan)
        backend = self.backend
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
                with self._loader(rows, plan, rows.worth_ahead) as loader:
                    captioner = self._loaded_captioner()
                    is_retry = kind == RETRIES
                    together = max(1, self.stats.slots // RETRY_SHARE) if is_retry else self.stats.slots
                    self.caption(loader, captioner, together, is_retry)
        if plan.has_isolated:
            self.journal.wait()
            self.world.barrier()
        if plan.isolated:
            with self._loader(plan.isolated, plan, lambda: AUTO_PREFETCH) as loader:
                self.caption(loader, self._loaded_captioner(), together=1)

    def _loaded_captioner(self) -> Captioner:
        if self._captioner is None:
            begin = time.monotonic()
            self._captioner = self.source.load(self.backend)
            self.stats.load_seconds += time.monotonic() - begin
            logger.info("model loaded in %.1f s", self.stats.load_seconds)
            self.stats.slots = self.options.batch_size or self._captioner.max_slots()
            self.journal.loaded()
            self._report()
            self.world.watchdog.progress()
            self.world.watchdog.allow(FIRST_STEP_SECONDS)
        return self._captioner

    def _loader(self, rows: Iterable[tuple[int, str]], plan: RankPlan, ahead: Callable[[], int]) -> ClipLoader:
        options = self.options
        return ClipLoader(
            rows,
            self.source.num_frames,
            self.source.frame_transform,
            DecoderLimits(options.decode_timeout),
            prefetch=AUTO_PREFETCH if options.batch_size is None else 2 * options.batch_size,
            workers=options.decode_workers or default_decode_workers(plan.host_workers),
            ahead=ahead,
        )

    def caption(self, loader: ClipLoader, captioner: Captioner, together: int, is_retry: bool = False) -> None:
        """Load clips, prepare their requests, add them to the engine, step, journal what has ended.

        together: clips in flight at most. is_retry: the clips were in flight at a death.
        """
        engine: Engine | None = None
        slots, in_flight = 0, dict[int, Clip]()
        groups = [_Group(together)]  # the loader fills the first, errors the others; the last one comes first
        with interruption.postponed():
            while groups:
                group, source = groups[-1], loader if len(groups) == 1 else None
                is_fed = source is not None and not source.has_ended
                if not in_flight and (not (group.clips or is_fed) or interruption.requested):
                    groups.pop()
                    engine = None
                    continue
                if engine is None:
                    most = group.slots if is_fed else min(group.slots, len(group.clips))
                    engine, slots = self._engine(captioner, most)
                clips = self._load(group, source, captioner, engine, is_retry)
                in_flight |= {clip.row: clip for clip in clips}
                begin, problem = time.monotonic(), None
                try:
                    _add_all(engine, captioner.prepare(clips))
                    events = engine.step() if in_flight and not (clips and engine.requests_needed) else []
                    results = [_result(captioner, event, in_flight) for event in events if isinstance(event, End)]
                except Exception as error:
                    problem = _text(error), self.backend.is_out_of_memory(error)
                self.stats.device_seconds += time.monotonic() - begin
                if problem is not None:
                    engine = None
                    self._recover(groups, in_flight, slots, *problem)
                    continue
                if events:
                    self.world.watchdog.progress()
                for result in results:
                    self._finish(result, in_flight.pop(result.row).path)
        self.stats.decode_wait_seconds += loader.wait_seconds
        self.stats.decode_seconds += loader.decode_seconds

    def _engine(self, captioner: Captioner, most: int) -> tuple[Engine, int]:
        """A new engine of `most` slots, or fewer where memory does not suffice, and their number."""
        slots = min(most, self.stats.slots)
        try:
            engine = captioner.engine(slots)
            engine.on_token = self.world.watchdog.progress
            return engine, slots
        except Exception as error:
            if slots == 1 or not self.backend.is_out_of_memory(error):
                raise RunError(f"the captioner broke before it took a clip: {_text(error)}") from error
        self._halve_slots(slots)
        return self._engine(captioner, most)

    def _halve_slots(self, slots: int) -> None:
        self.backend.release_memory()
        self.stats.slots = slots // 2
        logger.warning("out of memory with %d clips at once; going on with %d", slots, slots // 2)

    def _load(
        self, group: _Group, loader: ClipLoader | None, captioner: Captioner, engine: Engine, is_retry: bool
    ) -> list[Clip]:
        """Clips for the engine: those of the group, then the loader's.

        Waits for clips only while the engine has nothing worth doing. Clips that cannot be loaded have failed.
        """
        if engine.waiting or interruption.requested:
            return []
        most = min(engine.free, captioner.clips_together)
        given_back = [group.clips.popleft() for _ in range(min(most, len(group.clips)))]
        fresh: list[Clip] = []
        while len(given_back + fresh) < most and not interruption.requested:
            if loader is None or loader.has_ended:
                break
            must_wait = len(given_back + fresh) < engine.requests_needed
            loaded = loader.next_clip(_WAIT_SECONDS if must_wait else 0.0)
            if isinstance(loaded, LoadFailure):
                self._finish(RowResult.failed(loaded.row, loaded.stage, loaded.messages), loaded.path)
            elif loaded is not None:
                fresh.append(loaded)
            elif not must_wait:
                break
            else:
                self.world.watchdog.allow(self._clip_seconds)
        if fresh:
            self.journal.start([clip.row for clip in fresh], is_retry)
        return given_back + fresh

    def _recover(
        self, groups: list[_Group], in_flight: dict[int, Clip], slots: int, message: str, out_of_memory: bool
    ) -> None:
        """Caption all clips in flight again after an error; the engine has lost them.

        They are captioned apart from others and half as many at once, until the error has cost its own clip and
        no other. Out of memory halves the slots instead, for good.
        """
        clips = list(in_flight.values())
        in_flight.clear()
        if not clips:
            raise RunError(f"the captioner broke before it took a clip: {message}")
        if slots == 1 or (len(clips) == 1 and not out_of_memory):
            for clip in clips:
                self._finish(RowResult.failed(clip.row, "caption", [message]), clip.path)
        elif out_of_memory:
            self._halve_slots(slots)
            groups[-1].clips.extendleft(reversed(clips))
        else:
            half = len(clips) // 2
            logger.warning("an error (%s) with %d clips at once; going on with %d", message, len(clips), half)
            groups.append(_Group(half, deque(clips)))

    def _finish(self, result: RowResult, path: str) -> None:
        self.journal.finish([result])
        failed = result.failure is not None
        if failed:
            self._warnings.warning("row %d (%s): %s", result.row, path, result.failure)
        self._recent.append(failed)
        in_captioner = result.failure is not None and result.failure.stage == "caption"
        self._device_failures = self._device_failures + 1 if in_captioner else 0
        self.stats.failed += failed
        self.stats.captioned += not failed
        self.stats.tokens += result.tokens
        self.world.watchdog.progress()
        self._report()
        self._check_failure_rate()

    def _report(self) -> None:
        """What this rank has done, for all: rows count when they are on disk."""
        self.world.report_counts(self.journal.durable, self.stats.failed, 1)

    def _check_failure_rate(self) -> None:
        if self._device_failures >= DEVICE_FAILURES:
            raise MassFailure(
                f"{self._device_failures} clips in a row failed in the captioner, each alone; the device or the "
                "framework is at fault, see the messages above. The next run tries them again"
            )
        failed = sum(self._recent)
        if len(self._recent) == FAILURE_WINDOW and failed > self.options.max_failure_rate * FAILURE_WINDOW:
            raise MassFailure(
                f"{failed} of the last {FAILURE_WINDOW} rows failed, more than --max_failure_rate "
                f"{self.options.max_failure_rate:g}; are the clips' disks mounted? The next run tries them again"
            )


def _result(captioner: Captioner, end: End, in_flight: Mapping[int, Clip]) -> RowResult:
    assert isinstance(end.key, int), "requests of a run have rows for keys"
    if end.is_error:
        stage = "prompt" if end.reason is EndReason.TOO_LONG else "caption"
        return RowResult.failed(end.key, stage, [end.message])
    caption = captioner.caption(end)
    return caption_result(end.key, caption.text, caption.tokens, caption.truncated, in_flight[end.key].partial)


def _add_all(engine: Engine, requests: Iterable[Request]) -> None:
    # A function of its own: its last request goes with it, and so does the memory of a whole batch.
    for request in requests:
        engine.add(request)


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
