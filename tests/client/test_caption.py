"""`pipeline.client caption` against a stub: what is sent of a clip, what is printed, failures, Ctrl-C."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.responses import Response

from pipeline.client import command
from tests.client.stub_server import MODEL, StubServer, completion, media, refusal
from tests.fakes import render_clip


async def _says_what_it_got(body: dict[str, Any]) -> Response:
    """Kind and size of the first picture, and the number of pictures."""
    kind, url = media(body)[0]
    count = len(_pictures(url)) if kind == "video_url" else len(media(body))
    width, height = _pictures(url)[0].size
    return completion(f"{kind}  of {count}:\n{width}x{height}")


def _pictures(url: str) -> list[Image.Image]:
    head, _, data = url.partition(",")
    assert head in ("data:video/jpeg;base64", "data:image/jpeg;base64")
    pictures = [Image.open(io.BytesIO(base64.b64decode(frame, validate=True))) for frame in data.split(",")]
    assert {picture.format for picture in pictures} == {"JPEG"}
    return pictures


def _caption(server: StubServer, files: Sequence[object], *flags: str) -> int:
    return command.main(["caption", *map(str, files), "--base_url", server.url, *flags])


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    """A video of 8 frames of 96x64 at 8 frames per second, and a still image of 100x50."""
    Image.new("RGB", (100, 50), "red").save(tmp_path / "still.png")
    return render_clip(tmp_path / "video.mp4"), tmp_path / "still.png"


def test_frames_travel_as_one_video_and_an_image_as_an_image(
    clips: tuple[Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-server")
    with StubServer(_says_what_it_got).running() as server:
        assert _caption(server, clips, "--max_side", "50") == 0
    lines = set(capfd.readouterr().out.splitlines())
    assert lines == {f"{clips[0]}: video_url of 4: 50x33", f"{clips[1]}: image_url of 1: 50x25"}
    by_kind = {media(body)[0][0]: body for body in server.bodies}
    video = by_kind["video_url"]
    assert video["model"] == MODEL and video["max_tokens"] == 200
    # Frames 1, 3, 4 and 6 of 8 frames per second; see `frame_indices`.
    assert video["media_io_kwargs"] == {"video": {"fps": pytest.approx(3 / (5 / 8))}}
    assert "media_io_kwargs" not in by_kind["image_url"]
    # What no flag says is left to the server.
    assert not {"temperature", "top_p", "seed"} & set(video)
    assert [message["role"] for message in video["messages"]] == ["user"]
    assert [part["type"] for part in video["messages"][0]["content"]] == ["video_url"]
    assert set(server.keys) == {"Bearer secret-of-the-server"}


def test_the_frames_are_those_that_the_commands_decode(clips: tuple[Path, Path], tmp_path: Path) -> None:
    short = render_clip(tmp_path / "short.mp4", frames=2)
    with StubServer(_says_what_it_got).running() as server:
        assert _caption(server, [clips[0], short], "--num_frames", "3", "--concurrency", "1") == 0
    counts = {len(_pictures(media(body)[0][1])) for body in server.bodies}
    assert counts == {3}  # of two frames one is shown twice, as a model sees it that reads the file


def test_json_records_and_failures_of_single_files(
    clips: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    tries: list[str] = []

    async def answer(body: dict[str, Any]) -> Response:
        kind, _ = media(body)[0]
        tries.append(kind)
        if kind == "image_url":
            return refusal(400, "this image is refused")
        return refusal(503, "the queue is full", **{"Retry-After": "0"}) if tries.count(kind) < 2 else completion("ok")

    flags = ("--json", "--question", "What?", "--system", "Be short.", "--temperature", "0", "--num_frames", "2")
    with StubServer(answer).running() as server:
        assert _caption(server, [tmp_path / "damaged.mp4", *clips, tmp_path / "none.mp4"], *flags) == 1
    records = {record["index"]: record for record in map(json.loads, capfd.readouterr().out.splitlines())}
    assert sorted(records) == [0, 1, 2, 3]
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    assert records[1] == {
        "index": 1,
        "file": str(clips[0]),
        "caption": "ok",
        "finish_reason": "stop",
        "usage": usage,
    }
    assert "decode" in records[0]["error"]["message"] and "no such file" in records[3]["error"]["message"].lower()
    assert "this image is refused" in records[2]["error"]["message"]
    assert sorted(tries) == ["image_url", "video_url", "video_url"]  # what is refused is not tried again
    first = server.bodies[0]
    assert first["messages"][0] == {"role": "system", "content": "Be short."} and first["temperature"] == 0
    assert first["messages"][1]["content"][-1] == {"type": "text", "text": "What?"}


def test_other_ways_to_send_a_video(clips: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    with StubServer(_says_what_it_got).running() as server:
        assert _caption(server, clips[:1], "--send", "images", "--question", "What?") == 0
    assert f"{clips[0]}: image_url of 4: 96x64" in capfd.readouterr().out

    async def answer(body: dict[str, Any]) -> Response:
        return completion("seen")

    with StubServer(answer).running() as server:
        assert _caption(server, clips, "--send", "file", "--num_frames", "3") == 0
    sent = {media(body)[0][0]: body for body in server.bodies}
    head, _, data = media(sent["video_url"])[0][1].partition(",")
    assert head == "data:video/mp4;base64" and base64.b64decode(data) == clips[0].read_bytes()
    assert sent["video_url"]["media_io_kwargs"] == {"video": {"num_frames": 3}}
    assert media(sent["image_url"])[0][1].startswith("data:image/jpeg;base64,")


def test_a_wrong_key_ends_the_command(clips: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    async def answer(body: dict[str, Any]) -> Response:
        return refusal(401, "wrong key")

    with StubServer(answer, key="secret").running() as server:
        assert _caption(server, clips) == 1
        assert not server.bodies
        errors = capfd.readouterr().err.splitlines()
        assert len(errors) == 1 and "wrong key" in errors[0]
        assert _caption(server, clips, "--concurrency", "1", "--model", MODEL) == 1
        assert len(server.bodies) == 1
        errors = capfd.readouterr().err.splitlines()
        assert len(errors) == 1 and "wrong key" in errors[0]


def test_no_server(capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(["caption", "a.mp4", "--base_url", "http://127.0.0.1:1/v1"]) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert "http://127.0.0.1:1/v1" in error and "Check --base_url" in error and "--model" not in error


def test_a_key_that_is_revoked_while_requests_wait_and_are_answered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reason is printed, and so is what was in flight: it was paid for."""
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)
    bodies: list[dict[str, Any]] = []
    all_sent = asyncio.Event()

    async def answer(body: dict[str, Any]) -> Response:
        bodies.append(body)
        number = len(bodies)
        if number == 3:
            all_sent.set()
        await all_sent.wait()
        if number == 1:
            return refusal(429, "slow down", **{"Retry-After": "100"})
        await asyncio.sleep(0.2 * number)  # the clients stop before the last of the three is answered
        return refusal(401, "the key is revoked") if number == 2 else completion("paid for")

    with StubServer(answer).running() as server:
        assert _caption(server, files, "--concurrency", "3") == 1
    out, error = capfd.readouterr()
    assert out.endswith(": paid for\n") and out.count("\n") == 1 and len(bodies) == 3
    assert "the key is revoked" in error and len(error.splitlines()) == 1


def test_nothing_that_changes_a_terminal_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["a\x1b[2J.png", os.fsdecode(b"\xff.png"), "bad\x1b[2J.mp4"]
    for name in names[:2]:
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")

    async def answer(body: dict[str, Any]) -> Response:
        return completion("a\x1b]0;title\x07 star\nin \x9b31mred")

    with StubServer(answer).running() as server:
        assert _caption(server, [tmp_path / name for name in names]) == 1
    out, error = capfd.readouterr()
    assert sorted(out.splitlines()) == [
        f"{tmp_path}/a [2J.png: a ]0;title star in 31mred",
        f"{tmp_path}/\ufffd.png: a ]0;title star in 31mred",
    ]
    assert f"{tmp_path}/bad [2J.mp4: " in error and "\x1b" not in error

    async def refuse(body: dict[str, Any]) -> Response:
        return refusal(401, "wrong \x1b[2Jkey")

    with StubServer(refuse).running() as server:
        assert _caption(server, [tmp_path / names[0]]) == 1
    assert "wrong [2Jkey" in (error := capfd.readouterr().err) and "\x1b" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "FILE"),
        (["a.mp4", "--num_frames", "4", "--fps", "1"], "give one of them"),
        (["a.mp4", "--api_key", "sk-very-secret"], "--api_key_env"),
        (["a.mp4", "--api_key_env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (["a.mp4", "--base_url", "ftp://127.0.0.1:1/v1"], "--base_url"),
    ],
    ids=["no file", "both numbers of frames", "a key", "no such variable", "another scheme"],
)
def test_usage_errors(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["caption", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and len(printed.err.splitlines()) == 1
    assert "sk-very-secret" not in printed.err


def test_ctrl_c_ends_the_command_and_its_requests(clips: tuple[Path, Path]) -> None:
    arrived, left = threading.Event(), threading.Event()

    async def answer(body: dict[str, Any]) -> Response:
        arrived.set()
        await asyncio.to_thread(left.wait, 200)
        return completion("too late")

    with StubServer(answer).running() as server:
        arguments = ["-m", "pipeline.client", "caption", *map(str, clips), "--base_url", server.url]
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert arrived.wait(90)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=90)
        left.set()
    assert (process.returncode, output, error) == (130, "", "client: interrupted\n")
