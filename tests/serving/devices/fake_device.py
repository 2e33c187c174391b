"""A device program without a model: the text of a question says what it does. Speaks the messages of the server.

    python -m tests.serving.devices.fake_device [--slots N] [--loaded usage|error|exit|wait] [--hangs_second FILE]
        --fd FD

`hold` waits for SIGUSR1, after which the process holds no question; `decode` does, too, but is not given to the engine
before. `slots N` changes the number of slots. `die`, `die once FILE`, `resend`, `differ`, `long`
and `cancelled`: see below. Anything else is answered with the id of the process and the question.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.captioning.process.supervisor import die_with_parent
from pipeline.serving.messages import (
    Ask,
    Begun,
    Cancel,
    DeviceSettings,
    Done,
    FinishReason,
    Given,
    LoadFailed,
    Ready,
    State,
    Stop,
    Text,
)

LONG = "".join(f"{number} " for number in range(2000))


class FakeDevice:
    def __init__(self, connection: Connection, slots: int) -> None:
        self.connection, self.slots = connection, slots
        self.held: dict[int, Ask] = {}
        self.cancelled = 0
        self.is_busy = self.is_released = False

    def serve(self) -> None:
        while not isinstance(message := self.connection.recv(), Stop):
            self.is_busy = True
            if isinstance(message, Cancel):
                self.cancelled += 1
                self.held.pop(message.id, None)
            else:
                self._answer(message)
            self.connection.send(self._state())
            self.is_busy = False
            if self.is_released:
                self._end_held()

    def _answer(self, ask: Ask) -> None:
        word, _, rest = ask.question.partition(" ")
        if word == "decode":
            self.held[ask.id] = ask
            return
        self.connection.send(Given((ask.id,)))
        self.connection.send(Begun(ask.id, 7))
        if word == "hold":
            self.held[ask.id] = ask
        elif word == "die":
            once = Path(rest.removeprefix("once "))
            if rest and once.exists():
                self._done(ask.id, "abcdef" if ask.streams else f"{os.getpid()} lived")
                return
            if rest:
                once.touch()
                self.connection.send(Text(ask.id, 0, "abc"))
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "resend":
            for begin, text in ((0, "ab"), (2, "cd"), (0, "abc"), (3, "def")):
                self.connection.send(Text(ask.id, begin, text))
            self._done(ask.id, "abcdefg")
        elif word == "differ":
            self.connection.send(Text(ask.id, 0, "abc"))
            self.connection.send(Text(ask.id, 0, "abX"))
        elif word == "long":
            begin = 0
            for part in LONG.split(" ")[:-1]:
                self.connection.send(Text(ask.id, begin, f"{part} "))
                begin += len(part) + 1
            self._done(ask.id, LONG)
        elif word == "slots":
            self.slots = int(rest)
            self._done(ask.id, "changed")
        elif word == "cancelled":
            self._done(ask.id, str(self.cancelled))
        else:
            self._done(ask.id, f"{os.getpid()} {ask.question}")

    def _state(self) -> State:
        decoded = sum(ask.question == "decode" for ask in self.held.values())
        return State(len(self.held) - decoded, decoded, self.slots)

    def release(self) -> None:
        """The handler of SIGUSR1."""
        self.is_released = True
        if not self.is_busy:
            self._end_held()

    def _end_held(self) -> None:
        self.is_busy = True
        for held in self.held:
            self._done(held, f"{os.getpid()} released")
        self.held.clear()
        self.connection.send(State(0, 0, self.slots))
        self.is_busy = False

    def _done(self, id: int, text: str) -> None:
        self.connection.send(Done(id, text, FinishReason.STOP, 7, len(text)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--loaded", default="")
    parser.add_argument("--hangs_second", type=Path, help="a file, to which each start adds a line; the second hangs")
    flags = parser.parse_args()
    die_with_parent(os.getppid())
    connection = Connection(flags.fd)
    settings = connection.recv()
    assert isinstance(settings, DeviceSettings)
    if flags.loaded in ("usage", "error"):
        connection.send(LoadFailed(f"weights are missing ({flags.loaded})", flags.loaded == "usage"))
        sys.exit(1)
    if flags.loaded == "exit":
        sys.exit(3)
    if flags.hangs_second is not None:
        with flags.hangs_second.open("a+") as starts:
            starts.write("start\n")
            starts.seek(0)
            if len(starts.readlines()) == 2:
                flags.loaded = "wait"
    if flags.loaded == "wait":
        threading.Event().wait()
    device = FakeDevice(connection, flags.slots)
    signal.signal(signal.SIGUSR1, lambda *_: device.release())
    connection.send(Ready(flags.slots, f"fake in {settings.dtype}"))
    try:
        device.serve()
    except EOFError:
        sys.exit(0)


if __name__ == "__main__":
    main()
