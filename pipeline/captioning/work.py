"""One rank's work: clips from the loader, captions from the captioner, results into the journal."""

from __future__ import annotations

import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .backends import Backend
from .captioners.base import Captioner, CaptionerSource, PreparedClip
from .clips.loader import ClipLoader, LoadedClip
from .errors import RunError
from .meta.journal import Journal
from .meta.results import RowResult, caption_result
from .options import JobOptions
from .planning import RankPlan

logger = logging.getLogger(__name__)

FAILURE_WINDOW = 1000
"""Rows over which `--max_failure_rate` is taken."""
DEVICE_FAILURES = 8
"""So many clips in a row that each failed alone in the captioner are the device's fault, not theirs."""


@dataclass
class WorkTally:
    """What a rank did in this run.

    tokens: generated, end-of-sequence tokens included.
    load_seconds: until the model was loaded; `device_seconds` in the captioner, `decode_wait_seconds`
        waiting for clips.
    peak_memory_mib: most host memory that the worker's process has held, without its decoding process.
    backend: framework, device and computing type, in words.
    """

    captioned: int = 0
    failed: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    device_seconds: float = 0.0
    decode_wait_seconds: float = 0.0
    peak_memory_mib: float = 0.0
    backend: str = ""


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
        rows = [*plan.rows, *plan.suspects]
        loader = ClipLoader(
            rows,
            self.source.num_frames,
            self.source.frame_transform,
            self.options.decode_timeout,
            prefetch=2 * self.options.batch_size,
        )
        with loader:  # decodes while the model is being loaded
            backend = self.activate()
            self.tally.backend = f"{backend.framework} on {backend.device} in {backend.dtype_name}"
            captioner = self.source.load(backend)
            self.tally.load_seconds = time.monotonic() - begin
            logger.info("model loaded in %.1f s", self.tally.load_seconds)
            clips = iter(loader)
            self._caption_stream(clips, len(plan.rows), self.options.batch_size, captioner, backend)
            if plan.has_suspects:
                self.wait_for_all()
            self._caption_stream(clips, len(plan.suspects), 1, captioner, backend)
            self.tally.decode_wait_seconds = loader.wait_seconds
        self.tally.peak_memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return self.tally

    def _caption_stream(
        self, clips: Iterator[LoadedClip], count: int, batch_size: int, captioner: Captioner, backend: Backend
    ) -> None:
        """Take `count` clips and caption those that could be decoded, `batch_size` at a time."""
        batch: list[PreparedClip] = []
        for _ in range(count):
            clip = next(clips)
            self._paths[clip.row] = clip.path
            if clip.frames is None:
                self._finish([RowResult.failed(clip.row, clip.stage, clip.messages)])
                continue
            batch.append(PreparedClip(clip.row, clip.frames, clip.frame_index))
            if len(batch) == batch_size:
                self._caption(batch, captioner, backend)
                batch = []
        if batch:
            self._caption(batch, captioner, backend)

    def _caption(self, batch: Sequence[PreparedClip], captioner: Captioner, backend: Backend) -> None:
        self.journal.start(clip.row for clip in batch)
        begin = time.monotonic()
        results = caption_batch(batch, captioner, backend)
        self.tally.device_seconds += time.monotonic() - begin
        self._finish(results)

    def _finish(self, results: Sequence[RowResult]) -> None:
        self.journal.finish(results)
        for result in results:
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


def caption_batch(batch: Sequence[PreparedClip], captioner: Captioner, backend: Backend) -> list[RowResult]:
    """Caption a batch whatever happens: an error halves it, until it has cost no more than its own clip.

    Out of memory goes away in a smaller batch; any other error is pinned down on its clip.
    """
    try:
        captions = captioner.caption(batch)
        return [
            caption_result(clip.row, caption.text, caption.tokens, caption.truncated)
            for clip, caption in zip(batch, captions, strict=True)
        ]
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        out_of_memory = backend.is_out_of_memory(error)
    if len(batch) == 1:
        return [RowResult.failed(batch[0].row, "caption", [message])]
    half = len(batch) // 2
    cause = "out of memory" if out_of_memory else f"an error ({message})"
    logger.warning("%s with %d clips at once; going on with %d", cause, len(batch), half)
    if out_of_memory:
        backend.free_memory()
    return caption_batch(batch[:half], captioner, backend) + caption_batch(batch[half:], captioner, backend)
