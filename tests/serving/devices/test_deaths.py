"""A device process that dies or hangs costs no answer, unless it happens twice to the same question."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pipeline.serving.devices import device
from pipeline.serving.messages import Begun, Done, Failed, Problem, Text
from tests.serving.devices.fake_devices import answer, answers, ask, release, running_devices, text_of, until


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "SHORTEST_BACKOFF", 0.05)


def test_no_question_is_lost_when_a_process_is_killed_under_load() -> None:
    async def run() -> None:
        async with running_devices(2, "--slots", "10") as devices:
            questions = [asyncio.create_task(answers(ask(devices, "hold"))) for _ in range(40)]
            await until(lambda: devices.load().running == 40)
            killed = devices.process_ids()[0]
            os.kill(killed, signal.SIGKILL)
            await until(lambda: devices.load().ready < 2)
            assert devices.load().running + devices.load().waiting == 40
            await until(lambda: devices.load().ready == 2)
            await until(lambda: devices.load().running == 40)
            release(devices)
            last = [(await question)[-1] for question in questions]
            assert all(isinstance(each, Done) for each in last)
            assert str(killed) not in {each.text.split()[0] for each in last}
            assert devices.load().restarts == 1 and killed not in devices.process_ids()

    asyncio.run(run())


def test_the_text_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_devices() as devices:
            messages = await answers(ask(devices, f"die once {tmp_path / 'died'}", streams=True))
            assert messages[:3] == [Begun(5, 7), Text(5, 0, "abc"), Text(5, 3, "def")]
            assert isinstance(messages[3], Done) and len(messages) == 4
            assert devices.load().restarts == 1

    asyncio.run(run())


def test_questions_wait_for_the_only_process_to_start_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_devices() as devices:
            first = asyncio.create_task(answer(devices, f"die once {tmp_path / 'died'}"))
            await until(lambda: devices.load().ready == 0)
            assert "hello" in await text_of(devices, "hello")
            assert isinstance(await first, Done)

    asyncio.run(run())


def test_a_question_fails_at_the_second_death() -> None:
    async def run() -> None:
        async with running_devices() as devices:
            failed = await answer(devices, "die")
            assert isinstance(failed, Failed) and failed.problem == Problem.DEVICE and "died twice" in failed.message
            assert "hello" in await text_of(devices, "hello")
            assert devices.load().restarts == 2

    asyncio.run(run())


def test_a_process_that_hangs_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with running_devices(1, stall=2.0) as devices:
            hanging = devices.process_ids()[0]
            os.kill(hanging, signal.SIGSTOP)
            assert "hello" in await text_of(devices, "hello")
            assert hanging not in devices.process_ids() and devices.load().restarts == 1

    asyncio.run(run())
    assert "made no progress for 2 s (--stall_timeout)" in caplog.text
