"""A device process that dies or hangs costs no answer, unless it happens twice to the same question."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.devices import device
from pipeline.serving.messages import Ask, Begun, Done, Failed, Problem, Text
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
            files = ("x",) * 64  # a process that decodes sends its state: their number does not matter
            question = devices.ask(Ask(1, "hello", GenerationOptions(), media=files))
            assert isinstance((await answers(question))[-1], Done)
            assert hanging not in devices.process_ids() and devices.load().restarts == 1

    asyncio.run(run())
    assert "made no progress for 2 s (--stall_timeout)" in caplog.text


def test_only_the_question_that_kills_its_process_fails() -> None:
    async def run() -> None:
        async with running_devices(1, "--slots", "4") as devices:
            good = [asyncio.create_task(answer(devices, "hold")) for _ in range(9)]
            await until(lambda: devices.load().running == 9)
            killers = [asyncio.create_task(answer(devices, "die")) for _ in range(2)]
            await until(lambda: devices.load().restarts == 1 and devices.load().ready == 1)
            release(devices)
            assert all([isinstance(await each, Done) for each in good])
            assert all([isinstance(await each, Failed) for each in killers])
            assert "hello" in await text_of(devices, "hello")

    asyncio.run(run())


def test_questions_that_were_not_given_to_the_engine_are_not_suspected(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_devices(1, "--slots", "4") as devices:
            waiting = [asyncio.create_task(answer(devices, "decode")) for _ in range(6)]
            await until(lambda: devices.load().waiting == 6)
            killer = asyncio.create_task(answer(devices, "die"))
            assert isinstance(await killer, Failed) and devices.load().restarts == 2
            await until(lambda: devices.load().ready == 1)
            release(devices)  # all six are there, none of them alone
            assert all([isinstance(await each, Done) for each in waiting])

    asyncio.run(run())


def test_another_device_answers_while_one_is_kept_for_suspects(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_devices(2, "--slots", "4") as devices:
            held = [asyncio.create_task(answer(devices, "hold")) for _ in range(4)]
            await until(lambda: devices.load().running == 4)
            os.kill(devices.process_ids()[0], signal.SIGKILL)
            await until(lambda: devices.load().ready == 1)
            assert "hello" in await text_of(devices, "hello")
            await until(lambda: devices.load().ready == 2)
            assert "hello" in await text_of(devices, "hello")
            release(devices)
            assert all([isinstance(await each, Done) for each in held])

    asyncio.run(run())


def test_a_process_that_hangs_while_it_loads_again_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "LOAD_SECONDS", 3.0)

    async def run() -> None:
        async with running_devices(1, "--hangs_second", str(tmp_path / "starts"), stall=2.0) as devices:
            assert isinstance(await answer(devices, f"die once {tmp_path / 'died'}"), Done)
            assert devices.load().restarts >= 2

    asyncio.run(run())
    assert "did not load the model within 3 s and was killed" in caplog.text
