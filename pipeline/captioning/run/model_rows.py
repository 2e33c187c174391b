"""The rows of a run as the loop of a worker sees them: loaded, asked, answered. Knows nothing about engines.

A row is a clip with its questions (`clip_rows`), or a video whose captions are summarised (`summaries.row`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from ..captioners.base import Captioner, Refused
from ..clips.time_range import TimeRange
from ..generation.requests import Request
from ..meta.asks import Asks
from ..meta.results import ColumnResult, Failure, RowResult
from ..workers.leases import RowTask
from .options import JobOptions


class AskedRow(ABC):
    """A row in flight: its questions, and the answers so far.

    row: index in the meta table. path: of the clip or the video.
    range: the part of the file that the row is; None for the whole file.
    frames: number of sampled frames; None if the row is no clip.
    added: when its first question was asked, on the clock of `time.monotonic`; None before that.
    """

    row: int
    path: str
    range: TimeRange | None = None
    frames: int | None = None
    added: float | None = None

    @property
    @abstractmethod
    def is_answered(self) -> bool:
        """Whether the row needs no further answer."""

    @property
    @abstractmethod
    def may_ask_next(self) -> bool:
        """Whether the questions that were asked last are answered, and others are to be asked."""

    @abstractmethod
    def ask(self) -> tuple[str, ...]:
        """The questions to ask now, at least one."""

    @abstractmethod
    def answer(self, number: int, result: ColumnResult) -> None:
        """Record an answer. number: of the question among those that `ask` returned last."""

    @abstractmethod
    def fail_asked(self, failure: Failure) -> bool:
        """Handle an error that this row alone has caused; returns whether the row needs no further answer.

        If several questions were asked together, they are asked one at a time from now on; the others may succeed.
        """

    @abstractmethod
    def result(self) -> RowResult:
        """The result of the row, once it needs no further answer."""


@dataclass(frozen=True)
class EndedRow:
    """A row that has a result without being asked: it could not be loaded, or its questions are refused."""

    result: RowResult
    path: str
    range: TimeRange | None = None


class RowLoader(ABC):
    """Gives each row of a run once, when it is ready. A context manager.

    has_ended: `next_row` has given all rows.
    wait_seconds: seconds that the consumer has waited for rows so far.
    decode_seconds: seconds that clips have taken to decode so far, summed over the decoding processes.
    """

    has_ended: bool
    wait_seconds: float
    decode_seconds: float

    @abstractmethod
    def next_row(self, wait: float) -> AskedRow | EndedRow | None:
        """The next row; None after the last one, or if none is ready within `wait` seconds."""

    def __enter__(self) -> RowLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ModelRows(ABC):
    """How the rows of a run are loaded and asked, if a model in this process answers.

    asks: what is asked about every row.
    """

    asks: Asks

    @abstractmethod
    def loader(
        self,
        tasks: Iterable[RowTask],
        options: JobOptions,
        host_workers: int,
        slots: int,
        ahead: Callable[[], int],
    ) -> RowLoader:
        """A loader of rows.

        host_workers: ranks on this host. slots: rows in flight, if it is known; else 0.
        ahead: returns how many rows should be loaded ahead at present.
        """

    @abstractmethod
    def requests(self, captioner: Captioner, rows: Sequence[AskedRow]) -> Iterable[Request | Refused]:
        """The requests that ask the questions of rows (`AskedRow.ask`); calls `ask` of each row once."""

    @abstractmethod
    def max_slots(self, captioner: Captioner) -> int:
        """The number of rows in flight that suits the device and its memory (`--bs auto`)."""
