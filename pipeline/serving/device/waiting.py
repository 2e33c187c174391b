"""The questions that wait for a slot, and how many of them may be in flight together after an error.

New questions are in the first group. Questions that were in flight at an error become a group of their own; the last
group is answered first. Knows nothing about the engine.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .media_loader import Loaded

logger = logging.getLogger(__name__)


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

    @property
    def slots(self) -> int:
        """The number of slots of an engine for the present group."""
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
        return [self._groups[-1].questions.popleft() for _ in range(min(most, self.present))]

    def next_group(self) -> bool:
        """Go on with the group before the present one, which has ended. Returns False if there is none."""
        if len(self._groups) == 1:
            return False
        ended = self._groups.pop()
        if ended.lowers_to is not None:
            self.lower_slots(ended.lowers_to)
        return True

    def ask_again(self, questions: Sequence[Loaded], slots: int, out_of_memory: bool) -> None:
        """Make a group of questions that were in flight at an error, with half as many in flight.

        If the memory was not enough and these questions are answered in the end, there are fewer slots from then on.

        slots: of the engine that failed.
        """
        half = max(1, len(questions) // 2)
        logger.warning("%d questions in flight are asked again, %d at a time", len(questions), half)
        self._groups.append(_Group(half, deque(questions), slots // 2 if out_of_memory else None))

    def keep_slots(self) -> None:
        """A question needs too much memory even alone: the number of slots is not the cause."""
        for group in self._groups:
            group.lowers_to = None

    def lower_slots(self, slots: int) -> None:
        """Have at most this number of slots from now on, because the memory does not suffice."""
        if slots < self._slots:
            logger.warning("out of memory with %d questions in flight; continuing with %d", self._slots, slots)
            self._slots = slots
