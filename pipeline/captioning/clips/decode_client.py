"""Send clips to a decoding process and receive prepared frames. Runs in the worker, except `_serve`.

The worker requests one decoder after the other. If a decoder hangs or crashes, its process is killed and the next
decoder is tried. Only that clip can fail. A clip whose path is a URL is downloaded first, by a request of its own: all
decoders then read the same file, and so do the next clips that are ranges of it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import numpy as np

from ..process.limited_log import LimitedLog
from .decode import available_decoders
from .decode_server import DecodeReply, DecodeRequest, handle_request
from .downloads.file import DownloadFile
from .downloads.hosts import FAILURES_OF_A_SILENT_HOST, Hosts
from .downloads.limits import DownloadLimits, Outcome
from .downloads.urls import host_of, is_url, url_problem, without_credentials
from .frame_memory import FrameMemory
from .killable import Deadline, DecoderLimits, KillableProcess, serve
from .preparation import FramePreparation, ImageRole
from .process_start import make_process
from .sampling import FrameSampling
from .time_range import TimeRange

_DOWNLOAD_GRACE_SECONDS = 15.0
"""The decoding process ends a download at its deadline and reports why. If it hangs, it is killed this much later."""


@dataclass(frozen=True)
class _DownloadRequest:
    """From the worker to the decoding process, which replies with an Outcome.

    deadline: on the clock of `time.monotonic()`, which all processes of a host share.
    """

    url: str
    limits: DownloadLimits
    deadline: float


class DecodeClient(KillableProcess):
    """A decoding process, the memory through which it returns frames, and the file into which it downloads clips.

    preparation: how frames are chosen and prepared, in the decoding process.
    limits: of the decoding process.
    warnings: receives a warning for each decoder that hangs, crashes or takes too much memory.
    hosts: which servers seem to be down; the decoding processes of a worker share it.
    """

    def __init__(
        self,
        preparation: FramePreparation,
        limits: DecoderLimits,
        warnings: LimitedLog,
        hosts: Hosts,
    ) -> None:
        super().__init__(limits)
        self._hosts = hosts
        self._warnings = warnings
        self._preparation = preparation
        self._memory: FrameMemory | None = None
        self._file: DownloadFile | None = None  # made for the first URL; outlives the process
        self._downloaded = ""  # the URL of which the file has the content

    def decode(
        self,
        path: str,
        stopping: threading.Event,
        part: TimeRange | None = None,
        sampling: FrameSampling | None = None,
        image_role: ImageRole = ImageRole.ALONE,
    ) -> tuple[np.ndarray | None, DecodeReply]:
        """Decode a clip. The decoders are tried one after the other, each with the whole deadline.

        path: of a local file, or a URL.
        stopping: set by another thread to end the call early; a process that is busy then is killed.
        part: of the file; None for the whole file.
        sampling: which frames are sampled; None for the sampling of the preparation.
        image_role: how the file is prepared if it is a still image.

        Returns the prepared frames and the reply; if the clip failed, None and a reply with the stage and every
        message.

        Raises:
            StartError: no process can be started.
        """
        if part is not None and part.problem:  # a URL need not be downloaded
            return None, DecodeReply(stage="decode", messages=(part.problem,))
        request = DecodeRequest(path, "", part=part, sampling=sampling, image_role=image_role)
        if not is_url(path):
            self._clear_file()
            return self._decode(request, stopping)
        problem = url_problem(path)
        if not problem and path != self._downloaded:
            problem = self._download(path, stopping)
        if problem:
            self.recycle()
            return None, DecodeReply(stage="download", messages=(problem,))
        self._downloaded = path
        frames, reply = self._decode(request, stopping)
        if part is None:
            self._clear_file()  # else the next row probably is another range of the same file
        messages = tuple(map(DownloadFile.without_path, reply.messages))
        return frames, replace(reply, messages=messages)

    def _decode(self, request: DecodeRequest, stopping: threading.Event) -> tuple[np.ndarray | None, DecodeReply]:
        """As `decode`. request: without a decoder."""
        messages: list[str] = []
        path = request.path
        # A file that is sent has no second decoder to try; its process chooses one by its content.
        decoders = ("file",) if self._preparation.sends_file else available_decoders(path, request.part)
        for decoder in decoders:
            reply, problem = self.ask(replace(request, decoder=decoder), stopping)
            if stopping.is_set():
                if reply is None:  # its reply would be taken for that of the next request
                    self.kill()
                break
            if reply is None:
                self._warnings.warning("%s: %s: %s", without_credentials(path), decoder, problem)
                messages.append(f"{decoder}: {problem}")
            elif reply.stage == "decode":
                messages += reply.messages
                if reply.is_final:
                    break
            else:
                frames = None
                if reply.frames is not None:
                    assert self._memory is not None
                    frames = self._memory.get(reply.frames)
                self.recycle()
                return frames, reply
        self.recycle()
        return None, DecodeReply(stage="decode", messages=tuple(messages))

    def _download(self, url: str, stopping: threading.Event) -> str:
        """Download a clip into the file. Returns '', or why it failed."""
        self._clear_file()
        if self._file is None:
            self.kill()  # a process inherits the file when it starts
            try:
                self._file = DownloadFile()
            except OSError as error:
                return f"no temporary file in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR to another folder"
        self.start_if_needed(stopping)
        begin, host = time.monotonic(), host_of(url)
        limits = self._hosts.limits(host, self._limits.download)
        # A process that replaces a killed one has the time that is left.
        deadline = Deadline(limits.timeout + _DOWNLOAD_GRACE_SECONDS, "--download_timeout", begin)
        outcome, no_reply = self.ask(_DownloadRequest(url, limits, begin + limits.timeout), stopping, deadline)
        if outcome is None:
            if not stopping.is_set():
                self._warnings.warning("%s: download: %s", without_credentials(url), no_reply)
            # A process that does not end although it was killed could still write: the next one gets another file.
            self.kill()
            self._close_file()
            return no_reply
        self._record(host, outcome.may_pass)
        if outcome.problem:
            self._clear_file()
        return str(outcome.problem)

    def _record(self, host: str, has_failed: bool) -> None:
        if self._hosts.record(host, has_failed):
            self._warnings.warning(
                "%s: the last %d downloads failed until --download_timeout; until one succeeds, each clip of this host "
                "gets one short attempt",
                host,
                FAILURES_OF_A_SILENT_HOST,
            )

    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        self._memory = FrameMemory()
        fds = (self._memory.fd,) if self._file is None else (self._memory.fd, self._file.fd)
        return make_process(context, connection, fds, _serve, self._preparation)

    def kill(self) -> None:
        super().kill()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def close(self) -> None:
        """Kill the process, if there is one, and free the memory and the file."""
        self.kill()
        self._close_file()

    def _clear_file(self) -> None:
        self._downloaded = ""
        if self._file is not None:
            self._file.clear()

    def _close_file(self) -> None:
        self._downloaded = ""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _serve(connection: Connection, fds: Sequence[int], preparation: FramePreparation) -> None:
    """Handle requests until `connection` is closed. Runs in the decoding process.

    fds: of the frame memory and, if the process shall download clips, of the file for them.
    """
    memory = FrameMemory(fds[0])
    file = DownloadFile(fds[1]) if len(fds) > 1 else None

    def handle(request: DecodeRequest | _DownloadRequest) -> DecodeReply | Outcome:
        if isinstance(request, _DownloadRequest):
            from .downloads.download import download  # imports fsspec, which a table of local files does not need

            assert file is not None
            return download(request.url, file.path, request.limits, request.deadline)
        if is_url(request.path):  # the clip that was downloaded last
            assert file is not None
            request = replace(request, path=file.path, named=request.path)
        return handle_request(request, memory, preparation)

    serve(connection, handle)
