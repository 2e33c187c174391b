"""Keys, the end of a server, and a short load."""

from __future__ import annotations

import asyncio
import json
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil

from scripts import serving_runs
from scripts.serving_runs import RunningServer, video_body
from tests.serving import raw_http
from tests.serving.conftest import TINY
from tests.serving.faults import (
    KEY,
    WAIT_SECONDS,
    World,
    until,
)


def test_a_wrong_key_is_refused_and_a_signal_drains(world: World) -> None:
    flags = ("--devices", "cpu", "--bs", "2", "--api_key_env", "SERVER_TEST_KEY", "--drain_timeout", "60")
    environment = {"SERVER_TEST_KEY": KEY}
    with serving_runs.running_server(TINY, world.clip.parent, *flags, environment=environment) as server:
        body = video_body(world.clip)
        for headers in ("", "Authorization: Bearer wrong\r\n", "Authorization: Basic abc\r\n"):
            assert raw_http.post(server.url, body, headers=headers)[0] == 401
        authorization = f"Authorization: Bearer {KEY}\r\n"
        assert raw_http.post(server.url, body, headers=authorization)[0] == 200
        long = video_body(world.clip, max_tokens=400, ignore_eos=True)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(raw_http.post, server.url, long, headers=authorization)
            until(lambda: "captioning_requests_running 1.0" in _metrics_text(server, authorization))
            server.process.send_signal(signal.SIGTERM)
            status, text = asked.result()
        assert status == 200 and json.loads(text)["usage"]["completion_tokens"] > 0
        assert server.process.wait(WAIT_SECONDS) == 0
        assert KEY not in server.log_text()


def _metrics_text(server: RunningServer, authorization: str) -> str:
    request = raw_http.head("/metrics", None, f"Connection: close\r\n{authorization}", "GET")
    with raw_http.connection(server.url) as opened:
        opened.sendall(request)
        return raw_http.received(opened).decode("utf-8")


def test_device_processes_end_with_the_server(world: World) -> None:
    with serving_runs.running_server(TINY, world.clip.parent, "--devices", "cpu,cpu", "--bs", "2") as server:
        devices = server.device_processes()
        assert len(devices) == 2
        server.process.kill()
        _, alive = psutil.wait_procs(devices, timeout=WAIT_SECONDS)
        assert alive == []


def test_many_requests_under_load_have_the_right_captions(server: RunningServer, world: World) -> None:
    """The short form of `scripts.benchmark_serving`."""
    answers = asyncio.run(serving_runs.send(server.url, [video_body(world.clip)], clients=4, requests=60))
    assert answers.problems == [] and len(answers.ended) == 60 and answers.captions == {0: [world.truth]}
