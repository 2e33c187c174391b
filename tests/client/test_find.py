"""`pipeline.client find` against a stub that says which colour it sees: ranges, output, exit codes, usage errors."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from starlette.responses import Response

from pipeline.client import command
from tests.client.stub_server import StubServer, completion, media, refusal

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
SHOWN = ["red", "red", "green", "blue", "red"]
"""The colour of each second of the video."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("find") / "colours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in SHOWN:
            image = np.full((48, 64, 3), COLOURS[colour], np.uint8)
            for _ in range(8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


async def _names_the_colour(body: dict[str, Any]) -> Response:
    """The colour of the first frame."""
    _, url = media(body)[0]
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
        pixel = np.asarray(picture.convert("RGB"), float).mean(axis=(0, 1))
    name = min(COLOURS, key=lambda colour: float(np.abs(pixel - COLOURS[colour]).sum()))
    return completion(f"A {name} surface fills the frame.")


async def _refuses_green(body: dict[str, Any]) -> Response:
    answer = await _names_the_colour(body)
    return refusal(400, "no green") if b"green" in bytes(answer.body) else answer


def _find(server: StubServer, video: object, query: str, *flags: str) -> int:
    return command.main(["find", query, str(video), "--base_url", server.url, *flags])


def _records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_time_ranges_that_match(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(_names_the_colour).running() as server:
        assert _find(server, video, "surface NOT (green OR blue)", "--every", "0.5", "--num_frames", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "found in 6 of 10 segments:", "0:00:00.000 to 0:00:02.000", "0:00:04.000 to 0:00:05.000"
    ]  # fmt: skip
    captions = sorted(lines[:-3], key=lambda line: line[2:])
    assert captions[3:5] == [
        "* 0:00:01.500 to 0:00:02.000  A red surface fills the frame.",
        "  0:00:02.000 to 0:00:02.500  A green surface fills the frame.",
    ]
    assert len(captions) == 10 and len(server.bodies) == 10


def test_json(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(_names_the_colour).running() as server:
        assert _find(server, video, "blue", "--frames", "2", "--fps", "2", "--json", "--send", "images") == 0
    *segments, last = _records(capsys.readouterr().out)
    assert last == {"found": [{"start": 3.0, "end": 4.0}], "segments": 5, "matching": 1, "failed": 0}
    segments.sort(key=lambda record: record["start"])
    caption = {"caption": "A blue surface fills the frame.", "matches": True, "marks": [[2, 6]]}
    assert segments[3] == {"start": 3.0, "end": 4.0, **caption}
    assert [record["matches"] for record in segments] == [colour == "blue" for colour in SHOWN]


def test_not_found_and_failures(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with grep: 1 for nothing found, 2 if it is not known for all segments."""
    with StubServer(_names_the_colour).running() as server:
        assert _find(server, video, "zebra", "--every", "2.5") == 1
        assert capsys.readouterr().out.splitlines()[-1] == "not found in 2 segments"
    with StubServer(_refuses_green).running() as server:
        assert _find(server, video, "red", "--every", "1") == 2
        out, err = capsys.readouterr()
        assert "found in 3 of 5 segments; 1 segment has no caption:" in out
        assert "0:00:02.000 to 0:00:03.000" in err and "no green" in err
        assert _find(server, video, "red", "--every", "1", "--json") == 2
        records = _records(capsys.readouterr().out)
        assert records[-1]["failed"] == 1 and sum("error" in record for record in records) == 1


def test_a_reader_that_has_enough_gets_no_error(video: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with StubServer(_names_the_colour).running() as server:
        arguments = ["find", "red", str(video), "--every", "1", "--base_url", server.url]
        command_line = [sys.executable, "-m", "pipeline.client", *arguments]
        done = subprocess.run(command_line, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, b"")  # it is not known whether it would have been found


def test_usage_errors_are_found_before_the_server_is_asked(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: Sequence[tuple[Sequence[str], str]] = [
        (["red", str(video)], "--every"),
        (["dog's", str(video), "--every", "1"], "must be in double quotes"),
        (["red", str(video), "--every", "1", "--send", "file"], "--send file would send the whole video"),
        (["red", str(video), "--frames", "4"], "needs --fps"),
    ]
    for arguments, message in cases:
        assert command.main(["find", *arguments, "--base_url", "http://127.0.0.1:9/v1"]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    with StubServer(_names_the_colour).running() as server:
        assert _find(server, tmp_path / "none.mp4", "red", "--every", "1") == 2
        assert "none.mp4" in capsys.readouterr().err
        assert not server.bodies
