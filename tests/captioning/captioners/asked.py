"""Asks questions about clips without a run: every question's token ids, and the work that this took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.captioning.captioners.base import Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.requests import End, Engine, Request

Answers = dict[tuple[int, int], list[int]]


def answers(captioner: Captioner, clips: Sequence[Clip], questions: Sequence[Sequence[str]], slots: int = 2) -> Answers:
    """Token ids by row and number of the question. No question may be refused or fail."""
    return {key: end.ids for key, end in ends(captioner, clips, questions, slots).items() if not _failed(end)}


def alone(captioner: Captioner, clips: Sequence[Clip], questions: Sequence[Sequence[str]], slots: int = 2) -> Answers:
    """As `answers`, but each clip is asked one question at a time: as many runs as a clip has questions."""
    found: Answers = {}
    for number in range(max(map(len, questions))):
        rows = [(clip, own[number]) for clip, own in zip(clips, questions, strict=True) if number < len(own)]
        one = answers(captioner, [clip for clip, _ in rows], [[question] for _, question in rows], slots)
        found |= {(row, number): ids for (row, _), ids in one.items()}
    return found


def ends(
    captioner: Captioner, clips: Sequence[Clip], questions: Sequence[Sequence[str]], slots: int = 2
) -> dict[tuple[int, int], End]:
    """The end of each question by row and number. Clips are prepared when slots are free, several at a time."""
    engine = captioner.engine(slots)
    waiting = list(zip(clips, questions, strict=True))
    expected = sum(map(len, questions))
    found: dict[tuple[int, int], End] = {}
    for _ in range(3000):
        count = max(1, min(engine.free, captioner.clips_together))
        if engine.free and waiting:
            taken, waiting = waiting[:count], waiting[count:]
            for request in captioner.prepare([clip for clip, _ in taken], [own for _, own in taken]):
                assert not isinstance(request, Refused), request.message
                engine.add(request)
        for event in engine.step():
            if isinstance(event, End):
                assert isinstance(event.key, tuple)
                assert (event.key[0], event.question) not in found, "a question ended twice"
                found[event.key[0], event.question] = event
        if len(found) == expected:
            assert engine.active == 0
            return found
    raise AssertionError(f"{len(found)} of {expected} questions ended")


def complete(engine: Engine, requests: Sequence[Request]) -> dict[tuple[object, int], End]:
    """Add all requests to an engine and run it; the end of each question by key of the request and its number."""
    for request in requests:
        engine.add(request)
    found: dict[tuple[object, int], End] = {}
    for _ in range(3000):
        found |= {(event.key, event.question): event for event in engine.step() if isinstance(event, End)}
        if not engine.active:
            return found
    raise AssertionError(f"{engine.active} requests have not ended")


def count_vision(captioner: Any, monkeypatch: Any) -> list[int]:
    """The rows of the clips that go through the vision stage from now on."""
    rows: list[int] = []
    original = captioner._blocks
    monkeypatch.setattr(captioner, "_blocks", lambda clips: rows.extend(clip.row for clip in clips) or original(clips))
    return rows


def _failed(end: End) -> bool:
    assert not end.is_error, end.message
    return False
