"""Servers that the tests of downloads share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.captioning.clips.downloads.servers import WebServer, s3_server, web_server


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers are on this machine, whatever proxies the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(scope="package")
def s3() -> Iterator[Any]:
    with s3_server() as client:
        yield client
