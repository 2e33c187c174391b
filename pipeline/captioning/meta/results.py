"""The result of one row: a caption or a failure. Journals contain these records, and rank 0 gathers them.

Knows nothing about files, models and frameworks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .repetition import is_looping

as_json = json.JSONEncoder(ensure_ascii=False).encode
"""A value as one line of JSON. `json.dumps` would create an encoder for each of a million rows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no caption.

    stage: the step that failed (`path`, `decode`, `prepare`, `prompt`, `caption`, `text`, `gather`, `worker`).
    messages: every message, in the order in which they occurred.
    """

    stage: str
    messages: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.stage}: " + "; ".join(self.messages)


@dataclass(frozen=True, slots=True)
class RowResult:
    """Result of one row of the meta table: either a caption or a failure.

    row: index of the row in the meta table, from 0.
    tokens: number of generated tokens, the end-of-sequence token included.
    truncated: generation stopped at `max_new_tokens`, not at an end-of-sequence token.
    looping: the caption repeats itself (`repetition.is_looping`).
    partial: only a part of the clip could be decoded (`Clip.partial`).
    """

    row: int
    caption: str | None = None
    failure: Failure | None = None
    tokens: int = 0
    truncated: bool = False
    looping: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        assert (self.caption is None) != (self.failure is None), "either a caption or a failure"

    def to_json(self) -> str:
        """One line of JSON; `from_json` is its inverse."""
        if self.failure is not None:
            return as_json({"row": self.row, "stage": self.failure.stage, "messages": self.failure.messages})
        record = {"row": self.row, "caption": self.caption, "tokens": self.tokens}
        record |= {name: True for name in ("truncated", "looping", "partial") if getattr(self, name)}
        return as_json(record)

    @classmethod
    def from_json(cls, line: str) -> RowResult:
        return cls.from_record(json.loads(line))

    @classmethod
    def from_record(cls, record: dict) -> RowResult:
        if "stage" in record:
            return cls.failed(record["row"], record["stage"], record["messages"])
        return cls(
            row=record["row"],
            caption=record["caption"],
            tokens=record["tokens"],
            truncated=record.get("truncated", False),
            looping=record.get("looping", False),
            partial=record.get("partial", False),
        )

    @classmethod
    def failed(cls, row: int, stage: str, messages: Sequence[str]) -> RowResult:
        return cls(row=row, failure=Failure(stage, tuple(messages)))


def caption_result(row: int, text: str, tokens: int, truncated: bool, partial: bool = False) -> RowResult:
    """The result of a generated `text`. Each run of white space becomes one space; an empty caption is a failure."""
    caption = " ".join(text.split())
    if not caption:
        return RowResult.failed(row, "text", [f"the model generated no text ({tokens} tokens)"])
    return RowResult(row, caption, tokens=tokens, truncated=truncated, looping=is_looping(caption), partial=partial)
