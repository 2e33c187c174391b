"""Loads clips ahead of the device, with a few decoding processes; see `decoder` for what goes wrong there."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from ..process.limited_log import LimitedLog
from .clip import Clip, LoadFailure
from .decoder import Decoder
from .killable import DecoderLimits, StartError

logger = logging.getLogger(__name__)

MOST_DECODE_WORKERS = 8
_LEAVE_SECONDS = 10.0
"""For all decoding processes together to end."""


def default_decode_workers(host_workers: int) -> int:
    """Decoding processes of a worker that shares its host's cores with others: two at least, so that one
    clip that takes long does not hold up the rest, and no more than a device can use."""
    return max(2, min(MOST_DECODE_WORKERS, len(os.sched_getaffinity(0)) // host_workers - 1))


class ClipLoader:
    """Gives the clips of `rows`, each once, as they are ready; a context manager that ends its processes.

    With one worker clips come in order; with more, one that takes long does not hold up the others.

    rows: (row, path) pairs; asked for the next one when a worker is free.
    num_frames: frames to sample of each clip.
    frame_transform: runs in the decoding processes; picklable.
    limits: of each process.
    prefetch: clips decoded ahead of the consumer at most, beside one that each worker is decoding.
    workers: decoding processes.
    ahead: clips worth having decoded ahead at present, at most; one for each worker are always allowed.
    """

    def __init__(
        self,
        rows: Iterable[tuple[int, str]],
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        limits: DecoderLimits,
        prefetch: int,
        workers: int = 1,
        ahead: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self.wait_seconds = 0.0
        """How long the consumer has waited for clips so far."""
        self.decode_seconds = 0.0
        """How long clips have been decoded so far, beside the consumer, added up over the processes."""
        self.has_ended = False
        """Whether `next_clip` has given all clips."""
        self._rows, self._worth_ahead = iter(rows), ahead
        self._given_back: list[tuple[int, str]] = []  # by a process that could not be started
        self._start_error: StartError | None = None
        self._most_ahead = max(1, prefetch) + max(1, workers)
        self._ahead = 0  # clips that are being decoded, or wait for the consumer
        self._taking = threading.Lock()  # to take a row may take a while
        self._changed = threading.Condition()  # of the figures and of the rows given back
        self._clips: queue.Queue[Clip | LoadFailure | BaseException | None] = queue.Queue()
        self._stopping = threading.Event()
        self._warnings = LimitedLog(logger, "the failures of their rows")
        self._decoders = [Decoder(num_frames, frame_transform, limits, self._warnings) for _ in range(max(1, workers))]
        self._running = len(self._decoders)
        self._threads = [
            threading.Thread(target=self._load, args=(decoder,), name=f"clip-loader-{number}", daemon=True)
            for number, decoder in enumerate(self._decoders)
        ]
        for thread in self._threads:
            thread.start()

    def next_clip(self, wait: float | None = None) -> Clip | LoadFailure | None:
        """The next clip; None after the last one, or if there is none after `wait` seconds (None: for ever).

        Raises:
            StartError: no decoding process can be started.
        """
        if self.has_ended:
            return None
        begin = time.monotonic()
        try:
            clip = self._clips.get(block=wait != 0, timeout=wait or None)
        except queue.Empty:
            return None
        finally:
            self.wait_seconds += time.monotonic() - begin
        if isinstance(clip, BaseException):
            raise clip
        self.has_ended = clip is None
        if clip is not None:
            self._add_ahead(-1)
        return clip

    def __iter__(self) -> Iterator[Clip | LoadFailure]:
        while (clip := self.next_clip()) is not None:
            yield clip

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._add_ahead(0)
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._warnings.close()

    def _load(self, decoder: Decoder) -> None:
        problem: BaseException | None = None
        try:
            self._load_rows(decoder)
        except BaseException as error:  # the consumer must not wait for ever
            problem = error
        decoder.kill()
        with self._changed:
            self._running -= 1
            running = self._running
            if running == 0 and self._given_back:  # the other processes have ended by now
                problem = problem or self._start_error
            elif running and isinstance(problem, StartError):
                self._start_error = problem
                logger.warning("%s; going on with %d decoding processes", problem, running)
                problem = None
        if problem is not None:
            self._clips.put(problem)
        if running == 0:
            self._clips.put(None)

    def _load_rows(self, decoder: Decoder) -> None:
        while (taken := self._take()) is not None:
            row, path = taken
            begin = time.monotonic()
            try:
                frames, reply = decoder.decode(path, self._stopping)
            except StartError:
                with self._changed:
                    self._given_back.append(taken)
                self._add_ahead(-1)
                raise
            with self._changed:
                self.decode_seconds += time.monotonic() - begin
            if frames is None:
                self._clips.put(LoadFailure(row, path, reply.stage, reply.messages))
            else:
                self._clips.put(Clip(row, path, frames, reply.frame_index, reply.partial))

    def _take(self) -> tuple[int, str] | None:
        """The next row, when another clip may be decoded ahead; None if there is none, or the loader is closed."""
        with self._taking:
            with self._changed:
                while not self._stopping.is_set() and self._ahead >= self._most_now():
                    self._changed.wait(0.5)
                given_back = self._given_back.pop() if self._given_back else None
            row = None if self._stopping.is_set() else given_back or next(self._rows, None)
            if row is not None:
                self._add_ahead(1)
            return row

    def _most_now(self) -> int:
        return min(self._most_ahead, max(len(self._decoders), self._worth_ahead()))

    def _add_ahead(self, clips: int) -> None:
        with self._changed:
            self._ahead += clips
            self._changed.notify_all()
