"""Export to subtitles and chapters: what FFmpeg reads from the files, and rows that have no time."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.monitor.gallery import outputs
from pipeline.datasets import export
from tests.captioning.long_videos.parsed import chapters, subtitles
from tests.datasets.meta_tables import KINDS, read, write

HEADER = ["path", "start", "end", "text", "text_long"]
ROWS = [
    ["/d/a.mp4", "0.000", "2.500", "A dog <runs>.", "long"],
    ["/d/ü 猫.webm", "10", "12.0", "第一。第二。", ""],
    ["/d/a.mp4", "5", "7.5", "A cat sits. It sleeps.", ""],
    ["/d/a.mp4", "2.5", "6e0", "Between & early", "late"],
    ["/d/ü 猫.webm", "", "3", "second", "second"],
    ["/d/none.mp4", "0", "1", "", " "],
]


def _run(folder: Path, kind: str, *arguments: str, rows: list[list[str]] = ROWS) -> int:
    return export.main([str(write(folder / f"meta.{kind}", HEADER, rows)), *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_each_video_gets_a_file(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    expected = [(0, 2500, "A dog <runs>."), (2500, 5000, "Between & early"), (5000, 7500, "A cat sits. It sleeps.")]
    assert _run(tmp_path, kind, "--to", "vtt", "--output", str(out)) == 0
    assert capsys.readouterr().out == f"wrote 2 files in {out}; 1 rows without a caption\n"
    assert subtitles(out / "a.vtt") == expected
    assert subtitles(out / "ü 猫.vtt") == [(0, 3000, "second"), (10_000, 12_000, "第一。第二。")]
    assert _run(tmp_path, kind, "--to", "srt", "--output", str(out)) == 0
    assert [cue[:2] for cue in subtitles(out / "a.srt")] == [cue[:2] for cue in expected]
    assert _run(tmp_path, kind, "--to", "chapters", "--output", str(out), "--keep_suffix") == 0
    titles = [(0, 2500, "A dog <runs>."), (2500, 5000, "Between & early"), (5000, 7500, "A cat sits.")]
    assert chapters(out / "a.mp4.ffmeta") == ({}, titles)
    assert chapters(out / "ü 猫.webm.ffmeta")[1][1] == (10_000, 12_000, "第一。")
    assert len(list(out.iterdir())) == 6


def test_numbers_of_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"path": ["a.mp4"] * 3, "start": [0, 1, 2], "end": [1.5, 2.0, float("nan")], "text": ["a", "b", "c"]}
    )
    table.to_parquet(tmp_path / "m.parquet")
    assert export.main([str(tmp_path / "m.parquet"), "--to", "vtt", "--output", f"{tmp_path}/out"]) == 0
    assert subtitles(tmp_path / "out" / "a.vtt") == [(0, 1000, "a"), (1000, 2000, "b")]


def test_files_beside_the_videos_for_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    rows = [[f"{tmp_path}{row[0]}", *row[1:]] for row in ROWS]
    assert _run(tmp_path, "csv", "--to", "srt", "--column", "text", "--column", "text_long", rows=rows) == 0
    assert "wrote 4 files beside the clips" in capsys.readouterr().out
    assert subtitles(tmp_path / "d" / "a.text_long.srt") == [(0, 2500, "long"), (2500, 6000, "late")]
    assert subtitles(tmp_path / "d" / "ü 猫.text_long.srt") == [(0, 3000, "second")]


def test_rows_without_a_time_cost_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ["a.mp4", "nan", "1", "shown", ""],  # without a start: from 0 s
        ["a.mp4", "", "", "whole file", ""],
        ["a.mp4", "4", "3", "reversed", ""],
        ["a.mp4", "-1", "3", "too early", ""],
        ["a.mp4", "1", "", "no end", ""],
        ["a.mp4", "0", "0.5", "hidden", ""],
        ["https://h/", "0", "1", "no name", ""],
        ["b.mp4", "1", "1", "only an empty one", ""],
    ]
    assert _run(tmp_path, "csv", "--to", "vtt", "--output", f"{tmp_path}/out", rows=rows) == 0
    assert capsys.readouterr().out.startswith(
        f"wrote 1 files in {tmp_path}/out; 0 rows without a caption; 7 rows failed"
    )
    assert subtitles(tmp_path / "out" / "a.vtt") == [(0, 1000, "shown")]
    failures = {int(row["row"]): row["message"] for row in read(tmp_path / "meta_export_failures.csv")}
    assert sorted(failures) == [1, 2, 3, 4, 5, 6, 7]
    assert failures[1] == "it has no start and no end, so there is no time for its caption"
    assert failures[2] == "the range 4.000 s to 3.000 s is reversed"
    assert "begins before the file" in failures[3] and "its range has no end" in failures[4]
    assert "a longer row of the video starts at the same time" in failures[5]
    assert failures[6] == "the path does not name a file" and "is empty" in failures[7]


def test_a_folder_that_cannot_be_written_costs_its_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[f"{tmp_path}/none/a.mp4", "0", "1", "a", ""], [f"{tmp_path}/b.mp4", "0", "1", "b", ""]]
    assert _run(tmp_path, "csv", "--to", "vtt", rows=rows) == 0
    assert "none/a.vtt: No such file or directory" in capsys.readouterr().err
    assert subtitles(tmp_path / "b.vtt") == [(0, 1000, "b")]
    assert _run(tmp_path, "csv", "--to", "vtt", rows=rows[:1]) == 1
    assert "nothing to export" in capsys.readouterr().err


def test_nothing_is_replaced_without_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ü 猫.srt").write_text("by hand")
    arguments = ["--to", "srt", "--output", f"{tmp_path}/out"]
    assert _run(tmp_path, "csv", *arguments) == 2
    assert "ü 猫.srt'; remove them, or allow it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ü 猫.srt"]
    assert _run(tmp_path, "csv", *arguments, "--overwrite") == 0
    assert len(subtitles(tmp_path / "out" / "ü 猫.srt")) == 2


def test_two_videos_for_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[path, "0", "1", "x", ""] for path in ("d/a.mp4", "d/a.webm", "e/a.mp4")]
    arguments = ["--to", "vtt", "--output", f"{tmp_path}/out"]
    assert _run(tmp_path, "csv", *arguments, rows=rows) == 2
    assert "out/a.vtt' is the file of 'd/a.mp4', 'd/a.webm', 'e/a.mp4'; use --keep_suffix (" in (
        error := capsys.readouterr().err
    )
    assert "(a.mp4.vtt) and --root (folders" in error
    assert not (tmp_path / "out").exists()
    assert _run(tmp_path, "csv", *arguments, "--keep_suffix", "--root", ".", rows=rows) == 0
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.vtt")}
    assert files == {"d/a.mp4.vtt", "d/a.webm.vtt", "e/a.mp4.vtt"}


@pytest.mark.parametrize(
    ("paths", "arguments", "advice"),
    [
        (["x/a.mp4", "x/a.webm"], [], "use --keep_suffix (a.mp4.srt)"),
        (["x/a.mp4", "x/a.webm"], ["--output", "out"], "use --keep_suffix (a.mp4.srt)"),
        (["x/a.mp4", "y/a.mp4"], ["--output", "out"], "use --root (folders of the videos below --output)"),
        (["x/a.mp4", "y/a.mp4"], ["--output", "out", "--keep_suffix"], "use --root (folders of the videos below --out"),
        (["https://h/x/a.mp4", "https://h/y/a.mp4"], ["--output", "out"], "use --root (folders of the videos below"),
        (
            ["https://h/a.mp4?v=1", "https://h/a.mp4?v=2"],
            ["--output", "out"],
            "no flag gives them different files: keep one",
        ),
        (["x/a.mp4", "link/a.mp4"], [], "no flag gives them different files: keep one"),
        (
            ["x/a.mp4", "x/../x/a.mp4"],
            ["--output", "out", "--root", "."],
            "no flag gives them different files: keep one",
        ),
    ],
)
def test_the_message_names_only_flags_that_help(
    tmp_path: Path,
    paths: list[str],
    arguments: list[str],
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    rows = [[path, "0", "1", "x", ""] for path in paths]
    assert _run(tmp_path, "csv", "--to", "srt", *arguments, rows=rows) == 2
    error = capsys.readouterr().err
    assert f"'; {advice}" in error
    assert ("--keep_suffix" in error, "--root" in error) == ("--keep_suffix" in advice, "--root" in advice)


def test_times_that_the_run_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report beside the table says that no row was captioned as a part of its file."""
    (tmp_path / "meta_report.json").write_text(json.dumps(dict.fromkeys(outputs._REPORT_KEYS, 0)))
    arguments = ["--to", "vtt", "--output", f"{tmp_path}/out"]
    assert _run(tmp_path, "csv", *arguments) == 2
    assert "or its run was started with --whole_files" in capsys.readouterr().err
    assert _run(tmp_path, "csv", *arguments, "--whole_files") == 2
    message = "--whole_files is a flag of --to txt, jsonl, webdataset, sharegpt, not of --to vtt"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("path,text\na.mp4,x\n", 2, "no row with a caption is a part of its file: the columns 'start' and 'end'"),
        ("path,text,start,end\na.mp4,x,,\n", 2, "make a table of parts by pipeline.datasets.segments, or use --to txt"),
        (
            "path,text,start,end\na.mp4,x,0,1\nb.mp4,x,1,0:02\n",
            2,
            "column 'end', row 1: '0:02' is not a time in seconds",
        ),
        ("path,text,start,end\na.mp4,,0,1\n", 1, "1 rows have no caption in 'text'"),
        ("path,text,start,end\na.mp4,x,0,1\nb.mp4,x,0,1,2\n", 2, "row 1 (line 3) has 5 cells"),
    ],
)
def test_a_table_without_times_changes_nothing(
    tmp_path: Path, content: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.csv").write_text(content)
    assert export.main([str(tmp_path / "m.csv"), "--to", "chapters", "--output", f"{tmp_path}/out"]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_only_videos_that_have_begun_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a video is written when its last row was read, although its rows are not next to each other."""
    rows = [["a.mp4", "0", "1", "a", ""], ["b.mp4", "0", "1", "b", ""], ["a.mp4", "1", "2", "a", ""]]
    rows += [["c.mp4", "bad", "1", "c", ""]]
    out = tmp_path / "out"
    table = write(tmp_path / "m.csv", HEADER, rows[:3])
    check = export.check_timed

    def check_then_damage(*arguments: object) -> object:
        counts = check(*arguments)  # type: ignore[arg-type]
        write(tmp_path / "m.csv", HEADER, rows)
        return counts

    monkeypatch.setattr(export, "check_timed", check_then_damage)
    assert export.main([str(table), "--to", "vtt", "--output", str(out)]) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a.vtt", "b.vtt"]
    assert [cue[2] for cue in subtitles(out / "a.vtt")] == ["a", "a"]
