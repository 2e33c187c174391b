"""Exports use what the run has left beside its table: which columns it wrote, what it asked, what is an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.captioning.monitor.gallery import outputs
from pipeline.datasets import export
from tests.datasets.meta_tables import write

SHORT, LONG = "Describe the video in one sentence.", "Describe it.\nName all {{colors}}."


def _run_outputs(folder: Path, entries: Mapping[str, Any] | None) -> Path:
    """A table with two columns of captions of a run, and one that is older, with these entries of a report, or none."""
    header = ["path", "text", "text_short", "text_long", "text_len", "q"]
    rows = [
        ["a.webp", "old a", "short a", "long a", "7", "Own?"],
        ["b.webp", "old b", "short b", "", "7", ""],
        ["c.mp4", "old c", "", "long c", "7", " "],
        ["d.webp", "old d", "kept d", "", "7", ""],
        ["new.webp", "old e", "short e", "", "7", ""],
    ]
    media = {"a.webp": "video", "b.webp": "image", "c.mp4": "image", "e.webp": "video"}
    with (folder / "m_outcomes.jsonl").open("w") as file:
        for number, path in enumerate(["a.webp", "b.webp", "c.mp4", "d.webp", "e.webp"]):
            for column in ("text_short", "text_long"):
                record: dict[str, Any] = {"row": number, "path": path, "column": column, "outcome": "kept"}
                if path in media and column == ("text_long" if path == "c.mp4" else "text_short"):
                    record |= {"outcome": "captioned", "media": media[path]}
                file.write(json.dumps(record) + "\n")
    if entries is not None:
        (folder / "m_report.json").write_text(json.dumps(dict.fromkeys(outputs._REPORT_KEYS, 0) | dict(entries)))
    return write(folder / "m.csv", header, rows)


def _records(table: Path, *arguments: str) -> list[dict[str, Any]]:
    output = table.with_name("out.json")
    assert export.main([str(table), "--to", "sharegpt", "--output", str(output), "--overwrite", *arguments]) == 0
    records: list[dict[str, Any]] = json.loads(output.read_text())
    return records


def _turns(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(record["conversations"][0]["value"], record["conversations"][1]["value"]) for record in records]


def test_columns_questions_and_media_of_the_run(tmp_path: Path) -> None:
    table = _run_outputs(tmp_path, {"questions": {"text_short": SHORT, "text_long": LONG}})
    records, asked = _records(table), "Describe it.\nName all {colors}."
    assert _turns(records) == [
        (f"<video>\n{SHORT}", "short a"),
        (f"<video>\n{asked}", "long a"),
        (f"<image>\n{SHORT}", "short b"),
        (f"<image>\n{asked}", "long c"),
        (f"<image>\n{SHORT}", "kept d"),
        (f"<image>\n{SHORT}", "short e"),
    ]
    assert [next(name for name in ("image", "video") if name in record) for record in records] == [
        "video", "video", "image", "image", "image", "image"
    ]  # fmt: skip
    assert export.main([str(table), "--to", "txt", "--output", str(tmp_path / "texts")]) == 0
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == [
        "a.text_long.txt", "a.text_short.txt", "b.text_short.txt", "c.text_long.txt", "d.text_short.txt",
        "new.text_short.txt",
    ]  # fmt: skip
    assert _turns(_records(table, "--column", "text_long", "--question", "What?"))[0][0] == "<video>\nWhat?"
    (tmp_path / "m_report.json").unlink()
    assert _turns(_records(table, "--column", "text"))[0] == (f"<video>\n{DEFAULT_QUESTION}", "old a")


def test_a_broken_outcomes_file_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = _run_outputs(tmp_path, None)
    (tmp_path / "m_outcomes.jsonl").write_text("{\n")
    assert _turns(_records(table))[0] == (f"<image>\n{DEFAULT_QUESTION}", "old a")
    assert "m_outcomes.jsonl can't be read" in caplog.text


COMMON = {"questions": {"text_short": SHORT}}


@pytest.mark.parametrize(
    ("entries", "column", "arguments", "message"),
    [
        (None, "text_short", [], "no report beside the table has it"),
        ({}, "text", [], "no report beside the table has it"),
        (COMMON, "text_long", [], "no report beside the table has it"),
        ({"questions": {"text_short": ""}}, "text_short", [], "is blank"),
        ({"questions": {"text_short": "{title}?"}}, "text_short", [], "it contains cells of the table"),
        ({**COMMON, "question_column": "q"}, "text_short", [], "it contains cells of the table"),
        ({**COMMON, "question_column": "r"}, "text_short", ["--question_column", "q"], "it contains cells"),
    ],
)
def test_a_question_that_is_not_known_has_to_be_given(
    tmp_path: Path,
    entries: Mapping[str, Any] | None,
    column: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, output = _run_outputs(tmp_path, entries), tmp_path / "out.json"
    command = [str(table), "--to", "sharegpt", "--output", str(output), "--column", column, *arguments]
    assert export.main(command) == 2
    error = capsys.readouterr().err
    assert f"the question of column '{column}'" in error and message in error and "--question" in error
    assert error.count("\n") == 1 and not output.exists()
    assert export.main([*command, "--question", "What?"]) == 0


def test_the_common_question_of_rows_without_their_own(tmp_path: Path) -> None:
    table = _run_outputs(tmp_path, {**COMMON, "question_column": "q"})
    turns = _turns(_records(table, "--column", "text_short", "--question_column", "q"))
    assert [question.partition("\n")[2] for question, _ in turns] == ["Own?", *[SHORT] * 3]


def test_without_outputs_of_a_run_the_error_names_similar_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "m.csv", ["path", "text_short", "text_long"], [["a.mp4", "s", "l"]])
    assert export.main([str(table), "--to", "txt"]) == 2
    error = capsys.readouterr().err
    assert "has no column 'text', but 'text_short', 'text_long'; name each column of captions by --column" in error
