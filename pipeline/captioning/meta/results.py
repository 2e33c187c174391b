"""The result of one row: a caption or a failure for each column. Journals contain these records; rank 0 gathers them.

Knows nothing about files, models and frameworks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .names import TEXT_COLUMN
from .repetition import is_looping

as_json = json.JSONEncoder(ensure_ascii=False).encode
"""A value as one line of JSON. `json.dumps` would create an encoder for each of a million rows."""


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """A caption for one column of one row.

    tokens: number of generated tokens, the end-of-sequence token included.
    truncated: generation stopped at `max_new_tokens`, not at an end-of-sequence token.
    looping: the caption repeats itself (`repetition.is_looping`).
    """

    caption: str
    tokens: int
    truncated: bool = False
    looping: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a column of a row has no caption.

    stage: the step that failed (`path`, `decode`, `prepare`, `prompt`, `caption`, `text`, `gather`, `worker`).
    messages: every message, in the order in which they occurred.
    """

    stage: str
    messages: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.stage}: " + "; ".join(self.messages)


ColumnResult: TypeAlias = CaptionResult | Failure


@dataclass(frozen=True, slots=True)
class RowResult:
    """Result of one row of the meta table.

    row: index of the row in the meta table, from 0.
    results: a caption or a failure for each column whose question was asked; at least one.
    partial: only a part of the clip could be decoded (`Clip.partial`).
    is_image: the clip is a still image (`Clip.is_image`).
    seconds: from asking the first question to the last answer, if the run measures it; else None.
    frames: number of sampled frames, if the run measures `seconds` and the row is a clip; else None.
    """

    row: int
    results: Mapping[str, ColumnResult]
    partial: bool = False
    is_image: bool = False
    seconds: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        assert self.results, "a caption or a failure"

    @classmethod
    def failed(cls, row: int, columns: Iterable[str], stage: str, messages: Sequence[str]) -> RowResult:
        """The result of a row that has no caption in any of `columns`, for the same reason."""
        return cls(row, dict.fromkeys(columns, Failure(stage, tuple(messages))))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self.results)

    @property
    def failures(self) -> dict[Failure, list[str]]:
        """The different failures, each with the columns that have it, in order."""
        found: dict[Failure, list[str]] = {}
        for column, result in self.results.items():
            if isinstance(result, Failure):
                found.setdefault(result, []).append(column)
        return found

    @property
    def has_caption(self) -> bool:
        """Whether at least one column has a caption."""
        return any(isinstance(result, CaptionResult) for result in self.results.values())

    @property
    def measured(self) -> dict[str, float]:
        """What the run measured about the row, by name: `seconds` and `frames`."""
        found = {"seconds": self.seconds, "frames": self.frames}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def tokens(self) -> int:
        """Number of generated tokens of all captions."""
        return sum(result.tokens for result in self.results.values() if isinstance(result, CaptionResult))

    def to_json(self) -> str:
        """One line of JSON; `from_json` is its inverse."""
        captions = {column: _record_of(result) for column, result in self.results.items()}
        record: dict[str, Any] = {"row": self.row, "captions": captions}
        if self.partial:
            record["partial"] = True
        if self.is_image:
            record["image"] = True
        return as_json(record | self.measured)

    @classmethod
    def from_json(cls, line: str) -> RowResult:
        return cls.from_record(json.loads(line))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RowResult:
        """The result of a parsed line. Lines of earlier versions have one caption or failure, of the column `text`."""
        captions = record.get("captions")
        if captions is None:
            results = {TEXT_COLUMN: _result_of(record)}
        else:
            results = {sys.intern(column): _result_of(result) for column, result in captions.items()}
        return cls(
            record["row"],
            results,
            record.get("partial", False),
            record.get("image", False),
            record.get("seconds"),
            record.get("frames"),
        )


@dataclass(frozen=True, slots=True)
class ColumnResults:
    """The results of many rows in one column: captions and failures by row, each in order of rows."""

    captions: Mapping[int, CaptionResult]
    failures: Mapping[int, Failure]


def caption_result(text: str, tokens: int, truncated: bool) -> ColumnResult:
    """The result of a generated `text`. Each run of white space becomes one space; an empty caption is a failure."""
    caption = " ".join(text.split())
    if not caption:
        return Failure("text", (f"the model generated no text ({tokens} tokens)",))
    return CaptionResult(caption, tokens, truncated, is_looping(caption))


def _record_of(result: ColumnResult) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"stage": result.stage, "messages": result.messages}
    record: dict[str, Any] = {"caption": result.caption, "tokens": result.tokens}
    if result.truncated:
        record["truncated"] = True
    if result.looping:
        record["looping"] = True
    return record


def _result_of(record: Mapping[str, Any]) -> ColumnResult:
    if "stage" in record:
        return Failure(record["stage"], tuple(record["messages"]))
    return CaptionResult(
        record["caption"], record["tokens"], record.get("truncated", False), record.get("looping", False)
    )
