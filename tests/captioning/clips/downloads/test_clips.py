"""Clips from URLs, as the worker sees them: frames, failures, and what is left after a kill."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.captioning.clips import decode_client
from pipeline.captioning.clips.clip import Clip, ClipTask, LoadFailure
from pipeline.captioning.clips.decode_client import DecodeClient
from pipeline.captioning.clips.downloads.hosts import Hosts
from pipeline.captioning.clips.downloads.limits import DownloadLimits
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.process.limited_log import LimitedLog
from tests.captioning.clips.downloads.servers import WebServer, content, stalling, status
from tests.fakes import mean_colour, render_clip, segments

LIMITS = DecoderLimits(30, download=DownloadLimits(timeout=20))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which no file may have a name, and no file may stay open."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert os.listdir(folder) == [] and _open_files(os.getpid(), folder) == 0


def _open_files(process: int, folder: Path) -> int:
    """The number of files in `folder` that a process has open, those without a name included."""
    count = 0
    for fd in Path(f"/proc/{process}/fd").iterdir():
        try:
            count += os.readlink(fd).startswith(str(folder))
        except FileNotFoundError:  # closed meanwhile
            continue
    return count


def _load(
    paths: Sequence[str], transform: Any = mean_colour, limits: DecoderLimits = LIMITS, workers: int = 1
) -> list[Clip | LoadFailure]:
    preparation = FramePreparation(segments(2), transform)
    with ClipLoader(starmap(ClipTask, enumerate(paths)), preparation, limits, prefetch=8, workers=workers) as loader:
        return sorted(loader, key=lambda clip: clip.row)


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_frames_are_those_of_the_local_files(tmp_path: Path, web: WebServer, s3: Any) -> None:
    files = [render_clip(tmp_path / f"{i}.{suffix}", i) for i, suffix in enumerate(("mp4", "mkv", "avi", "ts", "mov"))]
    cut = render_clip(tmp_path / "cut.mkv", frames=80)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    Image.new("RGB", (30, 40), (200, 10, 10)).save(tmp_path / "image.png")
    frames = [io.BytesIO() for _ in range(4)]
    for number, frame in enumerate(frames):
        Image.new("RGB", (32, 24), (60 * number, 10, 200)).save(frame, "JPEG")
    (tmp_path / "motion.mjpeg").write_bytes(b"".join(frame.getvalue() for frame in frames))
    (tmp_path / "movie.jpg").write_bytes(files[0].read_bytes())
    (tmp_path / "picture.mp4").write_bytes((tmp_path / "image.png").read_bytes())
    names = ("image.png", "motion.mjpeg", "movie.jpg", "picture.mp4")
    files += [cut, *(tmp_path / name for name in names)]
    local = _load([str(file) for file in files], _pixels)
    urls = [web.url(f"/folder/{file.name}?token=x.html#t=1", content(file.read_bytes())) for file in files]
    for file in files:
        s3.upload_file(str(file), "clips", f"folder/{file.name}")
    objects = [f"s3://clips/folder/{file.name}" for file in files]
    for paths in (urls, objects):
        for clip, expected, path in zip(_load(paths, _pixels), local, paths, strict=True):
            assert isinstance(clip, Clip) and isinstance(expected, Clip), clip
            np.testing.assert_array_equal(clip.frames, expected.frames)
            assert replace(clip, frames=expected.frames) == replace(expected, path=path)
    assert isinstance(local[5], Clip) and local[5].partial
    assert [isinstance(clip, Clip) and clip.is_image for clip in local[6:]] == [True, False, False, True]
    assert isinstance(local[7], Clip) and len(local[7].frames) == 2
    assert len(web.requests) == len(files)


def _ranges(url: str, first_row: int, count: int) -> list[ClipTask]:
    return [ClipTask(first_row + n, url, TimeRange(n * 1000, n * 1000 + 1000)) for n in range(count)]


def test_ranges_of_one_url_need_one_download(tmp_path: Path, web: WebServer) -> None:
    """As long as their rows follow each other; also if one is outside the video, or its decoder dies."""
    path = render_clip(tmp_path / "a.mp4", frames=32)
    url, other = (web.url(name, content(path.read_bytes())) for name in ("/a.mp4", "/other.mp4"))
    rows = [*_ranges(url, 0, 5), ClipTask(5, other), *_ranges(url, 6, 2), ClipTask(8, str(path))]
    preparation = FramePreparation(segments(2), _Fatal(tmp_path, signal.SIGSEGV))
    with ClipLoader(rows, preparation, LIMITS, prefetch=8) as loader:
        died, *clips = list(loader)
    assert web.requests == ["/a.mp4", "/other.mp4", "/a.mp4"]
    assert isinstance(died, LoadFailure) and "its process died" in died.messages[0]
    outside = clips.pop(3)
    assert isinstance(outside, LoadFailure) and "the end of the video (4.000 s)" in outside.messages[0]
    durations = [clip.duration for clip in clips if isinstance(clip, Clip)]
    assert durations == [1.0, 1.0, 1.0, 4.0, 1.0, 1.0, 4.0]
    assert [clip.range for clip in clips if isinstance(clip, Clip)][:4] == [*(row.range for row in rows[1:4]), None]


def test_failures_have_their_stage_and_cause(tmp_path: Path, web: WebServer) -> None:
    paths = [
        web.url("/no.mp4?key=s3cret", status(404)),
        web.url("/junk.mp4?key=s3cret", content(b"no video" * 1000)),
        "ftp://host/a.mp4",
        web.url("/junk.jpg?key=s3cret", content(b"no image" * 1000)),
        str(tmp_path / "missing.mp4"),
        web.url("/good.mp4", content(render_clip(tmp_path / "good.mp4").read_bytes())),
    ]
    *failures, good = _load(paths)
    assert isinstance(good, Clip)
    failed = [clip for clip in failures if isinstance(clip, LoadFailure)]
    assert [clip.stage for clip in failed] == ["download", "decode", "download", "decode", "path"]
    assert failed[0].messages == ("HTTP 404 Not Found",)
    assert failed[2].messages[0].startswith("ftp:// is not supported")
    for clip in failed:
        assert "/proc" not in str(clip.messages) and "s3cret" not in str(clip.messages)
    for number in (1, 3):
        assert failed[number].messages and all("the downloaded file" in text for text in failed[number].messages)
    assert len(failed[3].messages) == 1


def test_the_log_has_no_credentials(tmp_path: Path, web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    data = render_clip(tmp_path / "a.mp4").read_bytes()
    (clip,) = _load([web.url("/a.mp4?key=s3cret", content(data), user="me:pa55@")], _Fatal(tmp_path, signal.SIGSEGV))
    assert isinstance(clip, Clip) or clip.stage == "decode"
    assert "/a.mp4?…: " in caplog.text and "its process died" in caplog.text
    assert "s3cret" not in caplog.text and "pa55" not in caplog.text


def test_a_dead_server_costs_a_few_rows_their_deadline_only(
    tmp_path: Path, web: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After three rows each row gets one attempt, until one succeeds."""
    good = web.url("/good.mp4", content(render_clip(tmp_path / "good.mp4").read_bytes()))
    dead = [web.url(f"/{number}.mp4?key=s3cret", status(503)) for number in range(6)]
    limits = replace(LIMITS, download=DownloadLimits(timeout=0.8))
    clips = _load([*dead[:5], good, dead[5]], limits=limits)
    messages = [clip.messages[0][:21] if isinstance(clip, LoadFailure) else "" for clip in clips]
    assert messages == ["no download within 0."] * 3 + ["HTTP 503 Service Unav"] * 2 + ["", "no download within 0."]
    assert [web.requests.count(f"/{number}.mp4?key=s3cret") for number in (3, 4)] == [1, 1]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and warnings[0].startswith("127.0.0.1:") and "one short attempt" in warnings[0]


def test_playlists_open_nothing(tmp_path: Path, web: WebServer) -> None:
    """Not even local clips and clips of the server, which decoders could open."""
    clip = render_clip(tmp_path / "segment.ts")
    segment = web.url("/segment.ts", content(clip.read_bytes()))
    lists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n" for target in (clip, segment)
    ] + [f"ffconcat version 1.0\nfile '{target}'\n" for target in (clip, segment)]
    urls = [web.url(f"/{number}.mp4", content(text.encode())) for number, text in enumerate(lists)]
    for failure in _load(urls):
        assert isinstance(failure, LoadFailure) and "what it refers to is not fetched" in failure.messages[0]
    assert "/segment.ts" not in web.requests


@dataclass(frozen=True)
class _Fatal:
    """A transform that ends its process by a signal during the first call."""

    folder: Path
    signal: int

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        if not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), self.signal)
        return mean_colour(images)


def test_a_decoder_that_dies_costs_no_second_download(tmp_path: Path, web: WebServer) -> None:
    url = web.url("/a.mp4", content(render_clip(tmp_path / "a.mp4").read_bytes()), status(404))
    (clip,) = _load([url], _Fatal(tmp_path, signal.SIGKILL))
    assert isinstance(clip, Clip) and web.requests == ["/a.mp4"]


def _state(images: Sequence[Image.Image]) -> np.ndarray:
    """Of the decoding process: whether fsspec and aiohttp are imported, and whether it has a file for downloads."""
    has_file = any("/temporary/" in os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
    return np.array([["fsspec" in sys.modules, "aiohttp" in sys.modules, has_file]] * len(images))


def test_local_files_need_neither_fsspec_nor_a_temporary_file(tmp_path: Path, web: WebServer) -> None:
    clip = render_clip(tmp_path / "a.mp4")
    loaded = _load([str(clip), web.url("/a.mp4", content(clip.read_bytes())), str(clip)], _state)
    states = [clip.frames[0].tolist() for clip in loaded if isinstance(clip, Clip)]
    assert states == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]


def test_the_space_of_a_clip_is_given_back(tmp_path: Path, web: WebServer, temporary: Path) -> None:
    clip = render_clip(tmp_path / "a.mp4")
    limits = replace(LIMITS, download=DownloadLimits(max_bytes=10**5, timeout=20))
    client = DecodeClient(FramePreparation(segments(2), mean_colour), limits, _no_log(), Hosts())
    try:
        for answer in (content(clip.read_bytes()), content(b"no video"), content(b"x" * 10**6)):
            client.decode(web.url("/a.mp4", answer), threading.Event())
            assert client._file is not None and os.fstat(client._file.fd).st_size == 0
            assert os.fstat(client._file.fd).st_nlink == 0
    finally:
        client.close()


def _no_log() -> LimitedLog:
    return LimitedLog(logging.getLogger(), "no file")


def test_no_folder_for_temporary_files(tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    clip = render_clip(tmp_path / "a.mp4")
    failure, local = _load([web.url("/a.mp4", content(clip.read_bytes())), str(clip)])
    assert isinstance(failure, LoadFailure) and isinstance(local, Clip)
    assert failure.stage == "download" and "No such file or directory; set TMPDIR" in failure.messages[0]
    monkeypatch.undo()


def _wait(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _in_thread(client: DecodeClient, url: str) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def work() -> None:
        results.append(client.decode(url, threading.Event()))
        client.close()  # in the thread that started the process

    thread = threading.Thread(target=work)
    thread.start()
    return thread, results


def test_a_decoding_process_killed_in_a_download_leaves_nothing(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = render_clip(tmp_path / "a.mp4").read_bytes()
    client = DecodeClient(FramePreparation(segments(2), mean_colour), LIMITS, _no_log(), Hosts())
    deadlines: list[float] = []
    ask_once = client._ask_once

    def record(request: Any, stopping: threading.Event, deadline: Any) -> Any:
        if hasattr(request, "deadline"):
            deadlines.append(request.deadline)
            assert deadline.begin + 20 == request.deadline
        return ask_once(request, stopping, deadline)

    monkeypatch.setattr(client, "_ask_once", record)
    thread, results = _in_thread(client, web.url("/a.mp4", stalling(data[:1000]), content(data)))
    _wait(lambda: web.requests)
    assert client._process is not None and client._process.pid is not None
    os.kill(client._process.pid, signal.SIGKILL)
    thread.join()
    frames, reply = results[0]
    assert frames is not None and not reply.messages, "the download is repeated by another process"
    assert len(deadlines) == 2 and deadlines[0] == deadlines[1], "which has the time that is left"


def test_a_decoding_process_that_hangs_in_a_download_is_killed(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_client, "_DOWNLOAD_GRACE_SECONDS", 0.5)
    limits = replace(LIMITS, download=DownloadLimits(timeout=1.5))
    client = DecodeClient(FramePreparation(segments(2), mean_colour), limits, _no_log(), Hosts())
    thread, results = _in_thread(client, web.url("/a.mp4", stalling(b"1")))
    _wait(lambda: web.requests)
    assert client._process is not None and client._process.pid is not None
    os.kill(client._process.pid, signal.SIGSTOP)
    thread.join()
    frames, reply = results[0]
    assert frames is None and reply.stage == "download"
    assert reply.messages == ("no answer within 2 s (--download_timeout); its process was killed",)


WORKER = """
import sys
from pipeline.captioning.clips.clip import ClipTask
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.fakes import mean_colour, segments

preparation = FramePreparation(segments(2), mean_colour)
with ClipLoader([ClipTask(0, sys.argv[1])], preparation, DecoderLimits(30), prefetch=1) as loader:
    list(loader)
"""


def test_a_worker_killed_in_a_download_leaves_nothing(web: WebServer, temporary: Path) -> None:
    url = web.url("/a.mp4", stalling(b"x" * 10**6))
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[4])}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, url], env=environment)
    _wait(lambda: web.requests)
    (decoder,) = (child for child in psutil.Process(worker.pid).children() if "spawn_main" in str(child.cmdline()))
    _wait(lambda: _open_files(decoder.pid, temporary) > 0)
    worker.kill()
    worker.wait()
    _wait(lambda: not decoder.is_running() or decoder.status() == psutil.STATUS_ZOMBIE)
