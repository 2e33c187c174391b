"""Clients that leave, a full queue, and device processes that die: the server lives on."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scripts.serving_runs import RunningServer, video_body
from tests.serving import raw_http
from tests.serving.faults import (
    CHAT,
    LONG,
    World,
    about,
    as_data,
    busy,
    endless_gif,
    running,
    until,
)

pytestmark = pytest.mark.usefixtures("lives_on")


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_leaves_frees_its_slot(server: RunningServer, world: World, fields: dict[str, Any]) -> None:
    body = video_body(world.clip, **LONG, **fields)
    with raw_http.connection(server.url) as opened:
        opened.sendall(raw_http.head(CHAT, len(body)) + body)
        until(lambda: running(server) == 1)
        if fields:
            assert raw_http.status_of(opened.recv(4096)) == 200
    until(lambda: running(server) == 0)


def test_a_client_that_leaves_while_its_clip_is_decoded_frees_its_place(server: RunningServer) -> None:
    body = json.dumps(about(as_data(endless_gif(), "image/gif"), "image_url")).encode()
    with raw_http.connection(server.url) as opened:
        opened.sendall(raw_http.head(CHAT, len(body)) + body)
        until(lambda: busy(server) == 1)
    until(lambda: busy(server) == 0)


def test_a_full_queue_says_when_to_try_again(server: RunningServer, world: World) -> None:
    body = video_body(world.clip, **LONG)
    with contextlib.ExitStack() as stack:
        for number in range(6):  # two slots, and four that wait
            opened = stack.enter_context(raw_http.connection(server.url))
            opened.sendall(raw_http.head(CHAT, len(body)) + body)
            until(lambda number=number: busy(server) == number + 1)  # type: ignore[misc]
        with raw_http.connection(server.url) as opened:
            opened.sendall(raw_http.head(CHAT, len(body), "Connection: close\r\n") + body)
            answer = raw_http.received(opened)
        assert raw_http.status_of(answer) == 503 and b"retry-after: " in answer.lower()
        until(lambda: running(server) == 2)
    until(lambda: busy(server) == 0)


# --- devices --------------------------------------------------------------------------------------------------------


def test_a_device_that_is_killed_loses_no_request(server: RunningServer, world: World) -> None:
    (device,) = server.device_processes()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(raw_http.post, server.url, video_body(world.clip)) for _ in range(6)]
        until(lambda: running(server) > 0)
        device.kill()
        answers = [one.result() for one in asked]
    assert [status for status, _ in answers] == [200] * 6
    assert {json.loads(text)["choices"][0]["message"]["content"] for _, text in answers} == {world.truth}
    server.wait_until_healthy()
    assert server.metrics()["captioning_device_restarts_total"] >= 1


def test_a_request_whose_device_dies_twice_gets_503(server: RunningServer, world: World) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(raw_http.post, server.url, video_body(world.clip, **LONG))
        seen: set[int] = set()
        for _ in range(2):
            until(lambda: running(server) == 1 and any(one.pid not in seen for one in server.device_processes()))
            for device in server.device_processes():
                seen.add(device.pid)
                device.kill()
            until(lambda: server.status("/health") == 503)
        assert asked.result()[0] == 503
