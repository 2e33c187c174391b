"""A download gives the whole file, or each cause why not."""

from __future__ import annotations

import gzip
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline.captioning.clips.downloads import download as download_module
from pipeline.captioning.clips.downloads.limits import DownloadLimits
from tests.captioning.clips.downloads.servers import (
    Answer,
    WebServer,
    chunked,
    content,
    reset,
    slow,
    stalling,
    status,
    web_server,
)
from tests.fakes import render_clip

DATA = bytes(range(256)) * 2000
LIMITS = DownloadLimits(max_bytes=10**6, timeout=90.0)
SHORT = DownloadLimits(max_bytes=10**6, timeout=0.8)
"""An attempt without data ends after 0.2 s."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0.05)


def download(url: str, path: str, limits: DownloadLimits) -> str:
    """The problem of a download that begins now."""
    return download_module.download(url, path, limits, time.monotonic() + limits.timeout).problem


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("answer", [content(DATA), chunked(DATA)], ids=["with its length", "in chunks"])
def test_the_file_is_received(web: WebServer, target: Path, answer: Answer) -> None:
    target.write_bytes(b"the clip before, which was longer" * 20_000)
    assert download(web.url("/a.mp4", answer), str(target), LIMITS) == ""
    assert target.read_bytes() == DATA
    assert web.requests == ["/a.mp4"]


@pytest.mark.parametrize(
    "fault",
    [
        status(503), status(500), status(429), status(408), reset, content(DATA[:1000], announced=len(DATA)),
        chunked(DATA[:3000], is_cut=True), stalling(b""), stalling(DATA[:1000]),
    ],
    ids=[
        "503", "500", "429", "408", "no answer", "cut", "cut in chunks", "nothing for long", "nothing more for long",
    ],
)  # fmt: skip
def test_a_fault_that_may_pass_is_followed_by_another_attempt(web: WebServer, target: Path, fault: Answer) -> None:
    url = web.url("/a.mp4", fault, fault, content(DATA))
    assert download(url, str(target), replace(LIMITS, longest_stall=0.3)) == ""
    assert target.read_bytes() == DATA
    assert web.requests == ["/a.mp4"] * 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(404), "HTTP 404 Not Found"),
        (status(403), "HTTP 403 Forbidden"),
        (status(401), "HTTP 401 Unauthorized"),
        (status(410), "HTTP 410 Gone"),
        (content(b""), "the file is empty (0 bytes)"),
        (content(b"x" * 1_000_001), "the file has 1,000,001 bytes, more than --max_download 1,000,000 bytes"),
        (chunked(b"x" * 1_500_000), "the file has more than --max_download 1,000,000 bytes"),
        (status(302, Location="ftp://host/a.mp4?token=secret"), "the server redirects to ftp:, and only"),
        (status(302, Location="file:///etc/passwd"), "the server redirects to file:, and only"),
        (content(b"\n<!DOCTYPE html><title>Log in</title>"), "the server sent a web page, not a clip"),
        (content(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd"), "the downloaded file is an HLS playlist, not a clip"),
    ],
)
def test_other_faults_end_the_download_at_once(web: WebServer, target: Path, answer: Answer, message: str) -> None:
    begin = time.monotonic()
    problem = download(web.url("/a.mp4", answer), str(target), LIMITS)
    assert problem.startswith(message) and "secret" not in problem
    assert web.requests == ["/a.mp4"]
    assert time.monotonic() - begin < 30
    assert not target.exists() or target.stat().st_size < 1_300_000


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (status(503), "HTTP 503 Service Unavailable ("),
        (reset, "the connection was cut: Server disconnected ("),
        (content(DATA[:1000], announced=5000), "the connection was cut after "),
        (stalling(b""), "no data for 0.2 s"),
        (slow(DATA, 0.1), "the time was over after "),
    ],
)
def test_the_deadline_ends_the_attempts(web: WebServer, target: Path, answer: Answer, cause: str) -> None:
    begin = time.monotonic()
    problem = download(web.url("/a.mp4", answer), str(target), SHORT)
    assert problem.startswith("no download within 0.8 s (--download_timeout), ") and cause in problem
    assert time.monotonic() - begin < 30


def test_the_time_that_is_left_may_be_over(web: WebServer, target: Path) -> None:
    """As for a process that replaces a killed one. 0 seconds would be no limit."""
    url = web.url("/a.mp4", stalling(b"1"))
    begin = time.monotonic()
    outcome = download_module.download(url, str(target), LIMITS, begin - 1)
    assert outcome.may_pass and "1 attempt: the time was over" in outcome.problem
    assert time.monotonic() - begin < 30


def test_a_server_that_seems_to_be_down_gets_one_attempt(web: WebServer, target: Path) -> None:
    limits = LIMITS.of_one_attempt()
    assert limits.stall == 5 and replace(LIMITS, timeout=120).of_one_attempt().stall == 5
    outcome = download_module.download(
        web.url("/a.mp4", status(503), content(DATA)), str(target), limits, time.monotonic() + 20
    )
    assert outcome.may_pass and outcome.problem.startswith("HTTP 503 Service Unavailable (no other attempt: the last ")
    assert web.requests == ["/a.mp4"]
    assert download(web.url("/a.mp4", content(DATA)), str(target), limits) == ""


def _until_closed(data: bytes, **headers: str) -> Answer:
    """Answer without the size; the end of the connection is the end of the file. headers: with `_` for `-`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_video_whose_size_was_not_announced_is_fetched_again(
    web: WebServer, target: Path, tmp_path: Path, suffix: str
) -> None:
    data = render_clip(tmp_path / f"a.{suffix}").read_bytes()
    url = web.url("/a", _until_closed(data[: len(data) * 6 // 10]), _until_closed(data))
    assert download(url, str(target), LIMITS) == "" and target.read_bytes() == data
    assert len(web.requests) == 2
    problem = download(web.url("/a", _until_closed(data[:-100])), str(target), SHORT)
    assert "the connection was cut after " in problem and "the end of the video is missing" in problem


def test_an_incomplete_video_that_was_received_completely_is_kept(web: WebServer, target: Path, tmp_path: Path) -> None:
    data = render_clip(tmp_path / "a.mkv").read_bytes()[:-500]
    for answer in (chunked(data), content(data)):
        assert download(web.url("/a.mkv", answer), str(target), LIMITS) == "" and target.read_bytes() == data


def test_a_part_of_the_file_is_refused(web: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    url = web.url("/a.mp4", content(DATA[:1000], status=206))
    assert download(url, str(target), LIMITS).startswith("the server sent a part of the file only (HTTP 206)")
    assert len(web.requests) == 1
    monkeypatch.setitem(conf, "http", {"headers": {"Range": "bytes=0-999"}})
    assert download(url, str(target), LIMITS) == "", "the user asked for this part"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_compressed_content_is_refused(web: WebServer, target: Path, encoding: str) -> None:
    url = web.url("/a.mp4", _until_closed(gzip.compress(DATA), Content_Encoding=encoding))
    problem = download(url, str(target), LIMITS)
    assert problem.startswith(f"the server sent the file compressed (Content-Encoding: {encoding})")
    for plain in ("identity", "aws-chunked"):
        assert download(web.url("/a", _until_closed(DATA, Content_Encoding=plain)), str(target), LIMITS) == ""


def test_causes_are_whole_whatever_the_query(web: WebServer, target: Path) -> None:
    url = web.url("/a.mp4?dl=404&x=HTTP&y=Not#Found", status(404))
    assert download(url, str(target), LIMITS) == "HTTP 404 Not Found"


def test_every_cause_is_kept(web: WebServer, target: Path) -> None:
    url = web.url("/a.mp4", status(503), status(503), content(b"1", announced=9), status(404))
    assert download(url, str(target), LIMITS) == (
        "HTTP 503 Service Unavailable (2 times); the connection was cut after 1 of 9 bytes; HTTP 404 Not Found"
    )


def test_no_server(web: WebServer, target: Path) -> None:
    web.server_close()
    problem = download(web.url("/a.mp4"), str(target), SHORT)
    assert "attempts: no connection to 127.0.0.1:" in problem and "refused" in problem


def test_a_server_may_ask_for_a_pause(web: WebServer, target: Path) -> None:
    url = web.url("/a.mp4", status(429, Retry_After="1"), content(DATA))
    begin = time.monotonic()
    assert download(url, str(target), LIMITS) == ""
    assert time.monotonic() - begin >= 1
    url = web.url("/b.mp4", status(503, Retry_After="3600"), content(DATA))
    assert download(url, str(target), LIMITS).endswith("1 attempt: HTTP 503 Service Unavailable")


def test_redirects_are_followed(web: WebServer, target: Path) -> None:
    final = web.url("/b.mp4", content(DATA))
    assert download(web.url("/a.mp4", status(302, Location=final)), str(target), LIMITS) == ""
    assert target.read_bytes() == DATA
    assert download(web.url("/c", status(301, Location="/c")), str(target), LIMITS) == "too many redirects"


def test_redirects_to_other_hosts_can_be_refused(web: WebServer, target: Path) -> None:
    own = replace(LIMITS, same_host=True)
    final = web.url("/b.mp4", content(DATA))
    port = web.server_address[1]
    for location in (final, "/b.mp4", f"//127.0.0.1:{port}/b.mp4"):
        assert download(web.url("/a.mp4", status(302, Location=location)), str(target), own) == ""
        assert target.read_bytes() == DATA
    with web_server() as other:
        secret = other.url("/secret?key=t0psecret", content(DATA))
        other_port = other.server_address[1]
        for location in (secret, secret.replace("http:", ""), secret.replace("//", "//127.0.0.1@")):
            problem = download(web.url("/a.mp4", status(302, Location=location)), str(target), own)
            assert problem == f"the server redirects to another host, 127.0.0.1:{other_port}, which is not followed"
        for location, host in (
            (f"http://localhost:{port}/b.mp4", f"localhost:{port}"),
            (f"https://127.0.0.1:{port}/b.mp4", f"127.0.0.1:{port}"),
            ("http://169.254.169.254/latest", "169.254.169.254:80"),
            (f"http://[::1]:{port}/b.mp4", f"::1:{port}"),
        ):
            web.url("/b.mp4", status(301, Location=location))
            problem = download(web.url("/a.mp4", status(302, Location="/b.mp4")), str(target), own)
            assert problem == f"the server redirects to another host, {host}, which is not followed"
        assert other.requests == []
        assert download(web.url("/a.mp4", status(302, Location=secret)), str(target), LIMITS) == ""
    problem = download(web.url("/a.mp4", status(302, Location="file:///etc/passwd")), str(target), own)
    assert problem.startswith("the server redirects to file:")


def test_credentials_are_sent_and_are_in_no_message(web: WebServer, target: Path) -> None:
    for answer in (content(DATA), status(403), status(503), stalling(b""), status(302, Location="/b?token=t0psecret")):
        url = web.url("/a.mp4?signature=t0psecret&x=%2F%7e", answer, user="me:pa55word@")
        problem = download(url, str(target), SHORT)
        assert (problem == "") == (answer is not None and target.exists() and target.read_bytes() == DATA)
        assert "t0psecret" not in problem and "pa55word" not in problem and "me:" not in problem
        target.unlink(missing_ok=True)
    assert web.headers[0]["Authorization"] == "Basic bWU6cGE1NXdvcmQ="
    assert web.requests[0] == "/a.mp4?signature=t0psecret&x=%2F%7e", "a signature covers the exact characters"


def test_a_url_with_characters_that_must_be_quoted(web: WebServer, target: Path) -> None:
    url = web.url("/", content(DATA)) + "a b/é.mp4"
    web.answers["/a%20b/%C3%A9.mp4"] = [content(DATA)]
    assert download(url, str(target), LIMITS) == "" and target.read_bytes() == DATA


def test_a_proxy_of_the_environment_is_used(web: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", web.url("/"))
    web.answers["http://host.invalid/a.mp4"] = [content(DATA)]
    assert download("HTTP://host.invalid/a.mp4", str(target), LIMITS) == "" and target.read_bytes() == DATA


def test_a_full_disk(web: WebServer) -> None:
    problem = download(web.url("/a.mp4", content(DATA)), "/dev/full", LIMITS)
    assert "is full (No space left on device)" in problem and "TMPDIR" in problem
    assert web.requests == ["/a.mp4"]


def test_headers_for_all_requests_come_from_the_settings_of_fsspec(
    web: WebServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "http", {"headers": {"User-Agent": "our team"}})
    assert download(web.url("/a.mp4", content(DATA)), str(target), LIMITS) == ""
    assert web.headers[0]["User-Agent"] == "our team" and web.headers[0]["Accept-Encoding"] == "identity"
