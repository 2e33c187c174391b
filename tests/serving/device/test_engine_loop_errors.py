"""Errors of the model in the loop that drives the engine: the question that causes one fails, the others do not."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator

import pytest

from pipeline.captioning.generation.requests import Event
from pipeline.captioning.process.errors import RunError
from pipeline.serving.messages import (
    Cancel,
    Failed,
    FromDevice,
    Given,
    Problem,
)
from tests.serving.device.fake_model import ENDLESS, FakeEngine, FakeModel
from tests.serving.device.loop_device import SECONDS, Device, Make, running_loops


@pytest.fixture
def device_of() -> Iterator[Make]:
    with running_loops() as make:
        yield make


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
