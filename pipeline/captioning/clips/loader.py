"""Loads clips ahead of the device, with a few decoding processes; see `decoder` for what goes wrong there."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from ..limited_log import LimitedLog
from .clip import Clip, LoadFailure
from .decoder import Decoder
from .killable import DecoderLimits, StartError

logger = logging.getLogger(__name__)


class ClipLoader:
    """Gives the clips of `rows`, each once, as they are ready; a context manager that ends its processes.

    With one worker clips come in order; with more, one that takes long does not hold up the others.

    rows: (row, path) pairs.
    num_frames: frames to sample of each clip.
    frame_transform: runs in the decoding processes; picklable.
    limits: of each process.
    prefetch: clips decoded ahead of the consumer.
    workers: decoding processes.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, str]],
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        limits: DecoderLimits,
        prefetch: int,
        workers: int = 1,
    ) -> None:
        self.wait_seconds = 0.0
        """How long the consumer has waited for clips so far."""
        self.decode_seconds = 0.0
        """How long clips have been decoded so far, beside the consumer, added up over the processes."""
        self.left = len(rows)
        """Clips that `next_clip` has still to give."""
        self._rows = iter(rows)
        self._given_back: list[tuple[int, str]] = []  # by a process that could not be started
        self._start_error: StartError | None = None
        self._lock = threading.Lock()  # of the rows and the figures
        self._clips: queue.Queue[Clip | LoadFailure | BaseException | None] = queue.Queue(maxsize=max(1, prefetch))
        self._stopping = threading.Event()
        self._warnings = LimitedLog(logger, "the failures of their rows")
        self._decoders = [
            Decoder(num_frames, frame_transform, limits, self._warnings) for _ in range(max(1, min(workers, len(rows))))
        ]
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
        if not self.left:
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
        self.left = self.left - 1 if clip is not None else 0
        return clip

    def __iter__(self) -> Iterator[Clip | LoadFailure]:
        while (clip := self.next_clip()) is not None:
            yield clip

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._warnings.close()

    def _load(self, decoder: Decoder) -> None:
        problem: BaseException | None = None
        try:
            self._load_rows(decoder)
        except BaseException as error:  # the consumer must not wait for ever
            problem = error
        decoder.kill()
        with self._lock:
            self._running -= 1
            running = self._running
            if running == 0 and self._given_back:  # the other processes have ended by now
                problem = problem or self._start_error
            elif running and isinstance(problem, StartError):
                self._start_error = problem
                logger.warning("%s; going on with %d decoding processes", problem, running)
                problem = None
        if problem is not None:
            self._put(problem)
        if running == 0:
            self._put(None)

    def _load_rows(self, decoder: Decoder) -> None:
        while not self._stopping.is_set():
            with self._lock:
                row, path = self._given_back.pop() if self._given_back else next(self._rows, (None, ""))
            if row is None:
                return
            begin = time.monotonic()
            try:
                frames, reply = decoder.decode(path, self._stopping)
            except StartError:
                with self._lock:
                    self._given_back.append((row, path))
                raise
            with self._lock:
                self.decode_seconds += time.monotonic() - begin
            if frames is None:
                self._put(LoadFailure(row, path, reply.stage, reply.messages))
            else:
                self._put(Clip(row, path, frames, reply.frame_index, reply.partial))

    def _put(self, clip: Clip | LoadFailure | BaseException | None) -> None:
        while not self._stopping.is_set():
            try:
                return self._clips.put(clip, timeout=0.5)
            except queue.Full:
                continue
