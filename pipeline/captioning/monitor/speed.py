"""How fast a run is, and how long it will take: one estimate for the log and for `progress`."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 120.0


class Speed:
    """Speed over the last WINDOW_SECONDS, from how much was done when.

    seconds: between the first look that counts and the last one.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        self._looks.append((now, done))
        while len(self._looks) > 2 and now - self._looks[0][0] > WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def seconds(self) -> float:
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def per_second(self) -> float:
        return (self._looks[-1][1] - self._looks[0][1]) / self.seconds if self.seconds > 0 else 0.0


def seconds_left(rows: int, per_second: float) -> float | None:
    """Until all rows are done, at the speed of all ranks together; None if that is not known.

    Ranks lease rows until none is left, so the slowest rank ends with the others: the estimate holds for it too.
    """
    return rows / per_second if per_second > 0 else None if rows else 0.0
