"""A decoding process as its worker sees it.

Decoders are tried one after the other, so that one that hangs or crashes leaves the next its turn; what
goes wrong costs that clip alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import numpy as np
from PIL import Image

from ..process.limited_log import LimitedLog
from .decode import available_decoders
from .decode_process import DecodeReply, DecodeRequest, answer
from .frame_memory import FrameMemory
from .killable import DecoderLimits, KillableProcess, serve
from .process_start import make_process


class Decoder(KillableProcess):
    """A decoding process with the memory through which frames come back."""

    def __init__(
        self,
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        limits: DecoderLimits,
        warnings: LimitedLog,
    ) -> None:
        super().__init__(limits)
        self._warnings = warnings
        self._arguments = (num_frames, frame_transform)
        self._memory: FrameMemory | None = None

    def decode(self, path: str, stopping: threading.Event) -> tuple[np.ndarray | None, DecodeReply]:
        """Ask the process for one decoder after the other, each with the whole deadline.

        Returns the prepared frames and the reply, or None and a reply with every message.
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
        return None, DecodeReply(stage="decode", messages=tuple(messages))

    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        self._memory = FrameMemory()
        return make_process(context, connection, self._memory.fd, _serve, *self._arguments)

    def kill(self) -> None:
        super().kill()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def _serve(
    connection: Connection,
    memory_fd: int,
    num_frames: int,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
) -> None:
    memory = FrameMemory(memory_fd)
    serve(connection, lambda request: answer(request, memory, num_frames, frame_transform))
