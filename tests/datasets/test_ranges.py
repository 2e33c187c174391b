"""Tables whose rows are parts of files: datautil and the exports tell the rows of one file apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import datautil, export
from tests.datasets.meta_tables import KINDS, read, run, write

HEADER = ["path", "start", "end", "text"]
ROWS = [
    ["a.mp4", "0", "10", "one"],
    ["a.mp4", "10", "20", "two"],
    ["a.mp4", "10.0", "2e1", "two again"],
    ["a.mp4", "", "", "all"],
    ["b.mp4", "10", "", "rest"],
]


def _table(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """A table; in Parquet the times are numbers."""
    if path.suffix == ".csv":
        return write(path, header, rows)
    frame = pd.DataFrame(rows, columns=list(header))
    for name in {"start", "end"} & set(header):
        frame[name] = pd.to_numeric(frame[name])
    frame.to_parquet(path, index=False)
    return path


def _texts(folder: Path, table: Path, *arguments: str) -> list[str]:
    output = folder / "result.csv"
    assert datautil.main([str(table), *arguments, "--output", str(output)]) == 0
    return [row["text"] for row in read(output)]


@pytest.mark.parametrize("other_kind", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_compared_by_path_and_range(tmp_path: Path, kind: str, other_kind: str) -> None:
    table = _table(tmp_path / f"m.{kind}", ROWS)
    done = [["b.mp4", "10.000", "", "x", "9"], ["a.mp4", "10", "20", "x", "8"], ["a.mp4", "0", "10", " ", "7"]]
    other = str(_table(tmp_path / f"done.{other_kind}", done, [*HEADER, "aes"]))
    assert _texts(tmp_path, table, "--difference", other) == ["one", "all"]
    assert _texts(tmp_path, table, "--intersection", other) == ["two", "two again", "rest"]
    assert [row["aes"] for row in read(tmp_path / "result.csv")] == ["8", "8", "9"]
    assert _texts(tmp_path, table, "--difference", other, "--whole_files") == []
    assert _texts(tmp_path, table, "--remove-path-duplication") == ["one", "two", "all", "rest"]
    assert _texts(tmp_path, table, "--remove-path-duplication", "--whole-files") == ["one", "rest"]


def test_a_table_without_ranges_is_compared_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "m.csv", ROWS)
    other = str(write(tmp_path / "scores.csv", ["path", "aes"], [["a.mp4", "5"]]))
    assert _texts(tmp_path, table, "--intersection", other) == ["one", "two", "two again", "all"]
    assert f"{other} has no column start or end, so rows are compared by their path alone" in capsys.readouterr().out
    assert _texts(tmp_path, table, "--key", "text", "--difference", str(table)) == []


def test_columns_that_are_no_times_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(_table(tmp_path / "m.csv", [["a.mp4", "1", "2", "x"], ["a.mp4", "intro", "", "y"]]))
    output = ["--output", str(tmp_path / "out.csv")]
    for arguments in (["--difference", table], ["--remove-path-duplication"], ["--path-to-id"]):
        assert datautil.main([table, *arguments, *output]) == 2
        message = capsys.readouterr().err
        assert "column 'start', row 1: 'intro'" in message and "--whole_files" in message
        assert datautil.main([table, *arguments, "--whole_files", *output]) == 0
    text = ["--to", "jsonl", "--output", str(tmp_path / "out.jsonl")]
    assert export.main([table, *text]) == 2 and not (tmp_path / "out.jsonl").exists()
    assert "'intro'" in capsys.readouterr().err
    assert export.main([table, *text, "--whole_files"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_captions_of_parts_go_to_files_of_their_own_and_back(tmp_path: Path, kind: str) -> None:
    clip = str(tmp_path / "a.mp4")
    rows = [[clip, "0", "1.5", "one"], [clip, "1.5", "", "two"], [clip, "", "", "all"]]
    table = _table(tmp_path / f"m.{kind}", rows)
    assert export.main([str(table), "--to", "txt"]) == 0
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == {
        "a_0.000-1.500.txt": "one",
        "a_1.500-end.txt": "two",
        "a.txt": "all",
    }
    bare = _table(tmp_path / f"bare.{kind}", [[*row[:3], ""] for row in rows])
    assert _texts(tmp_path, bare, "--load-caption", "txt", "--path-to-id") == ["one", "two", "all"]
    assert [row["id"] for row in read(tmp_path / "result.csv")] == ["a_0.000-1.500", "a_1.500-end", "a"]


def test_a_file_is_never_written_for_two_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["a.mp4", "0", "1", "one"], ["a_0.000-1.000.mp4", "", "", "two"]]
    table = _table(tmp_path / "m.csv", rows)
    assert export.main([str(table), "--to", "txt", "--output", str(tmp_path / "out")]) == 2
    assert "different captions would be written to one file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_records_have_the_range_as_numbers(tmp_path: Path, kind: str) -> None:
    table = str(_table(tmp_path / f"m.{kind}", ROWS))
    output = tmp_path / "out.json"
    assert export.main([table, "--to", "jsonl", "--output", str(output)]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    times = [(0.0, 10.0), (10.0, 20.0), (10.0, 20.0), (None, None), (10.0, None)]
    assert [(one["start"], one["end"]) for one in records] == times
    assert export.main([table, "--to", "sharegpt", "--output", str(output), "--overwrite"]) == 0
    records = json.loads(output.read_text())
    assert [(one.get("start"), one.get("end")) for one in records] == times
    assert "start" not in records[3] and len({one["id"] for one in records}) == 5


def test_columns_of_a_run_about_whole_files_are_not_times(tmp_path: Path) -> None:
    table = _table(tmp_path / "m.csv", [["a.mp4", "intro", "2", "x"]])
    keys = (
        "captioned_in_this_run seconds clips_per_second tokens_per_second truncated workers backends fingerprint "
        "options versions"
    )
    (tmp_path / "m_report.json").write_text(json.dumps({key: {} for key in keys.split()}))
    output = tmp_path / "out.jsonl"
    assert export.main([str(table), "--to", "jsonl", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["start"] == "intro"


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_does_not_pass_off_a_file_as_a_part_of_it(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("webdataset")
    import webdataset

    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"the whole file")
    table = _table(tmp_path / f"m.{kind}", [[str(clip), "1", "", "one"], [str(clip), "", "", "all"]])
    assert export.main([str(table), "--to", "webdataset", "--output", str(tmp_path / "out")]) == 0
    shard = str(tmp_path / "out" / "000000.tar")
    part, whole = webdataset.WebDataset([shard], shardshuffle=False).decode()
    assert (part["json"]["start"], part["json"]["end"], part["txt"]) == (1.0, None, "one")
    assert part["source.mp4"] == whole["mp4"] == b"the whole file" and "mp4" not in part


TIMESTAMPS = {
    "['0:00:01.234', '0:00:05.678']": [("1.234", "5.678")],
    '("00:00:00.000", "00:00:01.533")': [("0.0", "1.533")],
    "1.2-5.6": [("1.2", "5.6")],
    "1.5e0 - 2e1": [("1.5", "20.0")],
    "00:00:01.2 --> 00:00:03.4": [("1.2", "3.4")],
    "00:00:01,200 --> 01:00:03,400": [("1.2", "3603.4")],
    "1:02, 2:03.5": [("62.0", "123.5")],
    "[['0:00:01', '0:00:02'], ['0:00:02', '0:00:04.0004']]": [("1.0", "2.0"), ("2.0", "4.0")],
    "[('00:00:00.000', '00:00:01.533'), ('00:00:01.533', '00:00:02.000'),]": [("0.0", "1.533"), ("1.533", "2.0")],
    "[[0, 1.5], [1.5, 3]]": [("0.0", "1.5"), ("1.5", "3.0")],
    "[]": [("", "")],
    "": [("", "")],
}


def test_timestamps_of_scene_tools(tmp_path: Path) -> None:
    rows = [[f"{i}.mp4", f"note {i}", cell] for i, cell in enumerate(TIMESTAMPS)]
    found = run(tmp_path, "csv", "--timestamp-to-range", rows=rows, header=["path", "text", "timestamp"])
    expected = [(f"{i}.mp4", *pair) for i, pairs in enumerate(TIMESTAMPS.values()) for pair in pairs]
    assert [(row["path"], row["start"], row["end"]) for row in found] == expected
    assert {row["timestamp"] for row in found} == set(TIMESTAMPS)
    assert run(tmp_path, "csv", "--timestamp", rows=rows, header=["path", "text", "timestamp"]) == found


def test_timestamps_of_a_parquet_table_with_lists(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pd.DataFrame({"path": ["a", "b"], "timestamp": [[["0:01", "0:02"], ["0:02", "0:03"]], None]}).to_parquet(source)
    output = tmp_path / "out.parquet"
    assert datautil.main([str(source), "--timestamp-to-range", "--output", str(output)]) == 0
    columns = pq.read_table(output, columns=["start", "end"]).to_pydict()
    assert columns == {"start": [1.0, 2.0, None], "end": [2.0, 3.0, None]}


WRONG = [
    "later", "1", "1, 2, 3", "[1, 2, 3]", "[[1, 2], [3]]", "[[1, 2], 3]", "0:00:61 - 0:02", "0:99:00 - 2",
    "1:2:3:4-5", "1 2", "0:00:01:12, 0:00:02:03", "{'start': 1}", "nan-2",
]  # fmt: skip


@pytest.mark.parametrize("cell", WRONG)
def test_a_timestamp_in_another_form_is_a_usage_error(
    tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.csv", ["path", "timestamp"], [["a", "1-2"], ["b", cell]])
    assert datautil.main([str(source), "--timestamp-to-range", "--output", str(tmp_path / "out.csv")]) == 2
    message = capsys.readouterr().err
    assert f"column 'timestamp', row 1: {cell!r} is not understood" in message and "0:01:23.456" in message


def test_existing_times_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.csv", ["path", "timestamp", "start"], [["a", "1-2", "5"]])
    assert datautil.main([str(source), "--timestamp-to-range", "--output", str(tmp_path / "out.csv")]) == 2
    assert "'start'" in capsys.readouterr().err


def test_time_codes_become_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["a", "0:01:02.5", "1:03"], ["b", "7", ""]]
    found = run(tmp_path, "csv", "--timecode-to-seconds", rows=rows, header=["path", "start", "end"])
    assert [(row["start"], row["end"]) for row in found] == [("62.5", "63.0"), ("7.0", "")]
    for header, part in ((["path", "start", "x"], "row 0: 'soon'"), (["path", "x", "y"], "needs a column 'start'")):
        source = write(tmp_path / "wrong.csv", header, [["a", "soon", ""]])
        assert datautil.main([str(source), "--timecode-to-seconds", "--output", str(tmp_path / "no.csv")]) == 2
        assert part in capsys.readouterr().err
