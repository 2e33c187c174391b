"""The loop that drives the engine, with a captioner without a model."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Event
from pipeline.captioning.process.errors import RunError
from pipeline.serving.device.engine_loop import EngineLoop, Received
from pipeline.serving.device.media_loader import Loaded, NotLoaded
from pipeline.serving.device.open_answer import OpenAnswer
from pipeline.serving.messages import (
    Ask,
    Begun,
    Cancel,
    Done,
    Failed,
    FinishReason,
    FromDevice,
    Given,
    Problem,
    State,
    Stop,
    Text,
)
from tests.fakes import CPU
from tests.serving.device.fake_model import ENDLESS, FakeEngine, FakeModel

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


@pytest.fixture
def device_of() -> Iterator[Make]:
    devices: list[Device] = []

    def make(model: FakeModel | None = None, slots: int = 4) -> Device:
        devices.append(Device(model or FakeModel(), slots))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def test_a_question_joins_others_that_run_and_leaves_when_it_ends(device_of: Make) -> None:
    device = device_of()
    device.ask(1, ENDLESS, tokens=10**9, streams=True)
    device.wait(lambda: bool(device.about(1)))
    for number in range(2, 30):
        device.ask(number, f"a red star {number}")
    assert [device.text(number) for number in range(2, 30)] == [f"a red star {number}" for number in range(2, 30)]
    device.wait(lambda: State(1, 0, 4) in device.sent)
    assert not any(isinstance(one, Done) for one in device.about(1))
    device.loop.receive(Cancel(1))
    device.wait_idle()
    assert max(one.running for one in device.states()) == 4


def test_what_is_sent_about_an_answer(device_of: Make) -> None:
    device = device_of()
    device.ask(1, "yes é", streams=True)
    assert device.end(1) == Done(1, "yes é", FinishReason.STOP, 5, 6)
    assert device.about(1)[0] == Begun(1, 5)
    assert [one.text for one in device.about(1) if isinstance(one, Text)] == ["y", "e", "s", " é"]
    device.ask(2, "yes", tokens=2)
    assert device.end(2) == Done(2, "ye", FinishReason.LENGTH, 3, 2)
    assert len(device.about(2)) == 2, "no text without `streams`"
    device.ask(3, "one STOP two", stop=("STOP",), streams=True)
    device.ask(4, "one STOP two", stop=("STOP",))
    for number in (3, 4):
        assert device.end(number) == Done(number, "one ", FinishReason.STOP, 12, 8)
    assert device.streamed(3) == "one " and device.streamed(4) == ""
    device.wait_idle()


def test_questions_about_text_and_several_images(device_of: Make) -> None:
    device = device_of()
    device.loop.receive(Ask(1, "hello", GenerationOptions()))
    device.ask(2, "which", "a.png", "b.png")
    device.ask(3, "a clip", system="be brief")
    assert [device.text(number) for number in (1, 2, 3)] == ["hello", "2 images: which", "a clip"]
    assert device.model.systems[3] == "be brief"
    device.wait_idle()


def test_an_endless_answer_is_cut_off_by_its_stop_text(device_of: Make) -> None:
    device = device_of(slots=1)
    device.ask(1, ENDLESS, tokens=10**9, stop=("s e",))
    device.ask(2, "next")
    assert device.text(1) == "endles" and device.text(2) == "next"


@pytest.mark.parametrize("question", [ENDLESS, "waiting"])
def test_a_question_can_be_cancelled_in_its_slot_and_before(device_of: Make, question: str) -> None:
    device = device_of(slots=1)
    device.ask(1, ENDLESS, tokens=10**9)
    device.wait(lambda: State(1, 0, 1) in device.sent)
    device.ask(2, "waiting")
    device.ask(3, "last")
    device.wait(lambda: State(1, 2, 1) in device.sent)
    device.loop.receive(Cancel(2))
    device.wait(lambda: device.sent[-1] == State(1, 1, 1))
    device.loop.receive(Cancel(1))
    assert device.text(3) == "last"
    assert not device.about(2)
    device.wait_idle()


def test_cancelling_ends_decoding_during_a_step(device_of: Make) -> None:
    device = device_of()
    device.ask(1, ENDLESS, tokens=10**9)
    device.wait(lambda: State(1, 0, 4) in device.sent)
    device.ask(2, "?", "hanging")
    device.wait(lambda: State(1, 1, 4) in device.sent)
    device.model.gate.clear()
    device.loop.receive(Cancel(2))
    assert device.loader.kept <= {1}
    device.model.gate.set()
    device.wait(lambda: device.sent[-1] == State(1, 0, 4))
    device.loop.receive(Cancel(1))
    device.loop.receive(Cancel(77))
    device.wait_idle()


def test_a_loop_that_waits_for_decoding_shows_that_it_is_alive(device_of: Make) -> None:
    device = device_of()
    device.ask(1, "?", "hanging")
    device.wait(lambda: device.sent.count(State(0, 1, 4)) > 2)
    device.loop.receive(Cancel(1))
    device.wait_idle()


def test_an_answer_of_several_prompts_is_one_piece_of_text() -> None:
    """Their tokens come mixed."""
    model, ask = FakeModel(), Ask(1, "ab", GenerationOptions(), stop=("c",), streams=True)
    request = model.prepare_text((1, 0), "ab")
    answer = OpenAnswer(ask, model, replace(request, embeddings=np.zeros((2, 2, 0))))  # type: ignore[arg-type]
    assert answer.add([ord("a"), ord("x")]) == [Begun(1, 2)]
    assert answer.add([ord("c")]) == []
    end = End((1, 0), [*map(ord, "abcd")], EndReason.LENGTH)
    assert answer.end(end) == [Text(1, 0, "ab"), Done(1, "ab", FinishReason.STOP, 2, 4)]


def test_each_problem_has_its_kind(device_of: Make) -> None:
    device = device_of()
    device.ask(1, "?", "broken")
    device.ask(2, "refused")
    device.ask(3, "overflow")
    device.loop.receive(Ask(4, "no text", GenerationOptions()))
    device.ask(5, "beams")
    device.ask(6, "good")
    ends = [device.end(number) for number in range(1, 6)]
    assert [one.problem for one in ends if isinstance(one, Failed)] == [
        Problem.MEDIA, Problem.PROMPT, Problem.MODEL, Problem.PROMPT, Problem.PROMPT
    ]  # fmt: skip
    assert ends[0] == Failed(1, Problem.MEDIA, "PyAV: no video; decord: no frames")
    assert device.text(6) == "good"
    device.wait_idle()


@pytest.mark.parametrize("fault", ["crash", "unprepared", "huge"])
def test_an_error_costs_the_question_that_causes_it(device_of: Make, fault: str) -> None:
    device = device_of(slots=8)
    device.model.gate.clear()
    for number in range(12):
        device.ask(number, fault if number in (3, 9) else f"a long answer {number}", streams=True)
    device.model.gate.set()
    for number in range(12):
        end = device.end(number)
        if number in (3, 9):
            assert isinstance(end, Failed) and end.problem is Problem.MODEL
            assert end.message.startswith("RuntimeError: ")
        else:
            assert device.text(number) == device.streamed(number) == f"a long answer {number}"
    device.wait_idle()
    device.ask(20, "after")
    assert device.text(20) == "after"
    assert device.model.engines[-1] == 8, "the slots are as many as before"


def test_fewer_slots_after_out_of_memory(device_of: Make) -> None:
    device = device_of(FakeModel(memory=3), slots=8)
    device.model.gate.clear()
    for number in range(20):
        device.ask(number, f"answer {number}")
    device.model.gate.set()
    assert [device.text(number) for number in range(20)] == [f"answer {number}" for number in range(20)]
    device.wait_idle()
    assert device.model.engines[-1] <= 3
    assert device.states()[-1].slots <= 3
    made = device.model.engines.count(8)
    for number in range(20, 220):
        device.ask(number, f"answer {number}")
    assert [device.text(number) for number in range(20, 220)] == [f"answer {number}" for number in range(20, 220)]
    assert device.model.engines.count(8) - made <= 5, "all slots are tried again more and more rarely"


class LongTakesMemory(FakeModel):
    """Memory for 16 answers; a question with `long` takes as much as 14."""

    def engine(self, slots: int) -> FakeEngine:
        self.engines.append(slots)
        return LongEngine(self, slots)


class LongEngine(FakeEngine):
    def step(self) -> list[Event]:
        if sum(14 if "long" in self._model.questions[key[0]] else 1 for key in self._requests) > 16:  # type: ignore[index]
            raise RuntimeError("out of memory")
        return super().step()


def test_all_slots_are_used_again_after_a_question_that_took_much_memory(device_of: Make) -> None:
    device = device_of(LongTakesMemory(), slots=16)
    device.model.gate.clear()
    for number in range(16):
        device.ask(number, "a long one" if number == 5 else f"short {number}")
    device.model.gate.set()
    assert device.text(5) == "a long one"
    device.wait_idle()
    assert min(state.slots for state in device.states()) < 16, "fewer slots are reported"
    for number in range(100, 200):
        device.ask(number, f"short {number}")
    assert [device.text(number) for number in range(100, 200)] == [f"short {number}" for number in range(100, 200)]
    device.wait_idle()
    assert device.states()[-1].slots == device.model.engines[-1] == 16


def test_the_engine_gets_only_questions_that_were_reported(device_of: Make) -> None:
    """A process that dies has no time to say which questions may be the cause."""
    device = device_of()
    device.model.gate.clear()
    device.ask(1, "first")
    device.ask(2, "?", "hanging")
    device.wait(lambda: bool(device.model.prepared))
    assert [one.ids for one in device.sent if isinstance(one, Given)] == [(1,)]
    device.loop.receive(Cancel(2))


def test_the_memory_of_a_failed_engine_is_free_before_the_device_is_checked() -> None:
    engines: list[weakref.ref[FakeEngine]] = []
    alive: list[int] = []

    class Model(FakeModel):
        def engine(self, slots: int) -> FakeEngine:
            engine = super().engine(slots)
            engines.append(weakref.ref(engine))
            return engine

    class Checked(Device):
        def _check(self) -> None:
            alive.append(sum(engine() is not None for engine in engines))

    logging.disable(logging.CRITICAL)  # the records that pytest keeps refer to the frames of the error
    try:
        device = Checked(Model())
        device.ask(1, "crash")
        assert isinstance(device.end(1), Failed)
        device.close()
    finally:
        logging.disable(logging.NOTSET)
    assert alive == [0]


def test_a_broken_pipe_is_no_error_of_the_model(device_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    device = device_of()

    class Reporting(FakeEngine):
        def step(self) -> list[Event]:
            device.model.gate.wait(SECONDS)
            device.loop._state_time = 0.0  # the state is due
            self.on_token()
            return super().step()

    def send(_: FromDevice) -> None:
        raise BrokenPipeError("gone")

    device.model.engine = lambda slots: Reporting(device.model, slots)  # type: ignore[method-assign]
    device.model.gate.clear()
    device.ask(1, ENDLESS, tokens=10**9)
    device.wait(lambda: bool(device.model.prepared))
    device.loop._send = send
    device.model.gate.set()
    device.thread.join(SECONDS)
    assert isinstance(device.error, BrokenPipeError)
    assert "an error of the model" not in caplog.text


def test_a_device_that_fails_for_every_question_ends_the_loop(device_of: Make) -> None:
    device = device_of()
    device.model.is_broken = True
    device.ask(1, "crash")
    device.thread.join(SECONDS)
    assert isinstance(device.error, RunError) and "no device" in str(device.error)
    assert not [one for one in device.about(1) if isinstance(one, Failed)], "another device may answer"


def test_an_idle_loop_does_nothing(device_of: Make) -> None:
    device = device_of()
    device.ask(1, "one")
    device.text(1)
    device.wait_idle()
    sent, begin = len(device.sent), time.process_time()
    device.thread.join(0.3)
    assert len(device.sent) == sent and time.process_time() - begin < 0.2


def test_random_questions_faults_and_cancels(device_of: Make) -> None:
    rng = random.Random(5)
    device = device_of(FakeModel(memory=6), slots=5)
    questions, cancelled = {}, set()
    for number in range(120):
        word = rng.choices(["a red star", "crash", "huge", "unprepared", "é🙂 X y"], [20, 1, 1, 1, 5])[0]
        questions[number] = f"{word} {number}"
        device.ask(number, questions[number], streams=rng.random() < 0.5, stop=("X",) if rng.random() < 0.3 else ())
        if rng.random() < 0.2:
            cancelled.add(back := rng.randrange(number + 1))
            device.loop.receive(Cancel(back))
    for number, question in questions.items():
        if number in cancelled:
            continue
        end = device.end(number)
        if any(fault in question for fault in ("crash", "huge", "unprepared")):
            assert isinstance(end, Failed)
        else:
            assert isinstance(end, Done) and question.startswith(end.text)
            assert device.streamed(number) in ("", end.text)
    device.wait_idle()
