"""Which paths are URLs, and what may be said of them."""

from __future__ import annotations

import pytest

from pipeline.captioning.clips.downloads.urls import is_url, name_in, redacted, url_problem


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
        ("https://host:pw@other:x/a", "not a URL: Port could not be cast"),
        ("http://[::1/a", "not a URL: Invalid IPv6 URL"),
        ("http://host/a\nb", "the URL contains a control character"),
        ("s3://bucket", "the URL has no bucket and key"),
        ("s3:///key", "the URL has no bucket and key"),
    ],
)
def test_problems(url: str, problem: str) -> None:
    assert url_problem(url).startswith(problem) and bool(url_problem(url)) == bool(problem)


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
