"""One operating-system process and the messages to and from it. Knows nothing about questions and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

from ..messages import FromDevice, ToDevice

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_LEAVE_SECONDS = 1.0
"""Time for a process to end after it has closed its connection."""
_REAP_SECONDS = 10.0
"""Time for a killed process to end. A process that waits for its disk or its device in the kernel takes longer."""


class ProcessLink:
    """A running process, started by this object. Used from one event loop; must be made in the thread of this loop.

    That thread must live as long as the process: Linux kills a child that has asked to die with its parent when the
    thread that started it ends.

    command: the command line, to which `--fd N` is added: N is the descriptor of the connection in the process.
    environment: the variables of the process.
    on_message: is called in the loop for each message, in order.
    on_end: is called in the loop once, after the last message, with a text about how the process ended.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_message: Callable[[FromDevice], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_end = on_message, on_end
        self._outbox: queue.SimpleQueue[ToDevice | None] = queue.SimpleQueue()
        self._socket, other = socket.socketpair()
        try:
            with other:
                # In a session of its own: Ctrl-C in a terminal is for the server, which lets open questions end.
                self._process = subprocess.Popen(
                    [*command, "--fd", str(other.fileno())],
                    pass_fds=[other.fileno()],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError:
            self._socket.close()
            raise
        # Both threads wait in the kernel, where the event loop must not wait.
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._writer, reader = (
            threading.Thread(target=work, name=f"{work.__name__} of process {self.pid}", daemon=True)
            for work in (self._write, self._read)
        )
        try:
            self._writer.start()
            reader.start()
        except RuntimeError as error:  # the system allows no more threads
            self._outbox.put(None)
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_SECONDS)
            self._connection.close()
            self._socket.close()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToDevice) -> None:
        """Send a message, in a thread. If the process has died, nothing happens; `on_end` is called anyway."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill the process, if it still runs; `on_end` is called a little later."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the waits of both threads

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if not self._post(self._on_message, message):
                    break
        except (EOFError, OSError):
            pass
        except Exception:  # what was received is no message: the process is not usable
            logger.exception("device process %d sent what can't be read", self.pid)
        ended = self._reap()
        self._outbox.put(None)
        self._writer.join()
        self._connection.close()
        self._socket.close()
        self._post(self._on_end, ended)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                return
            except Exception:  # a message that can't be pickled
                logger.exception("a message can't be sent to device process %d", self.pid)
                self.kill()
                return

    def _reap(self) -> str:
        """Wait until the process has ended, and kill it if necessary; how it ended, for a message."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_SECONDS)
        self.kill()
        try:
            code = self._process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return "its disk or its device hangs, and it can't be killed"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _post(self, function: Callable[[_T], None], argument: _T) -> bool:
        """Call a function in the loop; whether the loop still runs."""
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed
            return False
        return True
