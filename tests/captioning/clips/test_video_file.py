"""With `sends_file`, the worker gets the file of a video as it is, and the frames of everything else."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.api.frames import JpegFrames, jpegs
from pipeline.captioning.clips import video_file
from pipeline.captioning.clips.clip import Clip, ClipTask, LoadFailure
from pipeline.captioning.clips.decode_server import DecodeReply, DecodeRequest, handle_request
from pipeline.captioning.clips.downloads.limits import DownloadLimits
from pipeline.captioning.clips.frame_memory import FrameMemory
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.captioning.clips.downloads.servers import content, web_server
from tests.captioning.clips.test_animations import animation
from tests.fakes import render_clip, segments

PREPARATION = FramePreparation(segments(3), JpegFrames(768, 85), sends_file=True)


def _handle(path: Path, named: str = "") -> tuple[bytes, DecodeReply]:
    memory = FrameMemory()
    try:
        reply = handle_request(DecodeRequest(str(path), "file", named), memory, PREPARATION)
        return b"" if reply.frames is None else memory.get(reply.frames).tobytes(), reply
    finally:
        memory.close()


def test_clips_as_the_worker_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local files and downloaded ones, in one decoding process."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    video, image = render_clip(tmp_path / "a.mp4"), tmp_path / "a.jpg"
    Image.new("RGB", (1000, 500)).save(image)
    with web_server() as web:
        data = video.read_bytes()
        urls = [web.url("/a.mp4?v=1", content(data)), web.url("/b", content(data)), web.url("/c.mp4", content(b"text"))]
        rows = list(starmap(ClipTask, enumerate([str(video), str(image), str(tmp_path / "missing.mp4"), *urls])))
        limits = DecoderLimits(30, download=DownloadLimits(timeout=20))
        with ClipLoader(rows, PREPARATION, limits, prefetch=1) as loader:
            clips = list(loader)
    for row in (0, 3, 4):
        clip = clips[row]
        assert isinstance(clip, Clip) and clip.frames.tobytes() == data
        assert (clip.row, clip.mime_type, clip.is_image, clip.frame_index) == (row, "video/mp4", False, ())
    still, missing, text = clips[1], clips[2], clips[5]
    assert isinstance(still, Clip) and (still.is_image, still.mime_type) == (True, "")
    assert [Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs(still.frames)] == [(768, 384)]
    assert isinstance(missing, LoadFailure) and missing.stage == "path"
    assert isinstance(text, LoadFailure) and text.stage == "decode"
    assert len(text.messages) == 1 and "neither a video nor an image" in text.messages[0]


def _remuxed(path: Path, source: Path) -> Path:
    codec = {".webm": "libvpx", ".ogv": "libtheora", ".flv": "flv"}.get(path.suffix, "mpeg4")
    with av.open(str(source)) as frames, av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in frames.decode(video=0):
            container.mux(stream.encode(frame.reformat(96, 64, "yuv420p")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("a.mp4", "video/mp4"),
        ("a.mov", "video/quicktime"),
        ("a.mkv", "video/x-matroska"),
        ("a.webm", "video/webm"),
        ("a.avi", "video/x-msvideo"),
        ("a.flv", "video/x-flv"),
        ("a.ts", "video/mp2t"),
        ("a.wmv", "video/x-ms-asf"),
        ("a.mpg", "video/mpeg"),
        ("a.3gp", "video/3gpp"),
    ],
)
def test_the_mime_type_is_that_of_the_content(tmp_path: Path, name: str, mime_type: str) -> None:
    path = _remuxed(tmp_path / name, render_clip(tmp_path / "source.mp4"))
    for named in (name, "https://host/clip.mp4?x=a.jpg", "a.jpg" if name != "a.ts" else "a", "clip"):
        data, reply = _handle(path, named)
        assert (reply.mime_type, reply.messages) == (mime_type, ())
        assert data == path.read_bytes() and not reply.partial and not reply.is_image


def test_streams_without_a_container_are_known_by_their_suffix(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG")
    stream = tmp_path / "stream"
    stream.write_bytes(file.getvalue() * 3)
    data, reply = _handle(stream, "a.MJPEG")
    assert reply.mime_type == "video/x-motion-jpeg" and data == stream.read_bytes()


_TEXTS = [b"a password", b"the free text", b"FLV or not"]
_OTHERS = [b"PK\3\4\0\0\0\0 an archive", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7\0"]


@pytest.mark.parametrize("data", _TEXTS + _OTHERS)
def test_other_files_are_not_sent(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    names = ["a.mp4", "a", "https://host/a.webm"]
    if data in _TEXTS:  # other content may be that of a stream
        names += ["a.ts", "a.mjpeg"]
    for named in names:
        sent, reply = _handle(path, named)
        assert not sent and reply.stage == "decode" and "neither a video nor an image" in reply.messages[0]


def test_playlists_are_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"#EXTM3U\n/etc/passwd\n")
    sent, reply = _handle(path)
    assert not sent and reply.stage == "decode" and "HLS playlist" in reply.messages[0]


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    for name, message in (("pipe.mp4", "not a regular file"), ("empty.mp4", "0 bytes"), ("no.mp4", "no such file")):
        _, reply = _handle(tmp_path / name)
        assert reply.stage == "path" and message in reply.messages[0]


def test_a_file_that_services_would_refuse_for_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render_clip(tmp_path / "a.mp4")
    size = path.stat().st_size
    monkeypatch.setattr(video_file, "MAX_FILE_BYTES", size)
    assert _handle(path)[1].mime_type == "video/mp4"
    monkeypatch.undo()
    os.truncate(path, video_file.MAX_FILE_BYTES + 10**6)
    sent, reply = _handle(path)
    assert not sent and reply.stage == "prepare"
    assert reply.messages[0].startswith("the file has 201.0 MB; at most 200 MB are sent")


def test_an_incomplete_file_is_sent_and_marked(tmp_path: Path) -> None:
    path = _remuxed(tmp_path / "a.avi", render_clip(tmp_path / "source.mp4"))
    os.truncate(path, path.stat().st_size * 2 // 3)
    data, reply = _handle(path)
    assert data == path.read_bytes() and reply.partial


def test_animations_are_sent_as_frames(tmp_path: Path) -> None:
    _, reply = _handle(animation(tmp_path / "a.gif", [100] * 4))
    assert (reply.mime_type, reply.is_image, len(reply.frame_index)) == ("", False, 3)


def test_an_image_that_is_broken_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for data in (b"\xff\xd8\xff\xe0 no more", b"neither"):
        path.write_bytes(data)
        sent, reply = _handle(path)
        assert not sent and reply.stage == "decode" and reply.messages[0].startswith("PIL: ")


def _die(images: Sequence[Image.Image]) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGSEGV)
    return np.zeros(1, np.uint8)


def test_a_file_that_kills_its_process_is_read_once(tmp_path: Path) -> None:
    """There is no second decoder, although the name is that of a video."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.mp4", format="PNG")
    rows = [ClipTask(0, str(tmp_path / "a.mp4"))]
    with ClipLoader(rows, FramePreparation(segments(3), _die, sends_file=True), DecoderLimits(30), 1) as loader:
        (failure,) = loader
    assert isinstance(failure, LoadFailure)
    assert failure.messages == ("file: its process died (signal 11)",)
