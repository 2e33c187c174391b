"""The messages between the HTTP process and a device process. Imports no framework.

They are pickled through a pipe between the server's own processes; nothing of a client is unpickled.
"""

from __future__ import annotations

import argparse
import enum
from dataclasses import dataclass

from ..captioning.clips.killable import DecoderLimits
from ..captioning.clips.sampling import FrameSampling
from ..captioning.generation.options import GenerationOptions


@dataclass(frozen=True)
class DeviceSettings:
    """The first message to a device process: what it needs to load its model.

    flags: of the command; `family_source.make_source` reads them.
    framework, device, dtype: as in `JobOptions`. device: one of `backends.DEVICES`, or None.
    batch_size: number of slots; None to choose one that suits the device and its memory.
    processes: number of device processes on this host, which share the memory and the cores of a CPU.
    decoder_limits, decode_workers: of the decoding processes of this device.
    """

    flags: argparse.Namespace
    framework: str | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    processes: int
    decoder_limits: DecoderLimits
    decode_workers: int


@dataclass(frozen=True)
class Ask:
    """A question, from the HTTP process.

    id: unique within the server, also across retries.
    question: text; never empty unless the family's default question is.
    system: system prompt; None for that of the server.
    media: paths of local files, or http(s) URLs of hosts that are allowed. Empty for a question about text alone. One
        video or one image; or several images.
    are_frames: the images are the frames of one video, in the order of time.
    frame_rate: frames per second of these frames; 0.0 if it is not known.
    sampling: which frames of a video are sampled; None for the sampling of the server.
    options: how tokens are chosen. Its seed alone determines the random numbers (stream 0).
    stop: texts that end the answer; they are not part of it.
    streams: whether `Text` is wanted; otherwise only the end is reported.
    ignores_stop_tokens: the answer has `max_new_tokens` tokens, for measurements.
    """

    id: int
    question: str
    options: GenerationOptions
    system: str | None = None
    media: tuple[str, ...] = ()
    are_frames: bool = False
    frame_rate: float = 0.0
    sampling: FrameSampling | None = None
    stop: tuple[str, ...] = ()
    streams: bool = False
    ignores_stop_tokens: bool = False


@dataclass(frozen=True)
class Cancel:
    """The answer to a question is not wanted any more. No further message about it is needed."""

    id: int


@dataclass(frozen=True)
class Stop:
    """The device process is to end; questions in flight are dropped."""


ToDevice = DeviceSettings | Ask | Cancel | Stop


@dataclass(frozen=True)
class Ready:
    """The model is loaded, and the process takes questions.

    slots: number of questions that are answered at the same time.
    description: framework, device and computing type, for the log.
    """

    slots: int
    description: str


@dataclass(frozen=True)
class LoadFailed:
    """The model can't be loaded; the process ends. is_usage_error: a flag or a file is the cause."""

    message: str
    is_usage_error: bool


@dataclass(frozen=True)
class State:
    """How busy a device is. Sent when the numbers change, and every 0.5 s while there are questions: it shows that the
    process makes progress.

    running: questions in a slot of the engine. waiting: questions that were received and have not ended, without
        `running`: they are being decoded, or wait for a slot. slots: number of questions that are answered at the same
        time at present; fewer than in `Ready` for a while after an error.
    """

    running: int
    waiting: int
    slots: int


@dataclass(frozen=True)
class Given:
    """Questions are given to the engine now: if the process dies, one of them may be the cause. ids: of them."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Begun:
    """The first token of an answer has been generated. prompt_tokens: those of the prompt, visual tokens included."""

    id: int
    prompt_tokens: int


@dataclass(frozen=True)
class Text:
    """A part of an answer. begin: its position, in characters: after an error an answer is generated again."""

    id: int
    begin: int
    text: str


class FinishReason(str, enum.Enum):
    """Why an answer ended, in the words of OpenAI's protocol."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Done:
    """The whole answer.

    prompt_tokens: tokens of the prompt, visual tokens included. completion_tokens: generated tokens, with the stop
        token.
    """

    id: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Problem(str, enum.Enum):
    """Why a question has no answer."""

    MEDIA = "media"
    """A file can't be downloaded, decoded or prepared; the client sent it."""
    PROMPT = "prompt"
    """The question or the system prompt can't be used, for example because it contains a special token."""
    TOO_LONG = "too_long"
    """Prompt and answer are longer than the model's longest sequence."""
    MODEL = "model"
    """An error of the model that this question alone causes, or an overflow."""
    DEVICE = "device"
    """The device process died or made no progress, also when it had this question alone."""
    SHUTDOWN = "shutdown"
    """The server ended before the answer did; another one can answer."""


@dataclass(frozen=True)
class Failed:
    """A question has no answer."""

    id: int
    problem: Problem
    message: str


FromDevice = Ready | LoadFailed | State | Given | Begun | Text | Done | Failed
Answer = Begun | Text | Done | Failed
"""What the HTTP side receives about a question. `Done` or `Failed` is the last message."""
