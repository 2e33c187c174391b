"""Questions with their media become requests for the engine. Knows nothing about the engine's slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...captioning.captioners.base import Captioner, Refused
from ...captioning.generation.requests import Request
from ...captioning.process.errors import UsageError
from .media_loader import Loaded


def prepared(captioner: Captioner, system: str, questions: Sequence[Loaded]) -> Iterator[Request | Refused]:
    """The request of each question, or why it can't be asked, in any order. Their key or row is the question's id.

    The vision stage runs once for all questions about one clip each.

    system: the system prompt of questions about text alone that have none; empty for that of the template.
    """
    asks = {question.ask.id: question.ask for question in questions}
    for request in _prepared(captioner, system, questions):
        if isinstance(request, Refused):
            yield request
        else:
            # The seed alone determines the random numbers, so that the same question gets the same answer.
            ask = asks[question_of(request.key)]
            stop_ids = frozenset[int]() if ask.ignores_stop_tokens else request.stop_ids
            yield replace(request, options=ask.options, stop_ids=stop_ids, stream=0)


def key_of(question: int) -> tuple[int, int]:
    """The key of the request of a question. question: its id."""
    return question, 0


def question_of(key: object) -> int:
    """The id of a question from the key of its request."""
    assert isinstance(key, tuple) and isinstance(key[0], int), "the key of a request is (id, 0)"
    return key[0]


def _prepared(captioner: Captioner, system: str, questions: Sequence[Loaded]) -> Iterator[Request | Refused]:
    about_clips = [question for question in questions if len(question.clips) == 1]
    if about_clips:
        clips = [question.clips[0] for question in about_clips]
        asked = [[question.ask.question] for question in about_clips]
        systems = [question.ask.system for question in about_clips]
        yield from captioner.prepare(clips, asked, systems)
    for question in questions:
        ask, clips = question.ask, list(question.clips)
        if len(clips) == 1:
            continue
        try:
            if clips:
                yield captioner.prepare_images(ask.id, clips, ask.question, ask.system)
            else:
                own = system if ask.system is None else ask.system
                yield captioner.prepare_text(key_of(ask.id), ask.question, ask.options, own)
        except UsageError as error:
            yield Refused(ask.id, 0, str(error))
