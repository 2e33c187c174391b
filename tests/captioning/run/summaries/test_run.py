"""Whole runs from a table of segments to a table of summaries, without a model: ranks are threads."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.journal.folder import journal_folder
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.summaries.videos import read_videos, texts_of_cell
from tests.captioning.run.summaries.text_source import SETTINGS, TextSource, summarise, write_segments
from tests.runs import read_rows

Row = tuple[object, ...]


def _segments(video: str, count: int, missing: Sequence[int] = (), words: int = 8) -> list[Row]:
    """Segments of four seconds; the caption of segment 3 begins with `<video>3`."""
    rest = " word" * (words - 1)
    return [(video, 4 * n, 4 * n + 4, "" if n in missing else f"{video[0]}{n}{rest}") for n in range(count)]


def _summaries(options: JobOptions) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["summary"], row["title"]) for row in read_rows(options.output)}


@pytest.mark.parametrize("workers", [1, 3])
def test_each_video_has_a_summary_and_a_title_from_its_captions_in_order_of_time(tmp_path: Path, workers: int) -> None:
    rows = [*_segments("a.mp4", 3), *_segments("b.mp4", 5, missing=(1, 3)), *_segments("c.mp4", 20)]
    rows.sort(key=lambda row: str(row[1]))  # the rows of a video are neither together nor in order of time
    options = write_segments(tmp_path, rows)
    source = TextSource()
    assert summarise(options, source, workers) == [0] * workers
    found = read_rows(options.output)
    assert list(found[0]) == ["path", "segments", "missing_segments", "captions_digest", "summary", "title"]
    assert [(row["path"], row["segments"], row["missing_segments"]) for row in found] == [
        ("a.mp4", "3", ""), ("b.mp4", "5", "4.000-8.000 12.000-16.000"), ("c.mp4", "20", "")
    ]  # fmt: skip
    said = _summaries(options)
    assert said["a.mp4"] == ("S(a0,a1,a2)", "T(S(a0,a1,a2))")
    assert said["b.mp4"][0] == "S(b0,b2,b4)"
    parts = said["c.mp4"][0].replace("S(", "").replace("P(", "").replace(")", "").split(",")
    assert parts == [f"c{n}" for n in range(20)] and said["c.mp4"][0].count("P(") == 4
    assert {tokens for question, tokens, _ in source.asked if question.endswith("Name it.")} == {SETTINGS.title_tokens}
    assert {tokens for question, tokens, _ in source.asked if "Sum" in question} == {SETTINGS.summary_tokens}
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert (report["captioned"], report["failed"], list(report["columns"])) == (6, 0, ["summary", "title"])
    assert not journal_folder(options.output).exists()


def test_the_output_does_not_depend_on_workers_and_batches(tmp_path: Path) -> None:
    rows = [row for n, video in enumerate("abcdefg") for row in _segments(f"{video}.mp4", 5 * n + 1)]
    outputs = set()
    for workers, batch_size in ((1, 1), (1, 9), (3, 2)):
        options = replace(write_segments(tmp_path, rows), batch_size=batch_size)
        assert summarise(options, TextSource(), workers) == [0] * workers
        outputs.add(options.output.read_bytes())
    assert len(outputs) == 1


def test_a_video_without_any_caption_fails_alone(tmp_path: Path) -> None:
    rows = [*_segments("a.mp4", 2), *_segments("b.mp4", 2, missing=(0, 1)), ("c.mp4", 0, 4, " \t ")]
    options = write_segments(tmp_path, rows)
    assert summarise(options, TextSource()) == [0]
    assert list(_summaries(options).values()) == [("S(a0,a1)", "T(S(a0,a1))"), ("", ""), ("", "")]
    failures = read_rows(tmp_path / "out_failures.csv")
    assert {(one["row"], one["path"], one["stage"]) for one in failures} == {
        ("1", "b.mp4", "segments"),
        ("2", "c.mp4", "segments"),
    }
    assert "no segment of this video has a caption" in failures[0]["message"]


def test_a_part_whose_output_overflows_fails_its_video_and_no_other(tmp_path: Path) -> None:
    """Answers to its other parts still come when it has failed. One slot, so that one row alone is in flight."""
    rows = [*_segments("a.mp4", 20), *_segments("b.mp4", 20), *_segments("c.mp4", 2)]
    for batch_size in (1, 4):
        options = replace(write_segments(tmp_path, rows), batch_size=batch_size)
        source = TextSource(overflows=lambda question: " a19 " in question)
        assert summarise(options, source) == [0]
        said = _summaries(options)
        assert said["a.mp4"] == ("", "") and all(said["b.mp4"]) and all(said["c.mp4"])
        assert len(source.asked) == len(set(source.asked)) == 4 + 6 + 2, "nothing is asked twice"
        (failure, _) = read_rows(tmp_path / "out_failures.csv")
        assert (failure["path"], failure["stage"], failure["message"]) == ("a.mp4", "caption", "not a number")


def test_a_question_that_raises_an_error_fails_its_video_and_no_other(tmp_path: Path) -> None:
    rows = [row for video in "abcd" for row in _segments(f"{video}.mp4", 12)]

    def on_question(question: str) -> None:
        if " b0 " in question and question.endswith("part."):
            raise ValueError("a bad prompt")

    options = replace(write_segments(tmp_path, rows), batch_size=3)
    assert summarise(options, TextSource(on_question=on_question)) == [0]
    assert [path for path, said in _summaries(options).items() if not all(said)] == ["b.mp4"]
    assert read_rows(tmp_path / "out_failures.csv")[0]["message"] == "ValueError: a bad prompt"


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_killed_resumes_to_the_same_table(tmp_path: Path, workers: int) -> None:
    rows = [row for n, video in enumerate("abcdefgh") for row in _segments(f"{video}.mp4", 3 * n + 1)]
    options = replace(write_segments(tmp_path, rows), batch_size=1)
    undisturbed = replace(options, output=tmp_path / "undisturbed.csv")
    whole = TextSource()
    assert summarise(undisturbed, whole) == [0]
    first, second = TextSource(), TextSource()

    def on_question(question: str) -> None:
        if len(first.asked) > 9:
            raise _Killed

    first.on_question = on_question
    assert isinstance(summarise(options, first)[0], _Killed) and not options.output.exists()
    assert summarise(options, second, workers) == [0] * workers
    assert options.output.read_bytes() == undisturbed.output.read_bytes()
    again = set(first.asked) & set(second.asked)
    assert 0 < len(second.asked) < len(whole.asked) and len(again) < 4, "only those of the video in flight"


def test_summaries_whose_captions_are_unchanged_are_kept(tmp_path: Path) -> None:
    rows = [*_segments("a.mp4", 2), *_segments("b.mp4", 2, missing=(1,)), *_segments("c.mp4", 2)]
    options = replace(write_segments(tmp_path, rows), skip_if_existing=True)
    assert summarise(options, TextSource()) == [0]
    before = _summaries(options)
    random.Random(1).shuffle(rows)  # the order of rows is not that of time
    rows.sort(key=lambda row: str(row[0]))
    write_segments(tmp_path, rows)
    source = TextSource()
    assert summarise(options, source) == [0] and source.loads == 0, "nothing is left to do"
    write_segments(tmp_path, [*_segments("d.mp4", 1), *_segments("c.mp4", 2), *_segments("b.mp4", 2)])
    source = TextSource()
    assert summarise(options, source) == [0]
    assert {question[14:16] for question, _, _ in source.asked if "Sum" in question} == {"b0", "d0"}
    after = _summaries(options)
    assert list(after) == ["d.mp4", "c.mp4", "b.mp4"] and after["c.mp4"] == before["c.mp4"]
    assert after["b.mp4"] == ("S(b0,b1)", "T(S(b0,b1))")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_marked_summary_is_made_again_together_with_its_title(tmp_path: Path, workers: int) -> None:
    options = write_segments(tmp_path, [*_segments("a.mp4", 2), *_segments("b.mp4", 2), *_segments("c.mp4", 2)])
    assert summarise(options, TextSource()) == [0]
    found = read_rows(options.output)
    found[0] |= {"summary": "one two three", "title": "one two three"}
    found[1] |= {"summary": "short", "title": "one two three"}
    found[2] |= {"summary": "one two three", "title": "short"}
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    options = replace(options, skip_if_existing=True, redo=("short",), short_words=3)
    assert summarise(options, TextSource(), workers) == [0] * workers
    assert list(_summaries(options).values()) == [
        ("one two three", "one two three"),
        ("S(b0,b1)", "T(S(b0,b1))"),
        ("one two three", "T(S(c0,c1))"),
    ]


def test_a_title_that_failed_is_made_by_the_next_run(tmp_path: Path) -> None:
    options = write_segments(tmp_path, _segments("a.mp4", 2))
    assert summarise(options, TextSource(overflows=lambda question: question.endswith("Name it."))) == [0]
    assert _summaries(options) == {"a.mp4": ("S(a0,a1)", "")}
    assert summarise(replace(options, skip_if_existing=True), TextSource()) == [0]
    assert _summaries(options) == {"a.mp4": ("S(a0,a1)", "T(S(a0,a1))")}


@pytest.mark.parametrize(("given", "made"), [(".csv", ".parquet"), (".parquet", ".csv.gz"), (".csv.gz", ".csv")])
def test_formats_of_tables(tmp_path: Path, given: str, made: str) -> None:
    rows = [*_segments("ä, \n.mp4", 2), *_segments("b.mp4", 2, missing=(1,))]
    options = write_segments(tmp_path, rows)
    meta, output = tmp_path / f"s{given}", tmp_path / f"out{made}"
    if given == ".parquet":
        names = ["path", "start", "end", "text"]
        frame = pd.DataFrame(rows, columns=names).astype({"start": float, "end": float})
        frame.assign(text=frame["text"].replace("", None)).to_parquet(meta)
    elif given == ".csv.gz":
        meta.write_bytes(gzip.compress(options.meta_path.read_bytes()))
    else:
        meta.write_bytes(options.meta_path.read_bytes())
    options = replace(options, meta_path=meta, output=output)
    assert summarise(options, TextSource()) == [0]
    found = pd.read_parquet(output) if made == ".parquet" else pd.read_csv(output, keep_default_na=False)
    assert found["path"].tolist() == ["ä, \n.mp4", "b.mp4"]
    assert found["missing_segments"].tolist() == ["", "4.000-8.000"]
    assert found["summary"].tolist() == ["S(ä0,ä1)", "S(b0)"]
    source = TextSource()
    assert summarise(replace(options, skip_if_existing=True), source) == [0] and source.loads == 0


def test_captions_of_another_column(tmp_path: Path) -> None:
    header = ("path", "start", "text", "text_short", "end")
    options = write_segments(tmp_path, [("a.mp4", 4, "no", "two", 8), ("a.mp4", 0, "no", "one", 4)], header)
    assert summarise(options, TextSource(), column="text_short") == [0]
    assert _summaries(options)["a.mp4"][0] == "S(one,two)"


def test_a_table_without_ranges_has_one_caption_for_each_path(tmp_path: Path) -> None:
    options = write_segments(tmp_path, [("a.mp4", "Dogs."), ("b.mp4", ""), ("a.mp4", "Cats.")], ("path", "text"))
    source = TextSource()
    assert summarise(options, source) == [0]
    assert source.asked[0][0] == "[0:00 - end] Dogs.\n[0:00 - end] Cats.\n\nSum up."
    assert [row["missing_segments"] for row in read_rows(options.output)] == ["", "0.000-"]


def test_ranges_without_an_end_and_reversed_ranges(tmp_path: Path) -> None:
    """A reversed range is a row that failed: it has no caption and is named as missing."""
    rows = [("a.mp4", 8, "", "c."), ("a.mp4", 9, 4, ""), ("a.mp4", "", 4.5, "a."), ("a.mp4", 4.5, 8, "b.")]
    source = TextSource()
    options = write_segments(tmp_path, rows)
    assert summarise(options, source) == [0]
    assert source.asked[0][0] == "[0:00 - 0:04.5] a.\n[0:04.5 - 0:08] b.\n[0:08 - end] c.\n\nSum up."
    assert read_rows(options.output)[0]["missing_segments"] == "9.000-4.000"


def test_whole_files_have_captions_in_order_of_rows(tmp_path: Path) -> None:
    rows = [("a.mp4", "frame 9", "x", "first"), ("a.mp4", "frame 1", "y", "second")]
    options = write_segments(tmp_path, rows)
    (error,) = summarise(options, TextSource())
    assert isinstance(error, UsageError) and "'frame 9' is not a time in seconds" in str(error)
    assert summarise(replace(options, whole_files=True), TextSource()) == [0]
    assert _summaries(options)["a.mp4"][0] == "S(first,second)"


def test_captions_with_line_breaks_stay_on_one_line_and_the_digest_follows_every_change(tmp_path: Path) -> None:
    def read(*rows: Row) -> tuple[str, str]:
        table = read_videos(write_segments(tmp_path, rows).meta_path, "text", False)
        ((cell,),) = table.cells(["captions"])
        ((digest,),) = table.cells(["captions_digest"])
        return cell, digest

    cell, digest = read(("a.mp4", 0, 4, "A dog\nruns\t. [0:09]"), ("a.mp4", 4, 8, "Ünï 狗"))
    assert [text.line for text in texts_of_cell(cell)] == ["[0:00 - 0:04] A dog runs . [0:09]", "[0:04 - 0:08] Ünï 狗"]
    others = [
        read(("a.mp4", 0, 4, "A dog runs . [0:09]"), ("a.mp4", 4, 8, "Uni 狗")),
        read(("a.mp4", 0, 4, "A dog runs . [0:09]"), ("a.mp4", 4, 8.001, "Ünï 狗")),
        read(("a.mp4", 0, 4, "A dog runs . [0:09]"), ("a.mp4", 4, 8, "")),
    ]
    assert len({digest, *(other for _, other in others)}) == 4
    assert read(("a.mp4", 4, 8, "Ünï 狗"), ("a.mp4", 0, 4, "A dog runs . [0:09]")) == (cell, digest)
