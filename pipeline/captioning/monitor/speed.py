"""The speed of a run and its remaining time: one estimate for the log and for `progress`."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 120.0


class Speed:
    """Speed over the last WINDOW_SECONDS.

    seconds: time between the oldest sample in the window and the newest one.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def record(self, now: float, done: int) -> None:
        """Add a sample: `done` rows at the time `now`, in seconds."""
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def seconds(self) -> float:
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    def per_second(self) -> float:
        """Rows per second; 0 if the samples cover no time."""
        return (self._samples[-1][1] - self._samples[0][1]) / self.seconds if self.seconds > 0 else 0.0


def seconds_left(rows: int, per_second: float) -> float | None:
    """Seconds until `rows` are done at the speed `per_second` of all ranks together; None if the speed is 0.

    Ranks lease rows until no row remains, so the slowest rank ends when the others do. The estimate includes it.
    """
    return rows / per_second if per_second > 0 else None if rows else 0.0
