"""Every operation on small tables, CSV and Parquet, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets import datautil
from pipeline.datasets.catalogue import OPERATIONS
from scripts.datautil_page import PAGE, page
from tests.datasets.meta_tables import HEADER, KINDS, TABLE, read, run, write

KEPT = {
    "--path-subset /night/": [2],
    "--path_keep_substr /day/": [0, 1, 3],
    "--path-without /day/": [2, 4],
    "--remove-empty-path": [0, 1, 2, 3],
    "--remove-path-duplication": [0, 1, 2, 4],
    "--path_dedup": [0, 1, 2, 4],
    "--img-only": [2],
    "--vid-only": [0, 1, 3, 4],
    "--remove-empty-caption": [0, 2, 3, 4],
    "--remove-text-duplication": [0, 1, 2, 4],
    "--remove-url": [0, 1, 3, 4],
    "--fmin 48": [1, 4],
    "--fmax 47": [0, 2, 3],
    "--fsmin 3": [0, 1, 3, 4],
    "--fsmax 3": [0, 2, 3],
    "--hwmax 921600": [0, 2, 3],
    "--aesmin 5": [0, 2, 3],
    "--matchmin 20": [0, 3, 4],
    "--flowmin 1": [0, 3, 4],
    "--fpsmax 30": [0, 2, 3],
    "--secondsmin 0.5": [0, 1, 3],
    "--secondsmax 0.5": [4],
    "--ext": [],
    "--head 2": [0, 1],
    "--sort fps": [4, 1, 0, 3, 2],
    "--sort-ascending num_frames": [2, 0, 3, 4, 1],
    "--sort-ascending path": [0, 3, 1, 2, 4],
    "--fmin 16 --head 2 --fmax 20": [0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", KEPT)
def test_filters_and_sorting(tmp_path: Path, kind: str, arguments: str) -> None:
    everything = run(tmp_path, kind)
    assert run(tmp_path, kind, *arguments.split()) == [everything[row] for row in KEPT[arguments]]


CHANGED = {
    "--relpath /d": ("path", ["day/a.mp4", "day/ü 猫.mp4", "night/c.png", "day/a.mp4", ""]),
    "--abspath /e": ("path", ["/d/day/a.mp4", "/d/day/ü 猫.mp4", "/d/night/c.png", "/d/day/a.mp4", ""]),
    "--path-to-id": ("id", ["a", "ü 猫", "c", "a", ""]),
    "--append-text !": ("text", [f"{row[1]}!" if row[1] else "" for row in TABLE]),
    "--refine-llm-caption": (
        "text", ["A dog.", "", "A cat, see https://x.org/y", "A dog.", "A red house"]
    ),
    "--clean-caption": (
        "text", ["the video shows a dog.", "", "a cat, see", "the video shows a dog.", "in the image, a red house"]
    ),
    "--merge-cmotion": (
        "text",
        [
            "The video shows a dog. The camera is zooming in.",
            "",
            "A cat, see https://x.org/y",
            "The video shows a dog. The camera is zooming in.",
            "In the image, a red house",
        ],
    ),
    "--score-to-text": (
        "text",
        [
            "The video shows a dog. [aesthetic score: 5.2, motion score: 1.5]",
            "",
            "A cat, see https://x.org/y [aesthetic score: 6.5]",
            "The video shows a dog. [aesthetic score: 5.2, motion score: 1.5]",
            "In the image, a red house [motion score: 9.0]",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", CHANGED)
def test_changed_cells(tmp_path: Path, kind: str, arguments: str) -> None:
    before = run(tmp_path, kind)
    after = run(tmp_path, kind, *arguments.split())
    column, cells = CHANGED[arguments]
    assert [row.pop(column) for row in after] == cells
    assert after == [{name: cell for name, cell in row.items() if name != column} for row in before]


def test_abspath_is_the_inverse_of_relpath(tmp_path: Path) -> None:
    assert run(tmp_path, "csv", "--relpath", "/d", "--abspath", "/d") == run(tmp_path, "csv")


@pytest.mark.parametrize("kind", KINDS)
def test_operations_that_read_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 2**19)
    (tmp_path / "a.json").write_text(json.dumps({"caption": "from\nthe file"}))
    rows = [[str(tmp_path / name), "old", *TABLE[0][2:11], ""] for name in ("a.mp4", "b.mp4")]
    assert [row["filesize"] for row in run(tmp_path, kind, "--filesize", rows=rows)] == ["0.5", ""]
    assert len(run(tmp_path, kind, "--ext", rows=rows)) == 1
    assert [row["text"] for row in run(tmp_path, kind, "--load-caption", "json", rows=rows)] == [
        "from the file",
        "old",
    ]


def test_text_files_of_a_column_come_first(tmp_path: Path) -> None:
    for name, text in {"a.text_short.txt": "short a", "a.txt": "a", "b.txt": "b", "c.text_long.txt": "long"}.items():
        (tmp_path / name).write_text(text)
    rows = [[f"{tmp_path}/{name}.mp4", "old"] for name in "abc"]
    source, output = write(tmp_path / "in.csv", ["path", "text_short"], rows), tmp_path / "out.csv"
    arguments = [str(source), "--load-caption", "txt", "--column", "text_short", "--output", str(output)]
    assert datautil.main(arguments) == 0
    assert [row["text_short"] for row in read(output)] == ["short a", "b", "old"]


URLS = ["https://h/day/a.mp4?x=/b.png#t", "s3://bucket/k?1.mp4", "HTTP://h/c.PNG?x=1.mp4", "/d/local.mp4", ""]


@pytest.mark.parametrize(
    ("arguments", "column", "cells"),
    [
        ("--relpath /d", "path", [*URLS[:3], "local.mp4", ""]),
        ("--relpath /d --abspath /e", "path", [*URLS[:3], "/e/local.mp4", ""]),
        ("--path-to-id", "id", ["a", "k?1", "c", "local", ""]),
        ("--img-only", "path", URLS[2:3]),
        ("--vid-only", "path", [*URLS[:2], *URLS[3:]]),
        ("--ext", "path", URLS[:3]),
        ("--filesize", "filesize", [""] * 5),
        ("--load-caption txt", "text", ["old"] * 5),
        ("--info", "width", [""] * 5),
    ],
)
def test_urls_are_neither_files_nor_missing(
    tmp_path: Path, arguments: str, column: str, cells: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in URLS[:3]:  # files that would be found if a URL were taken for a path
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(url, "PNG")
        Path(url).with_suffix(".txt").write_text("no caption")
    rows = [[url, "old", *TABLE[0][2:-1], ""] for url in URLS]
    assert [row[column] for row in run(tmp_path, "csv", *arguments.split(), rows=rows)] == cells


def test_another_column_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = ["path", "text_short", "text_long"]
    rows = [["a.mp4", "The video shows a dog.", "Long, a."], ["b.mp4", "", "Long, b."], ["c.mp4", "C", ""]]
    source, output = write(tmp_path / "in.csv", header, rows), tmp_path / "out.csv"

    def result(*arguments: str) -> list[list[str]]:
        assert datautil.main([str(source), *arguments, "--output", str(output)]) == 0
        return [list(row.values()) for row in read(output)]

    short = ["--column", "text_short"]
    assert result("--refine-llm-caption", *short) == [["a.mp4", "A dog.", "Long, a."], *rows[1:]]
    assert result("--remove-empty-caption", *short) == [rows[0], rows[2]]
    assert result("--difference", str(source), *short) == [rows[1]]
    assert result("--difference", str(source), "--column", "text_long") == [rows[2]]
    assert result("--difference", str(source)) == []
    assert "has no column 'text' (--column), so all its rows count as done" in capsys.readouterr().out
    assert datautil.main([str(source), "--clean-caption", "--output", str(output)]) == 2
    assert "--clean-caption needs a column 'text'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_and_shuffling_depend_on_the_seed(tmp_path: Path, kind: str) -> None:
    rows = [[f"/{i:03}.mp4", f"text {i}", *TABLE[0][2:]] for i in range(100)]
    paths = [row[0] for row in rows]
    sampled, again, other = (
        [row["path"] for row in run(tmp_path, kind, "--sample", "10", "--seed", seed, rows=rows)] for seed in "112"
    )
    assert sampled == again != other
    assert len(set(sampled)) == 10 and sampled == sorted(sampled)
    shuffled = [row["path"] for row in run(tmp_path, kind, "--shuffle", rows=rows)]
    assert shuffled != paths and sorted(shuffled) == paths


@pytest.mark.parametrize("kind", KINDS)
def test_difference_keeps_failed_rows(tmp_path: Path, kind: str) -> None:
    done = write(
        tmp_path / f"done.{kind}",
        ["path", "text", "score"],
        [["/d/day/a.mp4", "a dog", "1"], ["/d/night/c.png", " ", "2"]],
    )
    assert [row["path"] for row in run(tmp_path, kind, "--difference", str(done))] == [
        "/d/day/ü 猫.mp4",
        "/d/night/c.png",
        "",
    ]
    both = run(tmp_path, kind, "--path_intersect", str(done))
    assert [(row["path"], row["text"], row["score"]) for row in both] == [("/d/day/a.mp4", TABLE[0][1], "1")] * 2
    seen = write(tmp_path / f"seen.{kind}", ["path"], [["/d/night/c.png"]])
    assert len(run(tmp_path, kind, "--path-subtract", str(seen))) == 4


def test_tables_are_compared_by_another_key(tmp_path: Path) -> None:
    done = write(tmp_path / "done.csv", ["id"], [["a"]])
    remaining = run(tmp_path, "csv", "--path-to-id", "--difference", str(done), "--key", "id")
    assert [row["id"] for row in remaining] == ["ü 猫", "c", ""]


def test_tokens_are_counted(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "pretrained_models" / "pllava-tiny"
    counted = run(tmp_path, "csv", "--count-num-token", str(folder))
    assert [int(row["text_len"]) > 1 for row in counted] == [True, False, True, True, True]


def test_language_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ["a.mp4", text, *TABLE[0][2:]]
        for text in ("A dog runs over the green field.", "Ein Hund läuft über das Feld.", "")
    ]
    try:
        import lingua  # noqa: F401
    except ImportError:
        source = write(tmp_path / "in.csv", HEADER, rows)
        assert datautil.main([str(source), "--lang", "en", "--output", str(tmp_path / "out.csv")]) == 2
        assert "pip install" in capsys.readouterr().err
    else:
        assert [row["text"] for row in run(tmp_path, "csv", "--lang", "en", rows=rows)] == [rows[0][1], ""]


VALUES = {
    "difference": "other.csv",
    "intersection": "other.csv",
    "load-caption": "json",
    "count-num-token": "TOKENIZER",
    "sort": "path",
    "sort-ascending": "path",
    "lang": "en",
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_accepts_an_empty_table_and_names_a_missing_column(
    tmp_path: Path, operation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if operation.name == "lang":
        pytest.importorskip("lingua")
    tiny = Path(__file__).parents[2] / "pretrained_models" / "pllava-tiny"
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other.csv", ["path"], [])
    value = VALUES.get(operation.name, "1").replace("TOKENIZER", str(tiny))
    arguments = [operation.flag, *([value] if operation.value else [])]
    for kind in KINDS:
        assert run(tmp_path, kind, *arguments, rows=[], header=[*HEADER, "timestamp", "start"]) == []
    if operation.needs:
        write(tmp_path / "bare.csv", ["other"], [["1"]])
        assert datautil.main(["bare.csv", *arguments, "--output", "none.csv"]) == 2
        message = capsys.readouterr().err
        needed = "path" if operation.needs[0] == "key" else operation.needs[0]
        assert f"{operation.flag} needs a column '{needed}'" in message and "columns: 'other'" in message
        assert not (tmp_path / "none.csv").exists()


def test_the_error_for_a_missing_column_names_the_operation_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.csv", ["path"], [["a.mp4"]])
    assert datautil.main([str(source), "--fmin", "3", "--output", str(tmp_path / "out.csv")]) == 2
    assert "--info or --video-info makes it" in capsys.readouterr().err


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.datautil_page"
