"""The questions that wait for a slot, and how many of them may be in flight together after an error.

New questions are in the first group. Questions that were in flight at an error become a group of their own; the last
group is answered first. If the memory was not enough, fewer are in flight for a while. Knows nothing about the engine.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .media_loader import Loaded

logger = logging.getLogger(__name__)

_ANSWERS_BEFORE_MORE, _MOST_ANSWERS_BEFORE_MORE = 4, 64
"""Answers for each slot before the full number of slots is tried again; twice as many each time that is too early."""


@dataclass
class _Group:
    """Questions that wait for a slot.

    most: how many of them may be in flight at the same time.
    lowers_to: the number of slots once they have ended; None for no change.
    """

    most: int
    questions: deque[Loaded] = field(default_factory=deque)
    lowers_to: int | None = None


class Waiting:
    """Questions that wait for a slot. slots: most questions in flight."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._groups = [_Group(slots)]
        self._answers = 0  # in the first group since the number of slots changed
        self._answers_before_more = _ANSWERS_BEFORE_MORE
        self._has_risen = False  # the number of slots, since it was lowered

    @property
    def slots(self) -> int:
        """Most questions of the present group in flight, at present."""
        return min(self._slots, self._groups[-1].most)

    @property
    def present(self) -> int:
        """Number of questions in the present group."""
        return len(self._groups[-1].questions)

    @property
    def total(self) -> int:
        """Number of all questions that wait."""
        return sum(len(group.questions) for group in self._groups)

    def add(self, question: Loaded) -> None:
        """Add a new question."""
        self._groups[0].questions.append(question)

    def remove(self, question: int) -> None:
        """Remove a question, if it waits. question: its id."""
        for group in self._groups:
            for waiting in [one for one in group.questions if one.ask.id == question]:
                group.questions.remove(waiting)

    def take(self, most: int) -> list[Loaded]:
        """Remove and return the next questions of the present group, `most` at most."""
        return [self._groups[-1].questions.popleft() for _ in range(max(0, min(most, self.present)))]

    def next_group(self) -> bool:
        """Continue with the group before the present one, which has ended. Returns False if there is none."""
        if len(self._groups) == 1:
            return False
        ended = self._groups.pop()
        if ended.lowers_to is not None:
            self.lower_slots(ended.lowers_to)
        return True

    def ask_again(self, questions: Sequence[Loaded], out_of_memory: bool) -> None:
        """Make a group of questions that were in flight at an error, with half as many in flight.

        If the memory was not enough and these questions are answered in the end, there are fewer slots for a while.
        """
        half = max(1, len(questions) // 2)
        logger.warning("%d questions in flight are asked again, %d at a time", len(questions), half)
        self._groups.append(_Group(half, deque(questions), half if out_of_memory else None))

    def keep_slots(self) -> None:
        """A question needs too much memory even alone: the number of slots is not the cause."""
        for group in self._groups:
            group.lowers_to = None

    def lower_slots(self, slots: int) -> None:
        """Have at most this number of slots for a while, because the memory does not suffice."""
        if slots >= self._slots:
            return
        logger.warning("out of memory; continuing with %d questions in flight for a while", slots)
        if self._has_risen:  # too early
            self._answers_before_more = min(_MOST_ANSWERS_BEFORE_MORE, 2 * self._answers_before_more)
        self._slots, self._answers, self._has_risen = slots, 0, False

    def count_answer(self) -> None:
        """A question was answered: after some of them, all slots are tried again."""
        if len(self._groups) > 1:
            return
        self._answers += 1
        if self._answers < self._answers_before_more * self._slots:
            return
        self._answers = 0
        if self._slots == self._groups[0].most:
            self._answers_before_more = _ANSWERS_BEFORE_MORE
            return
        self._slots, self._has_risen = self._groups[0].most, True
        logger.info("continuing with %d questions in flight again", self._slots)
