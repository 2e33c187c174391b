"""Devices whose processes are fakes; see `fake_device`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.devices.device import DevicePlace
from pipeline.serving.devices.devices import Devices, DevicesSettings
from pipeline.serving.messages import Answer, Ask, DeviceSettings, Done
from pipeline.serving.questions import OpenQuestion

ROOT = Path(__file__).parents[3]
FAKE_COMMAND = (sys.executable, "-m", "tests.serving.devices.fake_device")
DEADLINE = 30.0


def fake_devices(count: int = 1, *arguments: str, max_waiting: int = 256, stall: float = DEADLINE) -> Devices:
    """Devices that have not been started. arguments: of each process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    settings = DeviceSettings(argparse.Namespace(), None, "cpu", "float32", None, count, DecoderLimits(60.0), 2)
    places = [DevicePlace(f"fake:{number}", environment) for number in range(count)]
    return Devices(DevicesSettings(places, settings, max_waiting, stall, (*FAKE_COMMAND, *arguments)))


@contextlib.asynccontextmanager
async def running_devices(
    count: int = 1, *arguments: str, max_waiting: int = 256, stall: float = DEADLINE
) -> AsyncIterator[Devices]:
    """Devices that are ready."""
    devices = fake_devices(count, *arguments, max_waiting=max_waiting, stall=stall)
    devices.start()
    try:
        await asyncio.wait_for(devices.wait_until_ready(), DEADLINE)
        yield devices
    finally:
        await devices.close()


def ask(devices: Devices, text: str, streams: bool = False) -> OpenQuestion:
    return devices.ask(Ask(id=5, question=text, options=GenerationOptions(), streams=streams))


async def answers(question: OpenQuestion) -> list[Answer]:
    async def collect() -> list[Answer]:
        return [answer async for answer in question.answers()]

    return await asyncio.wait_for(collect(), DEADLINE)


async def answer(devices: Devices, text: str, streams: bool = False) -> Answer:
    """The last message about a new question."""
    return (await answers(ask(devices, text, streams)))[-1]


async def text_of(devices: Devices, text: str) -> str:
    done = await answer(devices, text)
    assert isinstance(done, Done), done
    return done.text


def release(devices: Devices) -> None:
    """End all questions that the processes, which must be ready, hold or get to hold."""
    for process in devices.process_ids():
        os.kill(process, signal.SIGUSR1)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), DEADLINE)
