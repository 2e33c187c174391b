"""Downloads from S3, of a real S3 protocol server (moto) and of a server with faults."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.clips.downloads import download as download_module
from pipeline.captioning.clips.downloads.limits import DownloadLimits
from tests.captioning.clips.downloads.servers import Answer, WebServer, content, stalling, status

DATA = bytes(range(256)) * 2000
LIMITS = DownloadLimits(max_bytes=10**6, timeout=20.0)


@pytest.fixture(autouse=True)
def new_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec keeps file systems for later use; those of other tests have other servers."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0.05)


def _fetch(url: str, folder: Path, limits: DownloadLimits = LIMITS) -> tuple[str, bytes]:
    target = folder / "file"
    problem = download_module.download(url, str(target), limits, time.monotonic() + limits.timeout).problem
    return problem, target.read_bytes() if target.exists() else b""


@pytest.mark.parametrize("key", ["a.mp4", "folder/b c?d#é%20.mp4", "e?versionId=f.mp4"])
def test_objects(s3: Any, tmp_path: Path, key: str) -> None:
    s3.put_object(Bucket="clips", Key=key.partition("?versionId=")[0], Body=DATA)
    assert _fetch(f"s3://clips/{key}", tmp_path) == ("", DATA)


def test_a_scheme_in_upper_case(s3: Any, tmp_path: Path) -> None:
    s3.put_object(Bucket="clips", Key="a.mp4", Body=DATA)
    assert _fetch("S3://clips/a.mp4", tmp_path) == ("", DATA)


def test_limits(s3: Any, tmp_path: Path) -> None:
    s3.put_object(Bucket="clips", Key="large.mp4", Body=b"x" * 1_500_000)
    s3.put_object(Bucket="clips", Key="empty.mp4", Body=b"")
    problem, data = _fetch("s3://clips/large.mp4", tmp_path)
    assert problem == "the file has 1,500,000 bytes, more than --max_download 1,000,000 bytes"
    assert len(data) < 1_000_000
    assert _fetch("s3://clips/empty.mp4", tmp_path)[0] == "the file is empty (0 bytes)"


def test_missing_buckets_and_keys(s3: Any, tmp_path: Path) -> None:
    assert _fetch("s3://clips/no.mp4", tmp_path)[0] == "there is no such key in the bucket"
    assert _fetch("s3://other/no.mp4", tmp_path)[0] == "there is no such bucket"


def test_missing_credentials(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    problem = _fetch("s3://clips/a.mp4", tmp_path)[0]
    assert problem.startswith("no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_a_bucket_that_needs_no_credentials(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf, set_conf_env

    s3.put_object(Bucket="clips", Key="public.mp4", Body=DATA, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(conf, "s3", {})
    set_conf_env(conf, {"FSSPEC_S3": '{"anon": true}'})
    assert _fetch("s3://clips/public.mp4", tmp_path) == ("", DATA)


def test_without_s3fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    problem = _fetch("s3://clips/a.mp4", tmp_path)[0]
    assert problem.startswith("s3:// needs the package s3fs") and problem.endswith("pip install s3fs==2025.3.0")


def _error(code: str, status_code: int) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>text of {code}</Message></Error>".encode()
    return content(body, status=status_code)


@pytest.fixture
def endpoint(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make the web server the S3 server; gives a function from answers to the URL that gets them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{web.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    def url(*answers: Answer) -> str:
        web.url("/clips/a.mp4", *answers)
        return "s3://clips/a.mp4"

    return url


def test_faults_that_may_pass(web: WebServer, endpoint: Callable[..., str], tmp_path: Path) -> None:
    faults = (
        _error("SlowDown", 503), _error("InternalError", 500), _error("RequestTimeout", 400), status(429),
        content(DATA[:1000], announced=len(DATA)),
    )  # fmt: skip
    assert _fetch(endpoint(*faults, content(DATA)), tmp_path) == ("", DATA)
    assert web.requests == ["/clips/a.mp4"] * 6


def test_faults_that_do_not(web: WebServer, endpoint: Callable[..., str], tmp_path: Path) -> None:
    assert _fetch(endpoint(_error("AccessDenied", 403)), tmp_path)[0] == "HTTP 403 AccessDenied: text of AccessDenied"
    assert len(web.requests) == 1


def test_the_deadline(web: WebServer, endpoint: Callable[..., str], tmp_path: Path) -> None:
    limits = DownloadLimits(10**6, timeout=1.5, longest_stall=0.3)
    _fetch(endpoint(content(DATA)), tmp_path, limits)  # making a client of S3 takes long on a busy machine
    problem = _fetch(endpoint(_error("SlowDown", 503), stalling(DATA[:1000])), tmp_path, limits)[0]
    assert problem.startswith("no download within 1.5 s (--download_timeout), ")
    assert "HTTP 503 SlowDown: text of SlowDown; no data for 0.3 s after 1,000 of 1,001 bytes" in problem


def test_no_server(tmp_path: Path, endpoint: Callable[..., str], web: WebServer) -> None:
    web.server_close()
    problem = _fetch(endpoint(), tmp_path, LIMITS.of_one_attempt())[0]
    assert "no connection to S3, or it was cut: " in problem and os.environ["AWS_ENDPOINT_URL"] in problem
