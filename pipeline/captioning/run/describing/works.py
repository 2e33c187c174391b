"""What makes the captions and the summaries of a description: a model in this process, or a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..options import JobOptions
from ..rank_work import RankWork


@dataclass(frozen=True)
class Works:
    """The works that caption the segments and summarise the videos. model: its name, for the descriptions."""

    model: str
    captions: RankWork
    summaries: RankWork


@dataclass(frozen=True)
class CheckedWorks:
    """The works before it is known where the tables are.

    warnings: for the log. make: makes the works from the options of the two runs; may raise UsageError.
    """

    warnings: Sequence[str]
    make: Callable[[JobOptions, JobOptions], Works]
