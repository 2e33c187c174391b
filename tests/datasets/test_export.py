"""Export to JSON Lines and conversations, and usage errors of all exports."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.datasets import export
from pipeline.datasets.exports import json_lines
from tests.datasets.meta_tables import KINDS, read, write

HEADER = ["path", "id", "text", "text_long", "q"]
ROWS = [
    ["/d/a.mp4", "007", 'A "dog", runs\nfast\u2028', "long a", ""],
    ["/d/ü 猫.PNG", "1e3", "", "long b \\", "Own question?"],
    ["https://h/c.webp?x=1", "NA", "{short} c", "", " "],
    ["/d/d.mp4", "", "", " ", "unused"],
]


def _run(folder: Path, kind: str, *arguments: str) -> int:
    return export.main([str(write(folder / f"meta.{kind}", HEADER, ROWS)), *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_json_lines_are_read_by_pandas(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    assert _run(tmp_path, kind, "--to", "jsonl", "--output", str(output)) == 0
    frame = pd.read_json(output, lines=True, dtype=False, convert_dates=False)
    assert frame.columns.tolist() == HEADER
    assert frame.to_numpy().tolist() == [ROWS[0], ROWS[2]]
    assert capsys.readouterr().out == f"wrote {output}: 2 rows; 2 rows without a caption\n"
    both = ["--column", "text", "--column", "text_long", "--columns", "text_long,path", "--overwrite"]
    assert _run(tmp_path, kind, "--to", "jsonl", "--output", str(output), *both) == 0
    frame = pd.read_json(output, lines=True, dtype=False)
    assert frame.to_dict("records") == [{"text_long": row[3], "path": row[0]} for row in ROWS[:3]]
    assert (tmp_path / "out.jsonl.bak").exists()


def test_cells_of_parquet_keep_their_types(tmp_path: Path) -> None:
    columns = {
        "path": ["a", "b"],
        "text": ["t\0", "u"],
        "whole": pa.array([7, None], pa.int16()),
        "float": [8.0, float("nan")],
        "single": pa.array([0.1, None], pa.float32()),
        "truth": [True, None],
        "list": [[1, 2], None],
        "struct": [{"x": 1.5}, None],
        "bytes": [b"\xff", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert export.main([str(tmp_path / "m.parquet"), "--to", "jsonl", "--output", str(tmp_path / "o.jsonl")]) == 0
    first, second = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    assert list(first.values()) == ["a", "t\ufffd", 7, 8.0, 0.1, True, [1, 2], {"x": 1.5}, "ff"]
    assert list(second.values()) == ["b", "u", *[None] * 7]


def test_conversations(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    assert _run(tmp_path, "csv", "--to", "sharegpt", "--output", str(output)) == 0
    video, image = json.loads(output.read_text(encoding="utf-8"))
    assert video == {
        "id": "000000000",
        "video": "/d/a.mp4",
        "conversations": [
            {"from": "human", "value": f"<video>\n{DEFAULT_QUESTION}"},
            {"from": "gpt", "value": ROWS[0][2]},
        ],
    }
    assert image["image"] == "https://h/c.webp?x=1" and "video" not in image
    assert image["conversations"][0]["value"].startswith("<image>\n")


@pytest.mark.parametrize("kind", KINDS)
def test_questions_of_columns_and_rows(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out.json"
    asks = ["--column", "text", "--column", "text_long", "--question", "Short?", "--question", "Long?"]
    assert _run(tmp_path, kind, "--to", "sharegpt", "--output", str(output), *asks, "--question_column", "q") == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert [(record["id"], *(turn["value"] for turn in record["conversations"])) for record in records] == [
        ("000000000_text", "<video>\nShort?", ROWS[0][2]),
        ("000000000_text_long", "<video>\nLong?", "long a"),
        ("000000001_text_long", "<image>\nOwn question?", "long b \\"),
        ("000000002_text", "<image>\nShort?", "{short} c"),
    ]


def test_a_caption_with_a_placeholder_costs_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "m.csv", ["path", "text"], [["a.mp4", "a sign says <image>"], ["b.mp4", "b"]])
    assert export.main([str(table), "--to", "sharegpt", "--output", str(tmp_path / "o.json")]) == 0
    assert [record["video"] for record in json.loads((tmp_path / "o.json").read_text())] == ["b.mp4"]
    assert "1 rows failed" in capsys.readouterr().out
    failures = read(tmp_path / "o.json_export_failures.csv")
    assert failures[0]["row"] == "0" and "contains <image>" in failures[0]["message"]


@pytest.mark.parametrize("format_name", ["jsonl", "sharegpt"])
def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    output.write_text("old")
    encode, count = json_lines.as_json, 0

    def interrupted(value: object) -> str:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return encode(value)

    arguments = ["--to", format_name, "--output", str(output), "--overwrite"]
    for module in ("json_lines", "conversations"):
        monkeypatch.setattr(f"pipeline.datasets.exports.{module}.as_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, "csv", *arguments)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta.csv", "out.json"]
    monkeypatch.undo()
    assert _run(tmp_path, "csv", *arguments) == 0
    assert (tmp_path / "out.json.bak").read_text() == "old"


@pytest.mark.parametrize("format_name", ["jsonl", "sharegpt", "webdataset", "txt"])
def test_a_fault_of_the_table_changes_nothing(
    tmp_path: Path, format_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "a.mp4").write_text("clip")
    for name in ("000000.tar", "index.json"):
        (tmp_path / "shards" / name).write_text("old")
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "out").write_text("old")
    (tmp_path / "m.csv").write_text(f"path,text\n{tmp_path}/a.mp4,new\nb.mp4,1,2\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    output = {"webdataset": ["--output", f"{tmp_path}/shards"], "txt": []}.get(
        format_name, ["--output", f"{tmp_path}/out"]
    )
    assert export.main([str(tmp_path / "m.csv"), "--to", format_name, "--overwrite", *output]) == 2
    assert "row 1 (line 3) has 3 cells" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.csv --to txt", "table none.csv does not exist"),
        ("meta.csv --output out", "--to"),
        ("meta.csv --to xml", "invalid choice: 'xml'"),
        ("bare.csv --to txt", "has no column 'text' of captions (--column); its columns: 'path', 'q'"),
        ("nopath.csv --to txt", "has no column 'path'"),
        ("twice.csv --to txt", "several columns named 'a'"),
        ("meta.csv --to txt --column text --column text", "name each column once"),
        ("meta.csv --to txt --column text --column odd/name", "can't be part of a file name"),
        ("meta.csv --to txt --column text --column _x", "must begin with a letter"),
        ("meta.csv --to webdataset --output w --column text --column TEXT", "differ in capital letters only"),
        ("meta.csv --to txt --root /d", "--root needs --output"),
        ("meta.csv --to txt --output meta.csv", "is not a folder"),
        ("meta.csv --to txt --output none/sub", "folder of --output, none, does not exist"),
        ("meta.csv --to txt --shard_size 3", "--shard_size is a flag of --to webdataset, not of --to txt"),
        ("meta.csv --to jsonl --keep_suffix --output o", "--keep_suffix is a flag of --to txt"),
        ("meta.csv --to jsonl", "--to jsonl needs --output"),
        ("meta.csv --to jsonl --output o --columns path,none", "has no column 'none' (--columns)"),
        ("meta.csv --to jsonl --output old", "exists already"),
        ("meta.csv --to jsonl --output meta.csv --overwrite", "is the table"),
        ("meta.csv --to jsonl --output none/o", "folder of --output, none, does not exist"),
        ("meta.csv --to jsonl --output folder", "is not a regular file"),
        ("meta.csv --to jsonl --output " + "x" * 201, "longer than 200 bytes"),
        ("meta.csv --to sharegpt --output o --question a --question b", "2 times --question for 1 columns"),
        ("meta.csv --to sharegpt --output o --question <video>", "contains <video>"),
        ("meta.csv --to sharegpt --output o --question=", "it is empty"),
        ("meta.csv --to sharegpt --output o --question_column none", "has no column 'none' (--question_column)"),
        ("meta.csv --to webdataset --output shards", "1 files of an earlier export, for example 000003.tar"),
        ("meta.csv --to webdataset --output o --shard_size 0", "less than 1"),
    ],
)
def test_usage_error_is_one_line(
    tmp_path: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "meta.csv", ["path", "text", "TEXT", "odd/name", "_x"], [["a.mp4", "1", "2", "3", "4"]])
    write(tmp_path / "bare.csv", ["path", "q"], [["a.mp4", "1"]])
    write(tmp_path / "nopath.csv", ["text"], [["1"]])
    write(tmp_path / "twice.csv", ["path", "a", "a", "text"], [["1"] * 4])
    (tmp_path / "folder").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000003.tar").touch()
    (tmp_path / "old").touch()
    before = sorted(tmp_path.rglob("*"))
    assert export.main(arguments.split(" ")) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
