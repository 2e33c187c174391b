"""The loop that drives the engine, with a captioner without a model."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason
from pipeline.serving.device.open_answer import OpenAnswer
from pipeline.serving.messages import (
    Ask,
    Begun,
    Cancel,
    Done,
    Failed,
    FinishReason,
    Problem,
    State,
    Text,
)
from tests.serving.device.fake_model import ENDLESS, FakeModel
from tests.serving.device.loop_device import Make, running_loops


@pytest.fixture
def device_of() -> Iterator[Make]:
    with running_loops() as make:
        yield make


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
