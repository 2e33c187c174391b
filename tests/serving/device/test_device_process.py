"""A real device process with the checkpoint of this repository."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pipeline.captioning.caption import make_parser
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.messages import (
    Ask,
    Begun,
    Cancel,
    DeviceSettings,
    Done,
    Failed,
    FinishReason,
    FromDevice,
    LoadFailed,
    Problem,
    Ready,
    State,
    Text,
)
from scripts.clip_world import random_clip, write_clip

ROOT = Path(__file__).parents[3]
TINY = ROOT / "pretrained_models" / "pllava-tiny"
QUESTION = "Describe the video in details."
SECONDS = 300.0
OPTIONS = GenerationOptions()


class DeviceProcess:
    """A device process, started as the server does it."""

    def __init__(self, framework: str, checkpoint: Path = TINY) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "pipeline.serving.device", "--fd", str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self.connection = Connection(ours.detach())
        flags = make_parser().parse_args(["-", "--pretrained_model_name_or_path", str(checkpoint)])
        self.connection.send(DeviceSettings(flags, framework, "cpu", None, 3, 1, DecoderLimits(60), 1))

    def receive(self) -> FromDevice:
        assert self.connection.poll(SECONDS)
        message: FromDevice = self.connection.recv()
        return message

    def answers(self, *asks: Ask) -> dict[int, list[FromDevice]]:
        """All messages about questions, by their ids."""
        for ask in asks:
            self.connection.send(ask)
        messages: dict[int, list[FromDevice]] = {ask.id: [] for ask in asks}
        while not all(own and isinstance(own[-1], Done | Failed) for own in messages.values()):
            message = self.receive()
            if isinstance(message, Begun | Text | Done | Failed):
                messages[message.id].append(message)
        return messages

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.connection.close()


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> Iterator[DeviceProcess]:
    device = DeviceProcess(request.config.getoption("--framework"))
    ready = device.receive()
    assert isinstance(ready, Ready) and ready.slots == 3 and ready.description.endswith("on cpu in float32")
    yield device
    device.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Paths of clips that are not in the training data, and their captions."""
    folder, clips = tmp_path_factory.mktemp("clips"), [random_clip(77, number) for number in range(2)]
    for number, clip in enumerate(clips):
        write_clip(folder / f"{number}.mp4", clip)
    return [(str(folder / f"{number}.mp4"), clip.shown.caption()) for number, clip in enumerate(clips)]


@pytest.mark.model
def test_answers_are_the_captions(device: DeviceProcess, clips: list[tuple[str, str]], tmp_path: Path) -> None:
    """Of videos, and of their frames sent as images; `test_pllava_tiny` has the same captions without a server."""
    frames = []
    for number, image in enumerate(decode(clips[0][0], FrameSampling("segments", 4)).images):
        frames.append(str(tmp_path / f"{number}.png"))
        image.save(frames[-1])
    first, second = clips
    about = device.answers(
        Ask(1, QUESTION, OPTIONS, media=(first[0],), streams=True),
        Ask(2, QUESTION, OPTIONS, media=(second[0],)),
        Ask(3, QUESTION, OPTIONS, media=tuple(frames), streams=True),
        Ask(4, QUESTION, OPTIONS, media=(first[0],), stop=(". ",), streams=True),
        Ask(5, QUESTION, replace(OPTIONS, max_new_tokens=3), media=(second[0],)),
        Ask(6, "Say hello.", replace(OPTIONS, max_new_tokens=3)),
    )
    ends = {number: messages[-1] for number, messages in about.items()}
    texts = {number: end.text for number, end in ends.items() if isinstance(end, Done)}
    sentence = first[1].partition(". ")[0]
    assert [texts[number] for number in (1, 2, 3, 4)] == [first[1], second[1], first[1], sentence]
    assert second[1].startswith(texts[5]) and 6 in texts
    for number in (1, 3, 4):
        pieces = [one for one in about[number] if isinstance(one, Text)]
        assert "".join(piece.text for piece in pieces) == texts[number] and len(pieces) > 5
        assert isinstance(about[number][0], Begun)
    done = ends[5]
    assert isinstance(done, Done) and done.finish_reason is FinishReason.LENGTH and done.completion_tokens == 3
    assert done.prompt_tokens > 50


@pytest.mark.model
def test_problems_and_a_cancelled_question(device: DeviceProcess, clips: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    device.connection.send(Ask(10, QUESTION, OPTIONS, media=(clips[0][0],)))
    device.connection.send(Cancel(10))
    about = device.answers(
        Ask(11, QUESTION, OPTIONS, media=(str(tmp_path / "broken.mp4"),)),
        Ask(12, QUESTION, replace(OPTIONS, max_new_tokens=10**6), media=(clips[0][0],)),
        Ask(13, "What is in <image>?", OPTIONS, media=(clips[0][0],)),
    )
    ends = [messages[-1] for messages in about.values()]
    problems = [end.problem for end in ends if isinstance(end, Failed)]
    assert problems == [Problem.MEDIA, Problem.TOO_LONG, Problem.PROMPT]
    device.process.send_signal(signal.SIGINT)  # is ignored
    assert isinstance(device.answers(Ask(14, QUESTION, OPTIONS, media=(clips[0][0],)))[14][-1], Done)
    while device.receive() != State(0, 0, 3):
        pass
    device.connection.close()
    assert device.process.wait(SECONDS) == 0


@pytest.mark.model
def test_a_checkpoint_that_is_not_there(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    device = DeviceProcess(request.config.getoption("--framework"), tmp_path / "missing")
    try:
        failed = device.receive()
        assert isinstance(failed, LoadFailed) and failed.is_usage_error and "missing" in failed.message
        assert device.process.wait(SECONDS) == 2
    finally:
        device.close()
