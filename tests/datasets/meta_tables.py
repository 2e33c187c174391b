"""Small meta tables, and a function that runs `datautil` on them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.datasets import datautil

KINDS = ["csv", "parquet"]
HEADER = [
    "path",
    "text",
    "num_frames",
    "height",
    "width",
    "fps",
    "duration",
    "aes",
    "match",
    "flow",
    "cmotion",
    "filesize",
]
FIRST = [
    "/d/day/a.mp4",
    "The video shows a dog.",
    "16",
    "720",
    "1280",
    "24.0",
    "0.66",
    "5.25",
    "21",
    "1.5",
    "zoom in",
    "3.0",
]
TABLE = [
    FIRST,
    ["/d/day/ü 猫.mp4", "", "300", "1080", "1920", "59.94", "5.0", "4.0", "19", "0.2", "static", "80.5"],
    ["/d/night/c.png", "A cat, see https://x.org/y", "1", "64", "64", "", "", "6.5", "", "", "unknown", "0.1"],
    FIRST,
    ["", "In the image, a red house", "48", "2160", "3840", "120", "0.4", "x", "30", "9", "", "12"],
]


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    else:
        columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
        frame = pd.DataFrame(columns, dtype="string")
        for name in ("num_frames", "height", "width", "fps", "duration", "match", "flow", "filesize"):
            if name in frame:
                frame[name] = pd.to_numeric(frame[name].where(frame[name] != "")).astype("Float64")
        frame.to_parquet(path, index=False)
    return path


def read(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    frame = pd.read_parquet(path)
    cells = frame.astype(object).where(frame.notna(), "")
    return [{str(name): str(cell) for name, cell in row.items()} for row in cells.to_dict("records")]


def run(
    folder: Path,
    kind: str,
    *arguments: str,
    rows: Sequence[Sequence[str]] = TABLE,
    header: Sequence[str] = HEADER,
) -> list[dict[str, str]]:
    source = write(folder / f"in.{kind}", header, rows)
    output = folder / f"out.{kind}"
    assert datautil.main([str(source), *arguments, "--output", str(output)]) == 0
    return read(output)
