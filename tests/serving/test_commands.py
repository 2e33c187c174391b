"""The commands that ask a running server: their captions are those of the offline command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.serving_runs import RunningServer
from tests.joined_video import joined_video

ROOT = Path(__file__).parents[2]
LOSS = ["--jpeg_quality", "95"]

pytestmark = pytest.mark.model


def test_caption_api_and_caption_write_the_same_captions(
    tiny_server: RunningServer, folder: Path, rows: list[dict[str, str]]
) -> None:
    command = [sys.executable, str(ROOT / "pipeline" / "captioning" / "caption_api.py"), str(folder / "meta.csv")]
    flags = [
        "--base_url",
        tiny_server.base_url,
        "--send",
        "video",
        "--num_frames",
        "4",
        "--output",
        str(folder / "api.csv"),
    ]
    done = subprocess.run([*command, *flags], env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with (folder / "api.csv").open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row["truth"] for row in rows]


@pytest.mark.parametrize("send", ["file", "frames", "images"])
def test_the_client_prints_the_captions(tiny_server: RunningServer, rows: list[dict[str, str]], send: str) -> None:
    """Frames as JPEG lose a little, so a caption may differ."""
    paths = [row["path"] for row in rows]
    flags = ["--send", send, "--json", *(["--num_frames", "4"] if send != "file" else []), *LOSS]
    output = _client(tiny_server, "caption", *paths, *flags)
    captions = {line["index"]: line["caption"] for line in map(json.loads, output.splitlines())}
    exact = sum(captions[number] == row["truth"] for number, row in enumerate(rows))
    assert exact == len(rows) if send == "file" else exact >= len(rows) - 1


def test_find_gives_the_time_ranges_of_what_is_asked(tiny_server: RunningServer, tmp_path: Path) -> None:
    parts = joined_video(tmp_path / "joined.mp4", clips=8, seed=3)
    colours = {word for _, _, caption in parts for word in caption.split() if word in ("red", "green", "yellow")}
    colour = min(colours, key=lambda one: sum(one in caption.split() for _, _, caption in parts))
    output = _client(tiny_server, "find", colour, str(tmp_path / "joined.mp4"), "--scenes", "--json", *LOSS)
    *segments, end = map(json.loads, output.splitlines())
    assert len(segments) == end["segments"] == len(parts) and end["failed"] == 0
    expected: list[list[float]] = []
    for start, stop, caption in parts:
        if colour not in caption.replace(",", "").replace(".", "").split():
            continue
        if expected and expected[-1][1] == start:
            expected[-1][1] = stop
        else:
            expected.append([start, stop])
    found = [[one["start"], one["end"]] for one in end["found"]]
    assert len(found) == len(expected) > 0
    assert found == [pytest.approx(one, abs=0.2) for one in expected]


def _client(server: RunningServer, *arguments: str) -> str:
    """The output of a client that succeeds."""
    command = [sys.executable, "-m", "pipeline.client", *arguments, "--base_url", server.base_url]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
