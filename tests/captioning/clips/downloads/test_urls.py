"""Which paths are URLs, and what may be said of them."""

from __future__ import annotations

import pytest

from pipeline.captioning.clips.downloads.urls import (
    host_of,
    is_url,
    name_in,
    redacted,
    url_problem,
    without_credentials,
)


@pytest.mark.parametrize("path", ["a.mp4", "/data/a.mp4", "./http:/a.mp4", "C:/a.mp4", "", "://a", "a b://c", "1a://b"])
def test_local_paths(path: str) -> None:
    assert not is_url(path)


@pytest.mark.parametrize("url", ["http://h/a.mp4", "HTTPS://h", "s3://b/k", "gs://b/k", "file:///a", "ftp://h/a"])
def test_urls(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://host/a.mp4", ""),
        ("http://user:pw@host:8080/a?b#c", ""),
        ("s3://bucket/a/b?c#d.mp4", ""),
        ("ftp://host/a.mp4", "ftp:// is not supported; a clip is a local file or one of http://, https://, s3://"),
        ("gs://bucket/a.mp4", "gs:// is not supported"),
        ("file:///data/a.mp4", "file:// is not supported; write the local path itself"),
        ("https:///a.mp4", "the URL has no host"),
        ("https://", "the URL has no host"),
        ("https://host:pw@other:x/a", "not a URL: the host is not valid"),
        ("https://me:pass/word@host/a", "not a URL: the host is not valid"),
        ("http://[::1/a", "not a URL: "),
        ("http://host/a\nb", "the URL contains a control character"),
        ("s3://bucket", "the URL has no bucket and key"),
        ("s3:///key", "the URL has no bucket and key"),
    ],
)
def test_problems(url: str, problem: str) -> None:
    assert url_problem(url).startswith(problem) and bool(url_problem(url)) == bool(problem)
    assert "pass" not in url_problem(url) and "pw" not in url_problem(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/folder/a.PNG?x=b.mp4#c.mp4", "/folder/a.PNG"),
        ("https://host/a%2Ejpg", "/a.jpg"),
        ("https://host.png", ""),
        ("s3://bucket/a?b#c.png", "bucket/a?b#c.png"),
        ("s3://bucket/a.png?versionId=x.mp4", "bucket/a.png"),
    ],
)
def test_the_name_of_the_file(url: str, name: str) -> None:
    assert name_in(url) == name


def test_credentials_are_removed() -> None:
    url = "https://me:pa%20ss@host/a.mp4?sig=abc%2Fdef&v=1#part"
    text = f"failed: {url}; https://host/a.mp4?sig=abc%2Fdef&v=1; pa ss; abc/def; host"
    assert redacted(text, url) == "failed: the URL; https://host/a.mp4?…; …; …; host"
    assert redacted("HTTP 404: x=1", "http://host/a?x=1") == "HTTP 404: …"
    assert redacted("no host", "http://[::1/a") == "no host"
    short = "/a.mp4?pin=7: a7 7, user u"
    assert redacted(short, "http://u:p@host/a.mp4?pin=7") == "/a.mp4?…: a7 …, user …"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("clips/a?b#c.mp4", "clips/a?b#c.mp4"),
        ("https://host:81/f/a.mp4", "https://host:81/f/a.mp4"),
        ("https://me:pw@host/a.mp4?sig=x#part", "https://host/a.mp4?…"),
        ("https://me@host/a.mp4#part", "https://host/a.mp4?…"),
        ("ftp://me:pw@host/a.mp4", "ftp://host/a.mp4"),
        ("http://me:pw@[::1/a", "http://…"),
        ("http://me:p/w@host/a", "http://…"),
        ("s3://bucket/a?versionId=x", "s3://bucket/a?versionId=x"),
    ],
)
def test_the_log_shows_no_credentials(path: str, shown: str) -> None:
    assert without_credentials(path) == shown


def test_hosts() -> None:
    assert host_of("https://me:pw@Host:81/a") == "host:81" and host_of("s3://bucket/a/b") == "bucket"
    assert host_of("http://[::1/a") == ""
