"""Media of a message: data URLs become files of a private folder; other URLs only where they are allowed."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.serving.http.access import checked_url
from pipeline.serving.http.frames import Kept, kept
from pipeline.serving.http.spool import QuestionFiles, Spool
from pipeline.serving.settings import MediaAccess, RequestLimits
from tests.serving.http.running import MODEL, Hang, Running, running, wait_until

PNG = base64.b64encode(b"\x89PNG and so on").decode()
ACCESS = MediaAccess(frozenset({"media.example.com", "ported.example.com:8443", "[::1]:9000"}))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RequestLimits(body_bytes=2**24, all_media_bytes=2**20, frames=32)) as server:
        yield server


def _check_no_files(server: Running) -> None:
    """The files go after the response."""
    wait_until(lambda: not list(server.spool.iterdir()))


# Data URLs


def test_files_are_private_and_go_when_the_question_ends(server: Running) -> None:
    seen: dict[str, int] = {}

    def script(ask):
        path = Path(ask.media[0])
        seen.update({"file": path.stat().st_mode, "folder": path.parent.parent.stat().st_mode})
        assert path.suffix == ".png" and path.parent.parent == server.spool
        return original(ask)

    original, server.answering.script = server.answering.script, script
    try:
        assert server.media(f"data:image/png;base64,{PNG}").status == 200
    finally:
        server.answering.script = original
    assert server.answering.last.media == [b"\x89PNG and so on"]
    assert {mode & 0o077 for mode in seen.values()} == {0}
    _check_no_files(server)


def test_the_folder_goes_at_shutdown() -> None:
    with running() as server:
        assert server.media(f"data:image/png;base64,{PNG}").status == 200
        assert server.spool.is_dir()
    assert not server.spool.exists()


def test_large_media_arrive_whole(server: Running) -> None:
    data = os.urandom(700_001)
    assert server.media("data:video/mp4;base64," + base64.b64encode(data).decode(), "video_url").status == 200
    assert server.answering.last.media == [data]


def test_media_without_text_get_the_default_question(server: Running) -> None:
    assert server.media(f"DATA:Image/PNG;base64,{PNG}").status == 200
    assert server.answering.last.ask.question == "Describe it."


def test_frames_of_a_video(server: Running) -> None:
    url = "data:video/jpeg;base64," + ",".join(base64.b64encode(data).decode() for data in (b"one", b"two", b"three"))
    assert server.media(url, "video_url", media_io_kwargs={"video": {"fps": 2.5, "num_frames": 3}}).status == 200
    question = server.answering.last
    assert question.media == [b"one", b"two", b"three"] and question.ask.are_frames
    assert question.ask.frame_rate == 2.5 and question.ask.sampling is None
    assert server.media(url, "video_url").status == 200
    assert server.answering.last.ask.frame_rate == 0.0
    assert server.media(url, "video_url", media_io_kwargs={"video": {"num_frames": 2}}).status == 400


FRAMES = [b"frame %d" % number for number in range(9)]


def _frames_url(frames: Sequence[bytes] = FRAMES) -> str:
    return "data:video/jpeg;base64," + ",".join(base64.b64encode(frame).decode() for frame in frames)


def test_more_frames_than_the_server_samples_are_sampled_as_those_of_a_file(server: Running) -> None:
    options = {"media_io_kwargs": {"video": {"fps": 9.0}}}
    assert server.media(_frames_url(), "video_url", **options).status == 200
    question = server.answering.last
    assert question.media == [FRAMES[index] for index in MODEL.sampling.indices(9, 9.0)]
    assert question.ask.frame_rate == 4.0 and question.ask.are_frames


@pytest.mark.parametrize(
    ("count", "rate", "sampling", "indices"),
    [
        (4, 0.0, FrameSampling("segments", 4), (0, 1, 2, 3)),
        (9, 0.0, FrameSampling("uniform", 3), (0, 4, 8)),
        (9, 2.0, FrameSampling("rate", 0, 1.0, 4), (0, 3, 5, 8)),
        (9, 0.0, FrameSampling("rate", 0, 1.0, 4), (0, 2, 5, 8)),  # an unknown rate
        (9, 2.0, FrameSampling("step", 0, 1.0, 8), (0, 2, 4, 6, 8)),
        (12, 0.0, FrameSampling("uniform", 3, multiple=2), (0, 5, 11)),  # a multiple is reached when they are prepared
    ],
)
def test_kept_frames(count: int, rate: float, sampling: FrameSampling, indices: tuple[int, ...]) -> None:
    assert kept(count, rate, sampling) == Kept(indices, rate * len(indices) / count)


def test_images_of_a_model_that_takes_them_as_frames() -> None:
    with running(model=replace(MODEL, images_are_frames=True)) as server:
        expected = [FRAMES[index] for index in MODEL.sampling.indices(9, 0.0)]
        urls = [f"data:image/png;base64,{base64.b64encode(frame).decode()}" for frame in FRAMES]
        assert server.ask([{"type": "image_url", "image_url": {"url": url}} for url in urls]).status == 200
        assert server.answering.last.media == expected
        parts = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + frame + b"\r\n"
            for frame in FRAMES
        )
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        assert server.send("POST", "/caption", parts + b"--b--\r\n", form).status == 200
        assert server.answering.last.media == expected


def test_images_of_another_model_are_all_kept(server: Running) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert server.ask([part] * 9).status == 200
    assert len(server.answering.last.media) == 9


def test_a_full_disk(server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(QuestionFiles, "write", full)
    reply = server.media(f"data:image/png;base64,{PNG}")
    assert reply.status == 503 and reply.error["code"] == "queue_full" and reply.headers["retry-after"]
    assert "TMPDIR" in caplog.text and "Traceback" not in caplog.text and "space" not in reply.error["message"]


def test_the_folder_of_a_killed_server_is_removed_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    foreign = tmp_path / "captioning-of-another-program"
    foreign.mkdir()
    killed, living = Spool(100), Spool(100)
    (killed.path / "clip.mp4").write_bytes(b"video")
    killed._lock.close()  # as the system does when the process dies
    with contextlib.closing(Spool(100)) as spool:
        assert not killed.path.parent.exists() and living.path.is_dir() and foreign.is_dir()
        assert spool.path.is_dir()
    living.close()
    assert list(tmp_path.iterdir()) == [foreign]


def test_num_frames_of_a_video_file(server: Running) -> None:
    reply = server.media(f"data:video/mp4;base64,{PNG}", "video_url", media_io_kwargs={"video": {"num_frames": 2}})
    assert reply.status == 200 and str(server.answering.last.ask.sampling) == "2"


@pytest.mark.parametrize(
    ("kind", "url", "words"),
    [
        ("image_url", "data:image/png;base64,", "is empty"),
        ("image_url", "data:image/png;base64,AAA", "not a multiple of 4"),
        ("image_url", "data:image/png;base64,AA=A", "not base64"),
        ("image_url", "data:image/png;base64,AA\nA", "not base64"),
        ("image_url", "data:image/png;base64,A_-A", "not base64"),
        ("image_url", "data:image/png;base64,AÄAA", "not base64"),
        ("image_url", "data:image/png;base64,AAAAA%3D%3", "not"),
        ("image_url", "data:image/png,AAAA", "without base64"),
        ("image_url", "data:image/png;base64", "no comma"),
        ("image_url", "data:" + "x" * 5000 + ";base64,AAAA", "no comma"),
        ("image_url", "data:;base64,AAAA", "the type ''"),
        ("image_url", "data:video/mp4;base64,AAAA", "takes image/*"),
        ("image_url", "data:video/jpeg;base64,AAAA", "takes image/*"),
        ("video_url", "data:text/html;base64,AAAA", "takes video/* and image/*"),
        ("video_url", "data:application/octet-stream;base64,AAAA", "the type"),
        ("video_url", "data:video/jpeg;base64,AAAA,,AAAA", "frame 2 is empty"),
        ("video_url", "data:video/jpeg;base64,AAAA,AA", "frame 2 is not base64"),
        ("video_url", "data:video/jpeg;base64," + "AAAA," * 32 + "AAAA", "33 frames, and this server takes at most 32"),
        ("image_url", "", "not a URL"),
        ("image_url", "cat.png", "not a URL"),
        ("image_url", "/etc/passwd", "not a URL"),
        ("video_url", "https://example.com/a.mp4", "does not allow"),
        ("video_url", "file:///etc/passwd", "not in a folder"),
        ("video_url", "ftp://example.com/a.mp4", "scheme ftp"),
        ("video_url", "s3://bucket/key", "scheme s3"),
        ("video_url", "gopher://example.com/", "scheme gopher"),
    ],
)
def test_refused_urls(server: Running, kind: str, url: str, words: str) -> None:
    reply = server.media(url, kind)
    assert reply.status == 400 and words in reply.error["message"]
    assert reply.error["param"] == f"messages[0].content[0].{kind}"
    _check_no_files(server)


def test_a_bad_image_after_a_good_one_leaves_no_file(server: Running) -> None:
    good, bad = ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{d}"}} for d in (PNG, "!!!!"))
    reply = server.ask([good, bad])
    assert reply.status == 400 and reply.error["param"] == "messages[0].content[1].image_url"
    _check_no_files(server)


def test_media_of_open_questions_are_bounded(server: Running) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(600_000)).decode()
    original, server.answering.script = server.answering.script, lambda ask: [Hang()]
    body = b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "%s"}]}]}' % url.encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    while server.answering.asked.acquire(blocking=False):
        pass
    try:
        with server.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body):
            assert server.answering.asked.acquire(timeout=30)
            reply = server.media(url)
            assert reply.status == 503 and reply.headers["retry-after"]
        assert server.answering.last.cancelled.wait(30)
    finally:
        server.answering.script = original


# Hosts


@pytest.mark.parametrize(
    "url",
    [
        "https://media.example.com/a.mp4?x=1",
        "http://media.example.com:80/a.mp4",
        "https://MEDIA.example.com:443/a.mp4",
        "https://ported.example.com:8443/a.mp4",
        "http://[::1]:9000/a.mp4",
    ],
)
def test_allowed_hosts(url: str) -> None:
    assert checked_url(url, ACCESS) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.mp4",
        "https://sub.media.example.com/a.mp4",
        "https://media.example.com.evil.org/a.mp4",
        "https://media.example.com./a.mp4",
        "https://media.example.com:8080/a.mp4",
        "http://media.example.com:443/a.mp4",
        "https://ported.example.com/a.mp4",
        "https://user@media.example.com/a.mp4",
        "https://user:password@media.example.com/a.mp4",
        "https://media.example.com@evil.org/a.mp4",
        "https://evil.org#@media.example.com/a.mp4",
        "https://evil.org?@media.example.com/a.mp4",
        "https://evil.org\\@media.example.com/a.mp4",
        "https://media.example.com\\.evil.org/a.mp4",
        "https://media.example.com /a.mp4",
        "https://media.example.com\t.evil.org/a.mp4",
        "https://me\ndia.example.com/a.mp4",
        "https://medi\u0430.example.com/a.mp4",  # a Cyrillic letter
        "https://media。example.com/a.mp4",
        "https:///a.mp4",
        "https://media.example.com:99999/a.mp4",
        "https://media.example.com:0/a.mp4",
        "https://[::1/a.mp4",
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://localhost:8000/metrics",
    ],
)
def test_refused_hosts(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        checked_url(url, ACCESS)
    assert "password@" not in str(caught.value)


def test_an_allowed_url_is_left_to_the_device() -> None:
    with running(access=ACCESS) as server:
        assert server.media("https://media.example.com/a.mp4", "video_url").status == 200
        assert server.answering.last.ask.media == ("https://media.example.com/a.mp4",)


# Files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed, allowed / "sub", secret):
        folder.mkdir()
    (allowed / "sub" / "a clip.mp4").write_bytes(b"video")
    (secret / "key.mp4").write_bytes(b"secret")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "a.mp4").write_bytes(b"secret")
    (allowed / "link.mp4").symlink_to(allowed / "sub" / "a clip.mp4")
    (allowed / "out.mp4").symlink_to(secret / "key.mp4")
    (allowed / "nowhere.mp4").symlink_to(secret / "nothing.mp4")
    (allowed / "outside").symlink_to(secret)
    (allowed / "circle.mp4").symlink_to(allowed / "circle.mp4")
    os.mkfifo(allowed / "pipe.mp4")
    return allowed.resolve(), secret.resolve()


@pytest.mark.parametrize("name", ["sub/a%20clip.mp4", "link.mp4", "sub/../link.mp4"])
def test_allowed_files(folders: tuple[Path, Path], name: str) -> None:
    allowed, _ = folders
    for prefix in ("file://", "file://localhost", "FILE://"):
        path = checked_url(f"{prefix}{allowed}/{name}", MediaAccess(folders=(allowed,)))
        assert path == str(allowed / "sub" / "a clip.mp4")


def test_files_outside_are_refused_in_the_same_words_whether_they_exist_or_not(folders: tuple[Path, Path]) -> None:
    allowed, secret = folders
    outside = [
        f"file://{secret}/key.mp4",
        f"file://{secret}/nothing.mp4",
        f"file://{allowed}/../secret/key.mp4",
        f"file://{allowed}/../secret/nothing.mp4",
        f"file://{allowed}/%2e%2e/secret/key.mp4",
        f"file://{allowed}/out.mp4",
        f"file://{allowed}/nowhere.mp4",
        f"file://{allowed}/outside/key.mp4",
        f"file://{allowed}-not/a.mp4",
        f"file://{allowed}/a%00.mp4",
        "file:///etc/passwd",
        "file:///",
    ]
    messages = set()
    for url in outside:
        with pytest.raises(ValueError) as caught:
            checked_url(url, MediaAccess(folders=(allowed,)))
        messages.add(str(caught.value))
    assert len(messages) == 1 and "not in a folder" in messages.pop()


@pytest.mark.parametrize("name", ["missing.mp4", "sub", "pipe.mp4", "circle.mp4", "sub/a%20clip.mp4/x", "x" * 300])
def test_what_is_no_file_is_refused(folders: tuple[Path, Path], name: str) -> None:
    allowed, _ = folders
    with pytest.raises(ValueError, match=r"does not exist|not in a folder"):
        checked_url(f"file://{allowed}/{name}", MediaAccess(folders=(allowed,)))


@pytest.mark.parametrize("form", ["file://other.example.com{}", "file://{}?x", "file://{}#x"])
def test_urls_that_name_no_local_file(folders: tuple[Path, Path], form: str) -> None:
    allowed, _ = folders
    with pytest.raises(ValueError, match="not a URL of a local file"):
        checked_url(form.format(allowed / "link.mp4"), MediaAccess(folders=(allowed,)))


def test_an_allowed_file_is_read_where_it_is(folders: tuple[Path, Path]) -> None:
    allowed, _ = folders
    with running(access=MediaAccess(folders=(allowed,))) as server:
        assert server.media(f"file://{allowed}/link.mp4", "video_url").status == 200
        assert server.answering.last.media == [b"video"]
    assert (allowed / "sub" / "a clip.mp4").exists()
