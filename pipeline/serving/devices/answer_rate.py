"""How fast answers end, and when a refused client should try again. Knows nothing about questions and processes."""

from __future__ import annotations

import math
from collections import deque

SHORTEST_PAUSE, LONGEST_PAUSE = 1, 60
"""Seconds."""
_ANSWERS = 64


class AnswerRate:
    """The times at which the last answers ended, on any clock that counts seconds."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=_ANSWERS)

    def count(self, now: float) -> None:
        """An answer ended."""
        self._ends.append(now)

    def seconds_for(self, answers: int, now: float) -> int:
        """The seconds that `answers` further answers will take, from SHORTEST_PAUSE to LONGEST_PAUSE.

        If fewer than two answers are known, a number in between.
        """
        if len(self._ends) < 2:
            return 5
        each = (now - self._ends[0]) / len(self._ends)
        return max(SHORTEST_PAUSE, min(LONGEST_PAUSE, math.ceil(each * answers)))
