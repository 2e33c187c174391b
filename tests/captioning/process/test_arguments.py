"""Commands of one process report a usage error in one line on stderr, with exit code 2."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipeline.captioning.monitor import progress
from pipeline.captioning.process.arguments import byte_size
from pipeline.datasets import convert, datautil

COMMANDS = {"datautil": datautil.main, "convert": convert.main, "progress": progress.main}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("datautil", [], "the following arguments are required: input (see --help)"),
        ("datautil", ["in.csv", "--output", "o.csv", "--no-such"], "unrecognized arguments: --no-such (see --help)"),
        ("datautil", ["in.csv", "--output", "o.csv", "--head", "x"], "--head: 'x' is not a whole number"),
        ("datautil", ["in.csv", "--output", "o.csv", "--head", "0"], "--head: 0 is less than 1"),
        ("datautil", ["in.csv", "--output", "o.csv", "--fmin", "many"], "--fmin: 'many' is not a number"),
        ("datautil", ["in.csv", "--output", "o.csv", "--fmin", "nan"], "--fmin: nan is out of bounds"),
        (
            "datautil",
            ["in.csv", "--output", "o.csv", "--timeout", "0"],
            "--timeout: 0 is out of bounds: must be above 0",
        ),
        ("datautil", ["in.csv", "--output", "o.csv", "--num-workers", "0"], "--num-workers/--num_workers: 0 is less"),
        ("convert", [], "the following arguments are required: kind, folder, --output"),
        ("convert", ["sound", ".", "--output", "o.csv"], "invalid choice: 'sound'"),
        ("convert", ["video", ".", "--output", "o.json"], "none of .csv, .csv.gz, .parquet, .pq"),
        ("progress", ["x" * 300], "no run found"),
        ("progress", [], "the following arguments are required: meta"),
        ("progress", ["m.csv", "--interval", "-1"], "--interval: -1 is out of bounds: must be above 0"),
    ],
)
def test_usage_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("path,num_frames\na.mp4,3\n")
    assert COMMANDS[command](arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"{command}: ") and message in output.err and output.err.count("\n") == 1
    assert output.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_with_exit_code_0(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        COMMANDS[command](["--help"])
    assert exit_info.value.code == 0 and f"usage: {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1000", 1000), ("500M", 500 * 2**20), ("2g", 2**31), ("1.5 GiB", 3 * 2**29), ("4KB", 4096)],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.1", "-1", "M", "1,5G", "2X", "2 G B", "nan", "1e9"])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        byte_size(text)
