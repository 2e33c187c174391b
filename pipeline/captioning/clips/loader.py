"""Loads clips ahead of the device, with a few decoding processes; see `decoder` for what goes wrong there."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from .clip import Clip, LoadFailure
from .decoder import Decoder
from .killable import DecoderLimits


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
        self._lock = threading.Lock()  # of the rows and the figures
        self._clips: queue.Queue[Clip | LoadFailure | BaseException | None] = queue.Queue(maxsize=max(1, prefetch))
        self._stopping = threading.Event()
        self._decoders = [Decoder(num_frames, frame_transform, limits) for _ in range(max(1, min(workers, len(rows))))]
        self._running = len(self._decoders)
        self._threads = [
            threading.Thread(target=self._load, args=(decoder,), name=f"clip-loader-{number}", daemon=True)
            for number, decoder in enumerate(self._decoders)
        ]
        for thread in self._threads:
            thread.start()

    def next_clip(self, wait: float | None = None) -> Clip | LoadFailure | None:
        """The next clip; None after the last one, or if there is none after `wait` seconds (None: for ever)."""
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

    def _load(self, decoder: Decoder) -> None:
        try:
            while not self._stopping.is_set():
                with self._lock:
                    row, path = next(self._rows, (None, ""))
                if row is None:
                    break
                begin = time.monotonic()
                frames, reply = decoder.decode(path, self._stopping)
                with self._lock:
                    self.decode_seconds += time.monotonic() - begin
                if frames is None:
                    self._put(LoadFailure(row, path, reply.stage, reply.messages))
                else:
                    self._put(Clip(row, path, frames, reply.frame_index))
        except BaseException as error:  # a defect of ours; the consumer must not wait for ever
            self._put(error)
        finally:
            decoder.kill()
            with self._lock:
                self._running -= 1
                is_last = self._running == 0
            if is_last:
                self._put(None)

    def _put(self, clip: Clip | LoadFailure | BaseException | None) -> None:
        while not self._stopping.is_set():
            try:
                return self._clips.put(clip, timeout=0.5)
            except queue.Full:
                continue
