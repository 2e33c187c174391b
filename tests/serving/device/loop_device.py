"""A device whose loop runs in a thread, with a captioner and a loader that need no model and no files."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.device.engine_loop import EngineLoop, Received
from pipeline.serving.device.media_loader import Loaded, NotLoaded
from pipeline.serving.messages import (
    Ask,
    Begun,
    Done,
    Failed,
    FromDevice,
    Given,
    State,
    Stop,
    Text,
)
from tests.fakes import CPU
from tests.serving.device.fake_model import FakeModel

SECONDS = 30.0


class FakeLoader:
    """Loads each question at once, except those about `hanging`."""

    def __init__(self, inbox: queue.SimpleQueue[Received]) -> None:
        self._inbox = inbox
        self.kept: set[int] = set()

    def add(self, ask: Ask) -> None:
        self.kept.add(ask.id)
        if ask.media == ("broken",):
            self._inbox.put(NotLoaded(ask, ("PyAV: no video", "decord: no frames")))
        elif ask.media != ("hanging",):
            clips = [Clip(ask.id, name, np.zeros((1, 2), np.uint8), (0,)) for name in ask.media]
            self._inbox.put(Loaded(ask, tuple(clips)))

    def forget(self, question: int) -> None:
        self.kept.discard(question)


class Device:
    """A loop in a thread, and what it sends."""

    def __init__(self, model: FakeModel, slots: int = 4) -> None:
        self.model = model
        self.sent: list[FromDevice] = []
        self._changed = threading.Condition()
        inbox: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self.loader = FakeLoader(inbox)
        self.loop = EngineLoop(model, CPU, slots, self.loader, inbox, self._send, self._check, "S")
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def _check(self) -> None:
        if self.model.is_broken:
            raise RuntimeError("no device")

    def _send(self, message: FromDevice) -> None:
        with self._changed:
            self.sent.append(message)
            self._changed.notify_all()

    def ask(self, number: int, question: str, *media: str, tokens: int = 200, **about: object) -> None:
        options = GenerationOptions(max_new_tokens=tokens, num_beams=2 if question == "beams" else 1)
        self.loop.receive(Ask(number, question, options, media=media or ("clip",), **about))  # type: ignore[arg-type]

    def wait(self, is_true: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_true, SECONDS), self.sent[-20:]

    def about(self, number: int) -> list[Begun | Text | Done | Failed]:
        return [one for one in self.sent if not isinstance(one, State | Given) and getattr(one, "id", None) == number]  # type: ignore[misc]

    def end(self, number: int) -> Done | Failed:
        """The last message about a question; waits for it."""
        self.wait(lambda: any(isinstance(one, Done | Failed) for one in self.about(number)))
        ends = [one for one in self.about(number) if isinstance(one, Done | Failed)]
        assert len(ends) == 1 and self.about(number)[-1] is ends[0]
        return ends[0]

    def text(self, number: int) -> str:
        end = self.end(number)
        assert isinstance(end, Done), end
        return end.text

    def states(self) -> list[State]:
        return [one for one in self.sent if isinstance(one, State)]

    def wait_idle(self) -> None:
        self.wait(lambda: self.states()[-1].running + self.states()[-1].waiting == 0)
        assert not self.loader.kept

    def streamed(self, number: int) -> str:
        """The text of the pieces, of which later ones replace earlier ones from their begin on."""
        text = ""
        for one in self.about(number):
            if isinstance(one, Text):
                assert one.begin <= len(text)
                text = text[: one.begin] + one.text
        return text

    def close(self) -> None:
        self.model.gate.set()
        self.loop.receive(Stop())
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


Make = Callable[..., Device]


@contextlib.contextmanager
def running_loops() -> Iterator[Make]:
    """Makes devices, which end with the block."""
    devices: list[Device] = []

    def make(model: FakeModel | None = None, slots: int = 4) -> Device:
        devices.append(Device(model or FakeModel(), slots))
        return devices[-1]

    yield make
    for device in devices:
        device.close()
