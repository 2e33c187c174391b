"""Decode the media of questions before the engine needs them: threads with a decoding process each.

A job is one question with all its media, because a question that is cancelled must free its decoding process at once.
Knows nothing about the engine. `clips.loader.ClipLoader`, its counterpart in a run, takes one clip after the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ...captioning.clips.clip import Clip
from ...captioning.clips.decode_client import DecodeClient
from ...captioning.clips.downloads.hosts import Hosts
from ...captioning.clips.killable import DecoderLimits, StartError
from ...captioning.clips.preparation import FramePreparation
from ...captioning.process.limited_log import LimitedLog
from ..messages import Ask
from .media import MediaError, load_media

logger = logging.getLogger(__name__)

AHEAD_BYTES = 512 * 2**20
"""Most bytes of frames that wait for the engine, as long as one question for each decoding process is loaded."""
_LEAVE_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A question with its media, ready for the captioner.

    clips: one of a video, of an image, or of frames that were sent as images; or several still images; or none.
    """

    ask: Ask
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class NotLoaded:
    """A question whose media can't be used. messages: of every step that failed, without local paths."""

    ask: Ask
    messages: tuple[str, ...]


@dataclass
class _Job:
    """A question, from `add` to `forget`. size: bytes of its frames, once they are loaded."""

    ask: Ask
    stopping: threading.Event = field(default_factory=threading.Event)
    is_begun: bool = False
    size: int | None = None


class MediaLoader:
    """Decodes the media of questions, in the order in which they were added. Thread-safe.

    preparation: how frames are chosen and prepared, in the decoding processes.
    images_are_frames: several images are the frames of one clip.
    limits: of each decoding process.
    workers: number of decoding processes. They start at once.
    ahead: most questions whose media are loaded or being loaded and that were not forgotten, besides one in each
        decoding process.
    on_end: called with every question that has been loaded or can't be, and with the error that ended the last thread;
        from any thread.
    """

    def __init__(
        self,
        preparation: FramePreparation,
        images_are_frames: bool,
        limits: DecoderLimits,
        workers: int,
        ahead: int,
        on_end: Callable[[Loaded | NotLoaded | Exception], None],
    ) -> None:
        self._preparation, self._images_are_frames, self._on_end = preparation, images_are_frames, on_end
        self._workers, self._most_begun = max(1, workers), max(1, ahead) + max(1, workers)
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._is_closed = False
        self._running = self._workers
        self._changed = threading.Condition()
        self._warnings = LimitedLog(logger, "the answers to their questions")
        hosts = Hosts()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(DecodeClient(preparation, limits, self._warnings, hosts),),
                name=f"media-loader-{number}",
                daemon=True,
            )
            for number in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, ask: Ask) -> None:
        """Load the media of a question."""
        with self._changed:
            job = self._jobs[ask.id] = _Job(ask)
            self._waiting.append(job)
            self._changed.notify_all()

    def forget(self, question: int) -> None:
        """The engine has taken a question, or nobody wants it any more: its decoding ends at once, its memory is free.

        Does nothing if the question is not known, or was forgotten before.
        """
        with self._changed:
            job = self._jobs.pop(question, None)
            if job is None:
                return
            job.stopping.set()
            if not job.is_begun:
                self._waiting.remove(job)
            self._changed.notify_all()

    def close(self) -> None:
        """End all decoding processes."""
        with self._changed:
            self._is_closed = True
            for job in self._jobs.values():
                job.stopping.set()
            self._changed.notify_all()
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._warnings.close()

    def _run(self, client: DecodeClient) -> None:
        try:
            client.start_if_needed(threading.Event())
            while (job := self._next()) is not None:
                self._load(client, job)
        except Exception as error:  # no decoding process can be started: no question is the cause
            self._end_thread(error)
        finally:
            client.close()

    def _end_thread(self, error: Exception) -> None:
        """Continue with the other threads; if there are none, report the error."""
        with self._changed:
            self._running -= 1
            running = self._running
            self._changed.notify_all()
        if running:
            logger.warning("%s; continuing with %d decoding processes", error, running)
        else:
            self._on_end(error)

    def _next(self) -> _Job | None:
        """Wait for the next question that may be loaded. None after closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (bool(self._waiting) and self._may_begin()))
            if self._is_closed:
                return None
            job = self._waiting.popleft()
            job.is_begun = True
            return job

    def _may_begin(self) -> bool:
        begun = [job for job in self._jobs.values() if job.is_begun]
        if len(begun) >= self._most_begun:
            return False
        loading = sum(job.size is None for job in begun) + 1
        sizes = [job.size or 0 for job in begun]
        return len(begun) < self._running or sum(sizes) + loading * max(sizes, default=0) <= AHEAD_BYTES

    def _load(self, client: DecodeClient, job: _Job) -> None:
        try:
            clips = load_media(client, self._preparation, job.ask, job.stopping, self._images_are_frames)
        except StartError:
            self._return(job)
            raise
        except MediaError as error:
            self._end(job, NotLoaded(job.ask, error.messages))
            return
        except Exception as error:
            logger.exception("an error with the media of a question")
            client.kill()  # its next message may belong to this question
            message = f"the media can't be loaded ({type(error).__name__}); the log of the server has the cause"
            self._end(job, NotLoaded(job.ask, (message,)))
            return
        with self._changed:
            job.size = sum(clip.frames.nbytes for clip in clips)
        self._end(job, Loaded(job.ask, clips))

    def _end(self, job: _Job, result: Loaded | NotLoaded) -> None:
        if not job.stopping.is_set():
            self._on_end(result)

    def _return(self, job: _Job) -> None:
        """Let another thread load a question."""
        with self._changed:
            job.is_begun = False
            if not job.stopping.is_set():
                self._waiting.appendleft(job)
