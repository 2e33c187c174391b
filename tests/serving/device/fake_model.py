"""A captioner without a model whose answers are the texts of the questions: one character is one token."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from pipeline.captioning.process.errors import UsageError

STOP_ID = 0
ENDLESS = "endless "
"""A question that begins with this is answered with itself again and again."""


class FakeModel(Captioner):
    """Answers each question with its text; after the first `memory` clips in flight, memory is short.

    A question with `crash` raises an error in its third step, one with `huge` is out of memory whatever the company,
    one with `unprepared` raises an error when it is prepared, `refused` is refused, `overflow` ends with an error.

    engines: slots of all engines so far. prepared: ids of the questions, in the order of their preparation.
    gate: a step begins only if it is set.
    """

    clips_together = 4

    def __init__(self, memory: int = 1000) -> None:
        self.memory = memory
        self.engines: list[int] = []
        self.prepared: list[int] = []
        self.systems: dict[int, str | None] = {}
        self.questions: dict[int, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.is_broken = False

    def engine(self, slots: int) -> FakeEngine:
        self.engines.append(slots)
        return FakeEngine(self, slots)

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        assert questions is not None
        if any("unprepared" in own[0] for own in questions):
            raise RuntimeError("the vision tower failed")
        for clip, system in zip(clips, systems or [None] * len(clips), strict=True):
            self.systems[clip.row] = system
        return [self._request(clip.row, own[0]) for clip, own in zip(clips, questions, strict=True)]

    def prepare_images(
        self, row: int, images: Sequence[Clip], question: str, system: str | None = None
    ) -> Request | Refused:
        return self._request(row, f"{len(images)} images: {question}")

    def prepare_text(
        self, key: tuple[int, int], question: str, options: GenerationOptions | None = None, system: str = ""
    ) -> Request:
        if "no text" in question:
            raise UsageError("no questions about text")
        request = self._request(key[0], question)
        assert isinstance(request, Request)
        return request

    def _request(self, row: int, question: str) -> Request | Refused:
        self.prepared.append(row)
        if "refused" in question:
            return Refused(row, 0, "a special token")
        self.questions[row] = question
        nothing: Any = np.zeros((len(question), 0))
        return Request(
            (row, 0), nothing, np.arange(len(question)), 1, GenerationOptions(), frozenset({STOP_ID}), stream=row
        )

    def caption(self, end: End) -> Caption:
        ids = end.ids[:-1] if end.ids and end.ids[-1] == STOP_ID else end.ids
        return Caption("".join(map(chr, ids)).strip(), len(end.ids), end.reason is EndReason.LENGTH)

    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        return 3

    def stages(self) -> Mapping[str, float]:
        return {}


class FakeEngine:
    """Generates one character for each request in a step."""

    waiting = 0

    def __init__(self, model: FakeModel, slots: int) -> None:
        self._model, self._slots = model, slots
        self._requests: dict[Hashable, Request] = {}
        self._ids: dict[Hashable, list[int]] = {}
        self.on_token: Any = None

    @property
    def free(self) -> int:
        return self._slots - len(self._requests)

    @property
    def active(self) -> int:
        return len(self._requests)

    @property
    def requests_needed(self) -> int:
        return int(not self._requests)

    def add(self, request: Request) -> None:
        assert self.free, "no request waits"
        if request.options.num_beams > 1:
            raise ValueError("no beam search")
        self._requests[request.key], self._ids[request.key] = request, []

    def cancel(self, key: Hashable) -> bool:
        self._ids.pop(key, None)
        return self._requests.pop(key, None) is not None

    def step(self) -> list[Event]:
        assert self._requests, "a step without work"
        self._model.gate.wait(30)
        if len(self._requests) > self._model.memory:
            raise RuntimeError("out of memory")
        return [event for request in list(self._requests.values()) for event in self._next(request)]

    def _next(self, request: Request) -> list[Event]:
        key, ids = request.key, self._ids[request.key]
        assert isinstance(key, tuple)
        text = self._model.questions[key[0]]
        if "huge" in text:
            raise RuntimeError("out of memory")
        if "crash" in text and len(ids) == 2:
            raise RuntimeError("the kernel failed")
        if "overflow" in text:
            self.cancel(key)
            return [End(key, [], EndReason.NOT_A_NUMBER, OVERFLOW_MESSAGE)]
        if len(ids) == request.options.max_new_tokens:
            self.cancel(key)
            return [End(key, ids, EndReason.LENGTH)]
        if len(ids) == len(text) and not text.startswith(ENDLESS):
            self.cancel(key)
            return [Token(key, STOP_ID), End(key, [*ids, STOP_ID], EndReason.STOP)]
        ids.append(ord(text[len(ids) % len(text)]))
        return [Token(key, ids[-1])]
