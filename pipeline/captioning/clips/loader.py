"""Load clips before the captioner needs them. Runs in the worker, with one thread for each decoding process.

Knows nothing about decoders that hang or crash: `decode_client` handles them.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ..process.limited_log import LimitedLog
from .clip import Clip, ClipTask, LoadFailure
from .decode_client import DecodeClient
from .downloads.hosts import Hosts
from .killable import DecoderLimits, StartError
from .preparation import FramePreparation

logger = logging.getLogger(__name__)

MAX_DECODE_WORKERS = 8
"""One device can not use the clips of more decoding processes."""
_LEAVE_SECONDS = 10.0
"""When the loader is closed: time for all its threads together to end."""


def default_decode_workers(host_workers: int) -> int:
    """Number of decoding processes of each worker, from the number of CPU cores and of workers on the host.

    At least 2, so that one slow clip does not delay the others; at most MAX_DECODE_WORKERS.
    """
    return max(2, min(MAX_DECODE_WORKERS, len(os.sched_getaffinity(0)) // host_workers - 1))


class ClipLoader:
    """Gives each clip of `rows` once, when it is ready. A context manager; its exit ends the decoding processes.

    With one decoding process, clips are given in the order of `rows`. With several, a slow clip does not delay the
    others, so the order may differ.

    rows: the clips to load; the next one is requested when a decoding process is free.
    preparation: how frames are chosen and prepared, in the decoding processes.
    limits: of each decoding process.
    prefetch: most clips that wait for the consumer, in addition to one in each decoding process.
    prefetch_bytes: most bytes of frames that wait for the consumer. A clip that is being decoded is counted with the
        size of the largest clip so far. This can only lower the number of clips, and not below `prefetch_least`.
    prefetch_least: clips that are decoded ahead whatever their size, those in decoding processes included.
    workers: number of decoding processes.
    ahead: called before each clip; returns how many clips should be decoded ahead at present. This can only lower the
        limit above, and not below one for each decoding process.
    """

    def __init__(
        self,
        rows: Iterable[ClipTask],
        preparation: FramePreparation,
        limits: DecoderLimits,
        prefetch: int,
        workers: int = 1,
        ahead: Callable[[], int] = lambda: sys.maxsize,
        prefetch_bytes: int = sys.maxsize,
        prefetch_least: int = 2,
    ) -> None:
        self.wait_seconds = 0.0
        """Seconds that the consumer has waited for clips so far."""
        self.decode_seconds = 0.0
        """Seconds that clips have taken to decode so far, summed over the decoding processes."""
        self.has_ended = False
        """Whether `next_clip` has given all clips."""
        self._rows, self._wanted_ahead = iter(rows), ahead
        self._returned_rows: list[ClipTask] = []  # by threads whose process could not be started
        self._start_error: StartError | None = None
        self._max_ahead = max(1, prefetch) + max(1, workers)
        self._max_bytes, self._least_ahead = prefetch_bytes, max(1, prefetch_least)
        self._ahead = 0  # clips that are being decoded, or wait for the consumer
        self._waiting = 0  # those that wait for the consumer
        self._waiting_bytes = 0  # of the frames of these clips
        self._largest_bytes = 0  # of the frames of the largest clip so far
        self._row_lock = threading.Lock()  # not the condition below: to take a row may need a long time
        self._changed = threading.Condition()  # guards the counters and the returned rows
        self._clips: queue.Queue[Clip | LoadFailure | BaseException | None] = queue.Queue()
        self._stopping = threading.Event()
        self._warnings = LimitedLog(logger, "the failures of their rows")
        hosts = Hosts()
        self._clients = [DecodeClient(preparation, limits, self._warnings, hosts) for _ in range(max(1, workers))]
        self._running = len(self._clients)
        self._threads = [
            threading.Thread(target=self._run_thread, args=(client,), name=f"clip-loader-{number}", daemon=True)
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def next_clip(self, wait: float | None = None) -> Clip | LoadFailure | None:
        """The next clip. None after the last one, or if no clip is ready within `wait` seconds (None: no limit).

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
            with self._changed:
                self._waiting -= 1
                self._waiting_bytes -= _frame_bytes(clip)
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

    def _run_thread(self, client: DecodeClient) -> None:
        problem: BaseException | None = None
        try:
            self._load_rows(client)
        except BaseException as error:  # is raised in the consumer, which would wait for ever otherwise
            problem = error
        client.close()
        with self._changed:
            self._running -= 1
            running = self._running
            if running == 0 and self._returned_rows:  # no process remains that could decode them
                problem = problem or self._start_error
            elif running and isinstance(problem, StartError):
                self._start_error = problem
                logger.warning("%s; continuing with %d decoding processes", problem, running)
                problem = None
        if problem is not None:
            self._clips.put(problem)
        if running == 0:
            self._clips.put(None)

    def _load_rows(self, client: DecodeClient) -> None:
        while (taken := self._take_row()) is not None:
            row, path, part = taken
            begin = time.monotonic()
            try:
                frames, reply = client.decode(path, self._stopping, part)
            except StartError:
                with self._changed:
                    self._returned_rows.append(taken)
                self._add_ahead(-1)
                raise
            with self._changed:
                self.decode_seconds += time.monotonic() - begin
            if frames is None:
                self._put(LoadFailure(row, path, reply.stage, reply.messages))
            else:
                about = reply.seconds, reply.duration, reply.size, reply.rate, reply.is_image, reply.mime_type, part
                self._put(Clip(row, path, frames, reply.frame_index, reply.partial, *about))

    def _put(self, clip: Clip | LoadFailure) -> None:
        with self._changed:
            size = _frame_bytes(clip)
            self._waiting += 1
            self._waiting_bytes += size
            self._largest_bytes = max(self._largest_bytes, size)
        self._clips.put(clip)

    def _take_row(self) -> ClipTask | None:
        """Wait until another clip may be decoded ahead. Returns its row; None after the last row or after closing."""
        with self._row_lock:
            with self._changed:
                while not self._stopping.is_set() and not self._may_decode():
                    self._changed.wait(0.5)
                returned = self._returned_rows.pop() if self._returned_rows else None
            row = None if self._stopping.is_set() else returned or next(self._rows, None)
            if row is not None:
                self._add_ahead(1)
            return row

    def _may_decode(self) -> bool:
        """Whether another clip may be decoded ahead now."""
        if self._ahead >= min(self._max_ahead, max(len(self._clients), self._wanted_ahead())):
            return False
        decoding = self._ahead - self._waiting + 1
        return (
            self._ahead < self._least_ahead or self._waiting_bytes + decoding * self._largest_bytes <= self._max_bytes
        )

    def _add_ahead(self, clips: int) -> None:
        with self._changed:
            self._ahead += clips
            self._changed.notify_all()


def _frame_bytes(clip: Clip | LoadFailure) -> int:
    return clip.frames.nbytes if isinstance(clip, Clip) else 0
