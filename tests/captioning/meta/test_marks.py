"""Marks of captions: which a caption has, and what an outcomes file says about captions that were cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.captioning.meta import marks
from pipeline.captioning.meta.marks import CAPTION_MARKS, MarkedCaptions, outcome_columns, read_truncated

CELLS = [
    " A dog runs over a meadow.\n",
    "A dog runs over a meadow.",
    "The man and the man and the man and the man and then",
    "A cat.",
    "",
    "A dog runs over a meadow and",
]


def test_marks_of_each_caption() -> None:
    marked = MarkedCaptions(CELLS, {})
    found = [{mark for mark in CAPTION_MARKS if marked.has(row, mark)} for row in range(len(CELLS))]
    assert found == [{"repeated"}, {"repeated"}, {"looping", "unfinished"}, {"short"}, set(), {"unfinished"}]
    assert marked.rows_with(["short", "looping"]) == {2, 3} and marked.rows_with([]) == set()
    assert MarkedCaptions(CELLS, {}, short_words=7).rows_with(["short"]) == {0, 1, 3}
    assert (marked.times(0), marked.times(4), marked.words(5)) == (2, 0, 7)


def test_the_outcome_takes_precedence_over_the_end_of_the_sentence() -> None:
    marked = MarkedCaptions(CELLS, {3: True, 5: False})
    assert marked.rows_with(["unfinished"]) == {2, 3}


def test_a_caption_of_many_rows_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[str] = []
    monkeypatch.setattr(marks, "is_looping", lambda text: examined.append(text) or text == "a a a a")
    captions = MarkedCaptions(["a a a a", "b", " a a a a", "", "b"], {1: True, 4: False})
    assert captions.rows_with(["looping", "unfinished"]) == {0, 1, 2} and examined == ["a a a a", "b"]


def test_outcomes_of_several_columns_and_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    captioned = {"outcome": "captioned", "truncated": True}
    records = [
        {"row": 0, "path": "a.mp4", "column": "short", **captioned},
        {"row": 0, "path": "a.mp4", "column": "long", **captioned, "truncated": False},
        {"row": 1, "path": "b.mp4", "column": "short", "outcome": "kept"},
        {"row": 1, "path": "b.mp4", "column": "long", **captioned},
        {"row": 2, "path": "x.mp4", "column": "long", **captioned},  # the table has another path in this row
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    paths = ["a.mp4", "b.mp4", "c.mp4"]
    assert read_truncated(path, paths) == {"short": {0: True}, "long": {0: False, 1: True}}
    assert outcome_columns(path) == ["short", "long"]
    path.write_text(json.dumps({"row": 1, "path": "b.mp4", **captioned}) + "\n")
    assert read_truncated(path, paths) == {"text": {1: True}} and outcome_columns(path) == ["text"]
    for nothing in (tmp_path / "nowhere.jsonl", tmp_path):
        assert read_truncated(nothing, paths) == {} and outcome_columns(nothing) == []
