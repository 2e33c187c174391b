"""`pipeline.client bench` against a stub: the figures, the noise, failures."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.responses import Response

from pipeline.client import command
from tests.client.stub_server import StubServer, completion, media, refusal

SMALL = ("--size", "48x32", "--frames", "3", "--batch", "2", "--in_flight", "4")


async def _two_words(body: dict[str, Any]) -> Response:
    return completion("two words")


def _bench(server: StubServer, *flags: str) -> int:
    return command.main(["bench", "--base_url", server.url, *SMALL, *flags])


def test_all_modes_and_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(_two_words).running() as server:
        assert _bench(server, "--requests", "6", "--json") == 0
        first = list(server.bodies)
        assert _bench(server, "--requests", "6", "--json", "--mode", "single") == 0
    document = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [mode["mode"] for mode in document["modes"]] == ["single", "batch", "stream", "batched-stream"]
    sent = sum(len(media(body)[0][1]) for body in first[1:7])  # the first request is not measured
    for mode in document["modes"]:
        assert (mode["requests"], mode["failures"], mode["retries"], mode["problem"]) == (6, 0, 0, "")
        assert mode["clips"] * mode["seconds"] == pytest.approx(6)
        assert mode["frames"] * mode["seconds"] == pytest.approx(18)
        assert mode["tokens"] * mode["seconds"] == pytest.approx(12)
        assert mode["megabytes"] * mode["seconds"] == pytest.approx(sent / 1e6)
        assert 0 < mode["latency_median"] <= mode["latency_p99"] <= mode["seconds"]
    assert len(first) == 1 + 4 * 6 and first[0]["max_tokens"] == 50
    assert first[1:7] == server.bodies[-6:]  # the same noise in every run
    frames = [np.asarray(Image.open(io.BytesIO(base64.b64decode(frame)))) for frame in _frames(first[0])]
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 3
    assert frames[0].std() > 30 and (frames[0] != frames[1]).any()
    assert len({media(body)[0][1] for body in first[1:7]}) == 6


def _frames(body: dict[str, Any]) -> list[str]:
    ((kind, url),) = media(body)
    assert kind == "video_url" and url.startswith("data:video/jpeg;base64,")
    return url.split(",")[1:]


def test_the_table_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    server: StubServer

    async def sometimes(body: dict[str, Any]) -> Response:
        return refusal(400, "no more") if len(server.bodies) > 4 else completion("two words")

    with StubServer(sometimes).running() as server:
        assert _bench(server, "--requests", "5", "--mode", "single", "--send", "images") == 1
    assert [kind for kind, _ in media(server.bodies[0])] == ["image_url"] * 3
    printed = capsys.readouterr()
    (row,) = [line for line in printed.out.splitlines() if " single " in line]
    assert [cell.strip() for cell in row.split("│")[1:6]] == ["single", "1", "5", "2", "0"]
    assert "clips/s" in printed.out and "48x32" in printed.out and "no more" in printed.err


def test_a_server_that_refuses_everything(capsys: pytest.CaptureFixture[str]) -> None:
    async def never(body: dict[str, Any]) -> Response:
        return refusal(400, "no videos here")

    with StubServer(never).running() as server:
        assert _bench(server, "--requests", "5") == 1
    assert len(server.bodies) == 1
    printed = capsys.readouterr()
    assert "the first request failed" in printed.err and "no videos here" in printed.err and printed.out == ""


def test_a_server_that_is_gone_ends_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    server: StubServer

    async def soon_gone(body: dict[str, Any]) -> Response:
        return refusal(400, "no more") if len(server.bodies) > 4 else completion("two words")

    with StubServer(soon_gone).running() as server:
        assert _bench(server, "--requests", "1000", "--mode", "stream") == 1
    assert 4 + 32 <= len(server.bodies) <= 4 + 32 + 4  # the last ones were in flight
    assert "32 requests in a row failed; the last one: " in capsys.readouterr().err


@pytest.mark.parametrize("size", ["336", "0x3", "336x", "axb", "99999x1"])
def test_a_bad_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["bench", "--size", size]) == 2
    assert repr(size) in capsys.readouterr().err
