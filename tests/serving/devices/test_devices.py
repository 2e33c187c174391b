"""Questions are shared between the processes, in order, within the limits; refused, cancelled and drained."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from pipeline.captioning.process.errors import RunError, UsageError
from pipeline.serving.devices import process
from pipeline.serving.devices.process import ProcessLink
from pipeline.serving.messages import Begun, Done, Failed, Problem, Text
from pipeline.serving.questions import Load, QueueFull
from tests.serving.devices.fake_device import LONG
from tests.serving.devices.fake_devices import (
    answer,
    answers,
    ask,
    fake_devices,
    release,
    running_devices,
    text_of,
    until,
)


def test_answers_of_one_device() -> None:
    async def run() -> None:
        async with running_devices() as devices:
            assert devices.load() == Load(running=0, waiting=0, slots=2, devices=1, ready=1, restarts=0)
            assert "fake in float32" in devices.description()
            begun, done = await answers(ask(devices, "hello"))
            assert begun == Begun(5, 7)
            assert isinstance(done, Done) and done.id == 5 and done.text.endswith(" hello")

            messages = await answers(ask(devices, "resend", streams=True))
            assert isinstance(messages[-1], Done)
            parts = [message for message in messages if isinstance(message, Text)]
            assert "".join(part.text for part in parts) == "abcdefg"
            assert [part.begin for part in parts] == [
                sum(len(part.text) for part in parts[:number]) for number in range(len(parts))
            ]

            failed = await answer(devices, "differ", streams=True)
            assert isinstance(failed, Failed) and failed.problem == Problem.DEVICE and "differs" in failed.message
            assert await text_of(devices, "cancelled") == "1"

    asyncio.run(run())


def test_a_slow_client_gets_the_whole_text_in_few_parts() -> None:
    async def run() -> None:
        async with running_devices() as devices:
            question = ask(devices, "long", streams=True)
            await until(lambda: devices.load().waiting + devices.load().running == 0)
            messages = await answers(question)
            parts = [message.text for message in messages if isinstance(message, Text)]
            assert "".join(parts) == LONG and len(parts) == 1

    asyncio.run(run())


def test_two_devices_get_equal_shares() -> None:
    async def run() -> None:
        async with running_devices(2, "--slots", "100") as devices:
            questions = [ask(devices, "hold") for _ in range(200)]
            await until(lambda: devices.load().running == 200)
            assert devices.load() == Load(running=200, waiting=0, slots=200, devices=2, ready=2, restarts=0)
            release(devices)
            shares = Counter([messages[-1].text for messages in await asyncio.gather(*map(answers, questions))])
            assert sorted(shares.values()) == [100, 100]

    asyncio.run(run())


def test_a_full_queue_refuses_and_cancelling_makes_room() -> None:
    async def run() -> None:
        async with running_devices(1, "--slots", "2", max_waiting=8) as devices:
            questions = [ask(devices, "hold") for _ in range(10)]
            with pytest.raises(QueueFull, match="8 questions wait") as refused:
                ask(devices, "hold")
            assert 1 <= refused.value.retry_after <= 60
            await until(lambda: devices.load().running == 6)  # the others have not been passed on
            assert devices.load().waiting == 4
            reading = asyncio.create_task(answers(questions[0]))
            questions[-1].cancel()  # no process has it
            questions[0].cancel()
            assert [type(each) for each in await reading] in ([], [Begun])
            assert devices.load().running + devices.load().waiting == 8
            for question in questions[1:-1:2]:
                question.cancel()
            questions[0].cancel()  # does nothing
            release(devices)
            last = [(await answers(question))[-1] for question in questions[2:-1:2]]
            assert all(isinstance(each, Done) for each in last)
            assert await text_of(devices, "cancelled") == "5"
            assert devices.load().waiting == devices.load().running == 0

    asyncio.run(run())


def test_leaving_the_answers_cancels() -> None:
    async def run() -> None:
        async with running_devices() as devices:
            stream = ask(devices, "hold", streams=True).answers()
            assert isinstance(await anext(stream), Begun)
            await stream.aclose()
            assert await text_of(devices, "cancelled") == "1"

    asyncio.run(run())


def test_draining_waits_for_open_questions_and_refuses_others() -> None:
    async def run() -> None:
        async with running_devices(1, "--slots", "3") as devices:
            held, release = ask(devices, "hold"), ask(devices, "hello")
            drain = asyncio.create_task(devices.drain(30))
            await answers(release)
            assert devices.load().ready == 0 and not drain.done()
            with pytest.raises(QueueFull, match="shutting down"):
                ask(devices, "hello")
            held.cancel()
            await drain

    asyncio.run(run())


def test_questions_that_do_not_end_fail() -> None:
    async def run() -> None:
        async with running_devices() as devices:
            held = ask(devices, "hold")
            await devices.drain(0.01)
            failed = (await answers(held))[-1]
            assert isinstance(failed, Failed) and "shutting down" in failed.message

    asyncio.run(run())


def test_questions_are_refused_while_the_model_is_loaded() -> None:
    async def run() -> None:
        devices = fake_devices(1, "--loaded", "wait")
        devices.start()
        with pytest.raises(QueueFull, match="being loaded"):
            ask(devices, "hello")
        assert devices.load().ready == 0
        devices.kill()
        await devices.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("loaded", "error", "message"),
    [
        ("usage", UsageError, "^weights are missing"),
        ("error", RunError, "fake:0: the model can't be loaded: weights are missing"),
        ("exit", RunError, "it ended .exit code 3.$"),
    ],
)
def test_a_model_that_cannot_be_loaded(loaded: str, error: type[Exception], message: str) -> None:
    async def run() -> None:
        async with running_devices(1, "--loaded", loaded):
            pass

    with pytest.raises(error, match=message):
        asyncio.run(run())


def test_fewer_slots_are_seen_and_get_a_smaller_share() -> None:
    async def run() -> None:
        async with running_devices(1, "--slots", "8") as devices:
            assert await text_of(devices, "slots 2") == "changed"
            await until(lambda: devices.load().slots == 2)
            held = [ask(devices, "hold") for _ in range(10)]
            await until(lambda: devices.load().running == 6)  # three for each slot; the others have not been passed on
            assert devices.load().waiting == 4
            for question in held:
                question.cancel()
            assert await text_of(devices, "slots 8") == "changed"
            await until(lambda: devices.load().slots == 8)

    asyncio.run(run())


def test_a_process_without_threads_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        with pytest.raises(OSError, match="can't start new thread"):
            ProcessLink(
                [sys.executable, "-c", "import time; time.sleep(1000)"], os.environ, lambda _: None, lambda _: None
            )

    monkeypatch.setattr(process.subprocess, "Popen", started)
    monkeypatch.setattr(process.threading.Thread, "start", no_thread)
    asyncio.run(run())
    assert processes[0].returncode is not None
