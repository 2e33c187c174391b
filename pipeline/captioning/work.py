"""One rank's work: clips from the loader, captions from the captioner, results into the journal."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .backends import Backend
from .captioners.base import Captioner, CaptionerSource
from .clips.killable import DecoderLimits
from .clips.loader import ClipLoader, LoadedClip
from .errors import RunError
from .feed import LoaderFeed
from .interruption import interruption
from .meta.journal import Journal
from .meta.results import RowResult, caption_result
from .options import JobOptions
from .planning import RankPlan

logger = logging.getLogger(__name__)

FAILURE_WINDOW = 1000
"""Rows over which `--max_failure_rate` is taken."""
AUTO_PREFETCH = 64
"""Clips decoded ahead with `--bs auto`, which is settled only when the model is loaded."""
MOST_DECODE_WORKERS = 8
RETRY_SHARE = 8
"""Clips that were in flight at a death with many others come again in batches so many times smaller."""
DEVICE_FAILURES = 8
"""So many clips in a row that each failed alone in the captioner are the device's fault, not theirs."""


@dataclass
class WorkTally:
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


def default_decode_workers(host_workers: int) -> int:
    """Decoding processes of a worker that shares its host's cores with others: two at least, so that one
    clip that takes long does not hold up the rest, and no more than a device can use."""
    return max(2, min(MOST_DECODE_WORKERS, len(os.sched_getaffinity(0)) // host_workers - 1))


class MassFailure(RunError):
    """Too many rows in a row failed: the cause is not the clips."""


@dataclass
class RankWorker:
    """Captions the rows of one rank.

    report: called with (done, failed) after every result; may raise to end the run.
    wait_for_all: returns when every rank has captioned its rows, the suspects apart.
    """

    options: JobOptions
    source: CaptionerSource
    activate: Callable[[], Backend]
    journal: Journal
    report: Callable[[int, int], None]
    wait_for_all: Callable[[], None]
    tally: WorkTally = field(default_factory=WorkTally)

    def __post_init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=FAILURE_WINDOW)
        self._device_failures = 0
        self._paths: dict[int, str] = {}  # of the rows in hand, for messages

    def run(self, plan: RankPlan) -> WorkTally:
        """Caption all rows of `plan`; every result is in the journal when this returns.

        Raises:
            MassFailure: more than `max_failure_rate` of the last FAILURE_WINDOW rows failed, or
                DEVICE_FAILURES clips in a row failed in the captioner.
        """
        begin = time.monotonic()
        with self._loader(plan.rows, plan.host_workers) as loader:  # decodes while the model is being loaded
            backend = self.activate()
            self.tally.backend = f"{backend.framework} on {backend.device} in {backend.dtype_name}"
            captioner = self.source.load(backend)
            self.tally.load_seconds = time.monotonic() - begin
            logger.info("model loaded in %.1f s", self.tally.load_seconds)
            self.tally.slots = self.options.batch_size or captioner.most_slots()
            self._caption_all(loader, plan.rows, captioner, backend, self.tally.slots)
        if plan.retries:
            with self._loader(plan.retries, plan.host_workers) as loader:
                most = max(1, self.tally.slots // RETRY_SHARE)
                self._caption_all(loader, plan.retries, captioner, backend, most, retry=True)
        if plan.has_suspects:
            self.journal.wait()
            self.wait_for_all()
            with self._loader(plan.suspects, plan.host_workers) as loader:
                self._caption_all(loader, plan.suspects, captioner, backend, most=1)
        self.tally.stages = dict(captioner.stages())
        self.tally.peak_device_memory_mib = backend.peak_memory() / 2**20
        self.tally.peak_memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return self.tally

    def _loader(self, rows: Sequence[tuple[int, str]], host_workers: int) -> ClipLoader:
        options = self.options
        return ClipLoader(
            rows,
            self.source.num_frames,
            self.source.frame_transform,
            DecoderLimits(options.decode_timeout),
            prefetch=AUTO_PREFETCH if options.batch_size is None else 2 * options.batch_size,
            workers=options.decode_workers or default_decode_workers(host_workers),
        )

    def _caption_all(
        self,
        loader: ClipLoader,
        rows: Sequence[tuple[int, str]],
        captioner: Captioner,
        backend: Backend,
        most: int,
        retry: bool = False,
    ) -> None:
        """Caption the clips of `loader`, at most `most` at once; `retry` if they were in flight at a death."""

        def start(clips: Sequence[LoadedClip]) -> None:
            self._paths.update({clip.row: clip.path for clip in clips})
            self.journal.start((clip.row for clip in clips), retry)

        def fail(clip: LoadedClip) -> None:
            self._paths[clip.row] = clip.path
            self._finish(RowResult.failed(clip.row, clip.stage, clip.messages))

        feed = LoaderFeed(loader, len(rows), start, fail, lambda: interruption.requested)
        with interruption.postponed():
            self._caption(feed, captioner, backend, most)
        self.tally.decode_wait_seconds += loader.wait_seconds
        self.tally.decode_seconds += loader.decode_seconds

    def _caption(self, feed: LoaderFeed, captioner: Captioner, backend: Backend, most: int) -> None:
        """Caption all clips of `feed` whatever happens, `most` or as many as there are slots at once.

        Out of memory halves the slots, for good. Any other error is pinned down on its clip: the clips in
        hand are captioned again, half as many at once, until it has cost no more than its own.
        """
        while not feed.exhausted:
            slots = min(self.tally.slots, most, feed.remaining)
            problem = self._caption_until_error(feed, captioner, backend, slots)
            if problem is None:
                return
            message, out_of_memory = problem
            if out_of_memory:
                backend.release_memory()
            clips = feed.take_back()
            if not clips and not out_of_memory:
                raise RunError(f"the captioner broke before it took a clip: {message}")
            if slots == 1 or (len(clips) == 1 and not out_of_memory):
                for clip in clips:
                    self._finish(RowResult.failed(clip.row, "caption", [message]))
                if not clips:
                    raise RunError(f"not even one clip fits the device's memory: {message}")
            elif out_of_memory:
                logger.warning("out of memory with %d clips at once; going on with %d", slots, slots // 2)
                self.tally.slots = slots // 2
                feed.give_again(clips)
            else:
                half = len(clips) // 2
                logger.warning("an error (%s) with %d clips at once; going on with %d", message, len(clips), half)
                self._caption(feed.apart(clips), captioner, backend, half)

    def _caption_until_error(
        self, feed: LoaderFeed, captioner: Captioner, backend: Backend, slots: int
    ) -> tuple[str, bool] | None:
        """Returns None when `feed` is exhausted, or the captioner's error and whether it is out of memory."""
        captions = captioner.caption(feed, slots)
        while True:
            begin, waited = time.monotonic(), feed.wait_seconds
            try:
                row, caption = next(captions)
            except StopIteration:
                return None
            except Exception as error:
                if feed.error is not None:
                    raise feed.error from None
                return " ".join(f"{type(error).__name__}: {error}".split())[:500], backend.is_out_of_memory(error)
            finally:
                self.tally.device_seconds += time.monotonic() - begin - (feed.wait_seconds - waited)
            feed.finish(row)
            self._finish(caption_result(row, caption.text, caption.tokens, caption.truncated))

    def _finish(self, result: RowResult) -> None:
        self.journal.finish([result])
        path = self._paths.pop(result.row)
        failed = result.failure is not None
        if failed:
            logger.warning("row %d (%s): %s", result.row, path, result.failure)
        self._recent.append(failed)
        in_captioner = result.failure is not None and result.failure.stage == "caption"
        self._device_failures = self._device_failures + 1 if in_captioner else 0
        self.tally.failed += failed
        self.tally.captioned += not failed
        self.tally.tokens += result.tokens
        self.report(self.tally.captioned + self.tally.failed, self.tally.failed)
        self._check_failure_rate()

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
