"""Send clips to a decoding process and receive prepared frames. Runs in the worker, except `_serve`.

The worker requests one decoder after the other. If a decoder hangs or crashes, its process is killed and the next
decoder is tried. Only that clip can fail.
"""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import numpy as np

from ..process.limited_log import LimitedLog
from .decode import available_decoders
from .decode_server import DecodeReply, DecodeRequest, handle_request
from .frame_memory import FrameMemory
from .killable import DecoderLimits, KillableProcess, serve
from .preparation import FramePreparation
from .process_start import make_process


class DecodeClient(KillableProcess):
    """A decoding process, and the memory through which it returns frames.

    preparation: how frames are chosen and prepared, in the decoding process.
    limits: of the decoding process.
    warnings: receives a warning for each decoder that hangs, crashes or takes too much memory.
    """

    def __init__(
        self,
        preparation: FramePreparation,
        limits: DecoderLimits,
        warnings: LimitedLog,
    ) -> None:
        super().__init__(limits)
        self._warnings = warnings
        self._preparation = preparation
        self._memory: FrameMemory | None = None

    def decode(self, path: str, stopping: threading.Event) -> tuple[np.ndarray | None, DecodeReply]:
        """Decode a clip. The decoders are tried one after the other, each with the whole deadline.

        stopping: set by another thread to end the call early.

        Returns the prepared frames and the reply; if the clip failed, None and a reply with the stage and every
        message.

        Raises:
            StartError: no process can be started.
        """
        messages: list[str] = []
        for decoder in available_decoders(path):
            reply, problem = self.ask(DecodeRequest(path, decoder), stopping)
            if stopping.is_set():
                break
            if reply is None:
                self._warnings.warning("%s: %s: %s", path, decoder, problem)
                messages.append(f"{decoder}: {problem}")
            elif reply.stage == "decode":
                messages += reply.messages
            else:
                frames = None
                if reply.frames is not None:
                    assert self._memory is not None
                    frames = self._memory.get(reply.frames)
                self.recycle()
                return frames, reply
        self.recycle()
        return None, DecodeReply(stage="decode", messages=tuple(messages))

    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        self._memory = FrameMemory()
        return make_process(context, connection, self._memory.fd, _serve, self._preparation)

    def kill(self) -> None:
        super().kill()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def _serve(connection: Connection, memory_fd: int, preparation: FramePreparation) -> None:
    """Handle requests until `connection` is closed. Runs in the decoding process."""
    memory = FrameMemory(memory_fd)
    serve(connection, lambda request: handle_request(request, memory, preparation))
