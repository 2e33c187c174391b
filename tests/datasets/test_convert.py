"""A table from a folder; and the recipe of docs/datautil.md: merge, compare, caption the remaining rows."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.datasets import convert, datautil
from scripts import launched
from scripts.clip_world import random_clip, write_clips

TINY = Path(__file__).parents[2] / "pretrained_models" / "pllava-tiny"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_are_found_in_path_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b/2.MP4", "b/1.webm", "a.mkv", "ü 猫/x,y.mov", "b/3.jpg", "b/notes.txt", ".hidden.mp4", "c.d.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    (tmp_path / "clips" / "loop").symlink_to(tmp_path / "clips")
    Path(os.fsdecode(bytes(tmp_path / "clips" / "bad") + b"\xff.mp4")).touch()
    output = tmp_path / "meta.csv"
    assert convert.main(["video", str(tmp_path / "clips"), "--output", str(output)]) == 0
    assert "not UTF-8" in capsys.readouterr().err
    rows = _rows(output)
    assert [row["relpath"] for row in rows] == ["a.mkv", "b/1.webm", "b/2.MP4", "c.d.mp4", "ü 猫/x,y.mov"]
    assert [row["id"] for row in rows] == ["a", "1", "2", "c.d", "x,y"]
    assert rows[0]["path"] == str(tmp_path / "clips" / "a.mkv")
    packed = tmp_path / "meta.csv.gz"
    assert convert.main(["video", str(tmp_path / "clips"), "--output", str(packed)]) == 0
    assert gzip.decompress(packed.read_bytes()) == output.read_bytes()


def test_a_table_of_still_images(tmp_path: Path) -> None:
    images = ["a.JPG", "b.jpeg", "c.png", "d.webp", "e.bmp", "f.tif", "x/g.TIFF"]
    (tmp_path / "files" / "x").mkdir(parents=True)
    for name in (*images, "clip.gif", "clip.mp4", "notes.txt"):
        (tmp_path / "files" / name).touch()
    folder, output = str(tmp_path / "files"), tmp_path / "images.csv"
    assert convert.main(["image", folder, "--output", str(output)]) == 0
    assert [(row["relpath"], row["path"]) for row in _rows(output)] == [(name, f"{folder}/{name}") for name in images]
    videos, both = tmp_path / "videos.parquet", tmp_path / "both.csv"
    assert convert.main(["video", folder, "--output", str(videos)]) == 0
    assert datautil.main([str(output), str(videos), "--output", str(both), "--vid-only"]) == 0
    assert [row["relpath"] for row in _rows(both)] == ["clip.gif", "clip.mp4"]


def test_animated_images_are_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, only = tmp_path / "files", tmp_path / "only"
    folder.mkdir()
    only.mkdir()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    animation: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    for name in ("moving.png", "moving.WEBP"):
        frames[0].save(folder / name, **animation)
    frames[0].save(only / "x.webp", **animation)
    frames[0].save(folder / "named.png", "GIF")
    frames[0].save(folder / "one.webp", save_all=True)
    for name in ("still.png", "still.webp", "still.jpg"):
        frames[0].save(folder / name)
    (folder / "broken.png").write_bytes((folder / "moving.png").read_bytes()[:30])
    (folder / "clip.mp4").touch()

    def listed(kind: str) -> list[str]:
        output = tmp_path / f"{kind}.csv"
        assert convert.main([kind, str(folder), "--output", str(output)]) == 0
        return [row["relpath"] for row in _rows(output)]

    assert listed("image") == ["broken.png", "one.webp", "still.jpg", "still.png", "still.webp"]
    left_out = "5 images; left out 3 animated .png and .webp files, which `convert video` lists\n"
    assert capsys.readouterr().out.endswith(left_out)
    assert listed("video") == ["clip.mp4", "moving.WEBP", "moving.png", "named.png"]
    assert capsys.readouterr().out.endswith("4 videos, of which 3 animated .png and .webp files\n")
    assert convert.main(["image", str(only), "--output", str(tmp_path / "none.csv")]) == 2
    assert "it has 1 animated .png and .webp files, which are clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "output", "message"),
    [
        ("none", "out.csv", "not a folder"),
        ("empty", "out.csv", "contains no file"),
        ("full", "existing.csv", "exists already"),
        ("full", "none/out.csv", "none, does not exist"),
    ],
)
def test_usage_error(
    tmp_path: Path, folder: str, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.mp4").touch()
    (tmp_path / "existing.csv").touch()
    assert convert.main(["video", str(tmp_path / folder), "--output", str(tmp_path / output)]) == 2
    assert message in capsys.readouterr().err


def test_recipe_merge_difference_caption_the_remaining_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of docs/datautil.md on six clips: three have a caption, and one has failed."""
    monkeypatch.chdir(tmp_path)
    meta = write_clips(tmp_path / "clips", (random_clip(8, i) for i in range(6)))
    truth = {row["path"]: row["truth"] for row in _rows(meta)}
    assert convert.main(["video", "clips", "--output", "DATA.csv"]) == 0
    rows = _rows(tmp_path / "DATA.csv")
    for part, chosen in (("part0", rows[:2]), ("part1", rows[2:4])):
        with (tmp_path / f"DATA_caption_{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*rows[0], "text"])
            writer.writerows([*row.values(), truth[row["path"]] if row is not rows[3] else ""] for row in chosen)
    assert datautil.main(["DATA_caption_part*.csv", "--output", "DATA_caption.csv"]) == 0
    arguments = ["DATA.csv", "--difference", "DATA_caption.csv", "--output", "DATA_remaining.csv"]
    assert datautil.main(arguments) == 0
    assert [row["path"] for row in _rows(tmp_path / "DATA_remaining.csv")] == [row["path"] for row in rows[3:]]
    command = [sys.executable, launched.COMMAND, "DATA_remaining.csv", "--pretrained_model_name_or_path", str(TINY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    arguments = ["DATA_caption.csv", "DATA_remaining_caption.csv", "--remove-empty-caption", "--sort-ascending", "path"]
    assert datautil.main([*arguments, "--output", "DATA_all.csv"]) == 0
    assert {row["path"]: row["text"] for row in _rows(tmp_path / "DATA_all.csv")} == truth
