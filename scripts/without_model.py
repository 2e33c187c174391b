"""A captioner source and an engine without a model: for simulations and for tests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.captioning.captioners.base import CaptionerSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Event, Request
from pipeline.captioning.meta.asks import Asks


class SourceWithoutModel(CaptionerSource):
    """A source that checks nothing; subclasses define `load`."""

    asks = Asks.single("Describe the clip.")
    generation = GenerationOptions()

    def fingerprint(self) -> Mapping[str, str]:
        return {"prompt": "none"}

    def describe(self) -> list[str]:
        return []

    def check_weights(self) -> None:
        pass


def requests_without_prompts(clips: Sequence[Clip], questions: Sequence[Sequence[str]] | None) -> list[Request]:
    """A request for each question about each clip, without embeddings; see `Captioner.prepare`."""
    nothing: Any = np.zeros((1, 0))
    counts = [1] * len(clips) if questions is None else [len(own) for own in questions]
    return [
        Request((clip.row, number), nothing, np.zeros(1, int), 1, GenerationOptions(), frozenset(), question=number)
        for clip, count in zip(clips, counts, strict=True)
        for number in range(count)
    ]


def row_of(end: End) -> int:
    """The row of a request that a captioner prepared."""
    assert isinstance(end.key, tuple)
    row: int = end.key[0]
    return row


class EngineWithoutModel:
    """An engine without a model: each step ends the requests that a function selects.

    slots: maximum number of active requests.
    generate: called in each step with the keys of all active requests, oldest first, and `slots`; returns the keys of
        the requests that end.
    """

    waiting = 0
    on_token: Any = None

    def __init__(self, slots: int, generate: Callable[[list[Any], int], list[Any]]) -> None:
        self._slots, self._generate = slots, generate
        self._questions: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self._questions))

    @property
    def active(self) -> int:
        return len(self._questions)

    @property
    def requests_needed(self) -> int:
        """All that fit: it steps when its slots are full."""
        return self.free

    def add(self, request: Request) -> None:
        self._questions[request.key] = request.question

    def cancel(self, key: object) -> bool:
        raise NotImplementedError

    def step(self) -> list[Event]:
        if not self._questions:
            return []
        ended = self._generate(list(self._questions), self._slots)
        return [End(key, [0], EndReason.STOP, question=self._questions.pop(key)) for key in ended]
