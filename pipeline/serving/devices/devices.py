"""All devices: each question goes to the least loaded one, and to another if its process dies.

Implements `questions.Answering`. Knows nothing about HTTP, and nothing about how a process answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...captioning.process.errors import RunError, UsageError
from ..messages import Ask, DeviceSettings, Problem
from ..questions import Load, QueueFull
from .answer_rate import AnswerRate
from .device import Device, DevicePlace
from .open_question import AcceptedQuestion

logger = logging.getLogger(__name__)

DEVICE_COMMAND = (sys.executable, "-m", "pipeline.serving.device")
_LOAD_PAUSE = 10
"""Seconds after which a client should try again while the model is being loaded or the server shuts down."""
_KILL_SECONDS = 15.0


@dataclass(frozen=True)
class DevicesSettings:
    """What the devices have in common.

    places: one for each process. device: the first message to each process.
    max_waiting: most accepted questions without a slot. stall_seconds: see `Device`.
    command: starts a process; `--fd N` is added.
    """

    places: Sequence[DevicePlace]
    device: DeviceSettings
    max_waiting: int
    stall_seconds: float
    command: Sequence[str] = DEVICE_COMMAND


class Devices:
    """See the module. Used from one event loop, whose thread must live as long as the processes (see ProcessLink)."""

    def __init__(self, settings: DevicesSettings) -> None:
        self._settings = settings
        self._devices = [
            Device(place, settings.command, settings.device, settings.stall_seconds, self) for place in settings.places
        ]
        self._open: set[AcceptedQuestion] = set()
        # Accepted questions that no process has. Suspects may have been the cause of a death.
        self._queue: deque[AcceptedQuestion] = deque()
        self._suspects: deque[AcceptedQuestion] = deque()
        self._ids = itertools.count(1)
        self._rate = AnswerRate()
        self._was_ready = self._is_closing = False
        self._loaded: asyncio.Future[None] | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Start the processes. Must be called in the running event loop."""
        self._loaded = asyncio.get_running_loop().create_future()
        for device in self._devices:
            device.start()
        self._watch()

    async def wait_until_ready(self) -> None:
        """Wait until every process has loaded its model for the first time.

        Raises:
            UsageError, RunError: one of them can't.
        """
        assert self._loaded is not None
        await asyncio.shield(self._loaded)

    def description(self) -> str:
        """What runs on each device, for the log."""
        return "; ".join(f"{each.place.name}: {each.description}, {each.slots} slots" for each in self._devices)

    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        return [each.pid for each in self._devices if each.pid is not None]

    def ask(self, question: Ask) -> AcceptedQuestion:
        """See `Answering.ask`."""
        if self._is_closing:
            raise QueueFull("the server is shutting down", _LOAD_PAUSE)
        if not self._was_ready:
            raise QueueFull("the model is being loaded", _LOAD_PAUSE)
        limit = self._settings.max_waiting
        if len(self._open) >= self._slots + limit:
            # Half of the waiting questions: the others keep the devices busy until the client comes back.
            pause = self._rate.seconds_for(max(1, limit // 2), time.monotonic())
            raise QueueFull(f"{len(self._open) - self._slots} questions wait, and at most {limit} may wait", pause)
        accepted = AcceptedQuestion(question, self._on_cancel)
        self._open.add(accepted)
        self._idle.clear()
        self._queue.append(accepted)
        self._dispatch()
        return accepted

    def load(self) -> Load:
        """See `Answering.load`. After `drain` was called no device counts as ready, because none takes questions."""
        running = min(len(self._open), sum(each.running for each in self._devices))
        return Load(
            running=running,
            waiting=len(self._open) - running,
            slots=self._slots,
            devices=len(self._devices),
            ready=0 if self._is_closing else sum(each.slots > 0 for each in self._devices),
            restarts=sum(each.restarts for each in self._devices),
        )

    async def drain(self, seconds: float) -> None:
        """Accept no more questions, and give those that are open this time to end. Those that do not end, fail."""
        self._is_closing = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        if self._open:
            logger.warning("%d questions did not end within %g s (--drain_timeout)", len(self._open), seconds)
        self._fail_open()

    def _fail_open(self) -> None:
        self._queue.clear()
        self._suspects.clear()
        for question in list(self._open):
            question.fail(Problem.SHUTDOWN, "the server is shutting down")
            self._close(question)

    def kill(self) -> None:
        """End all processes at once."""
        self._is_closing = True
        for device in self._devices:
            device.stop()
            device.kill()

    async def close(self, seconds: float = 2.0) -> None:
        """End all processes; open questions fail.

        seconds: after which processes are killed that have not ended. A framework may need longer to free its memory,
        and need not.
        """
        self._is_closing = True
        self._fail_open()
        if self._tick is not None:
            self._tick.cancel()
        for device in self._devices:
            device.stop()
        if not await self._have_ended(seconds):
            for device in self._devices:
                device.kill()
            await self._have_ended(_KILL_SECONDS)

    async def _have_ended(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(asyncio.gather(*(each.ended.wait() for each in self._devices)), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    @property
    def _slots(self) -> int:
        return sum(each.slots for each in self._devices)

    def _dispatch(self) -> None:
        """Pass waiting questions to processes that have room, suspects to those that have no question."""
        for device in self._devices:
            if self._suspects and device.has_room and not device.unfinished:
                self._pass_on(self._suspects.popleft(), device)
        reserved = self._reserved()
        while self._queue:
            free = [each for each in self._devices if each.has_room and each is not reserved and not each.has_suspect]
            if not free:
                return
            device = min(free, key=lambda each: (each.unfinished / each.slots, each.asked))
            self._pass_on(self._queue.popleft(), device)

    def _reserved(self) -> Device | None:
        """The device that gets no question until it has answered those that it has, because suspects wait for it."""
        ready = [each for each in self._devices if each.slots]
        if not self._suspects or not ready or any(each.has_suspect for each in ready):
            return None
        return min(ready, key=lambda each: each.unfinished)

    def _pass_on(self, question: AcceptedQuestion, device: Device) -> None:
        id = next(self._ids)
        device.ask(id, question, dataclasses.replace(question.ask, id=id))

    def _on_cancel(self, question: AcceptedQuestion) -> None:
        queue = self._suspects if question.is_suspect else self._queue
        if question in queue:
            queue.remove(question)
        else:
            any(device.cancel(question) for device in self._devices)
        self._close(question)
        self._dispatch()

    def _close(self, question: AcceptedQuestion) -> None:
        """Forget a question that has ended."""
        self._open.discard(question)
        if not self._open:
            self._idle.set()

    def _watch(self) -> None:
        for device in self._devices:
            device.kill_if_stalled(time.monotonic())
        pause = min(1.0, self._settings.stall_seconds / 4)
        self._tick = asyncio.get_running_loop().call_later(pause, self._watch)

    # What a device reports; see DeviceOwner.

    def on_ready(self) -> None:
        self._was_ready = True
        if self._loaded is not None and not self._loaded.done() and all(each.description for each in self._devices):
            self._loaded.set_result(None)
        self._dispatch()

    def on_answered(self, question: AcceptedQuestion) -> None:
        self._rate.count(time.monotonic())
        self._close(question)
        self._dispatch()

    def on_lost(self, questions: Sequence[AcceptedQuestion], given: Collection[AcceptedQuestion]) -> None:
        again = []
        for question in questions:
            question.losses += 1
            if question.is_suspect:  # the process had it alone
                question.fail(
                    Problem.DEVICE,
                    "the device process died twice while it had this question; see the log of the server",
                )
                self._close(question)
            elif question in given or not given or question.losses > 1:
                question.is_suspect = True
                self._suspects.append(question)
            else:
                again.append(question)
        self._queue.extendleft(reversed(again))
        self._dispatch()

    def on_load_failure(self, error: UsageError | RunError) -> None:
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(error)
