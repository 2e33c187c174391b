"""Media that are wrong, traps, or not for the server: each has its status code, and the server lives on."""

from __future__ import annotations

import json

import pytest

from scripts.serving_runs import RunningServer, video_body
from tests.serving import raw_http
from tests.serving.faults import (
    BODY_BYTES,
    World,
    about,
    as_data,
    endless_gif,
    png_bomb,
)

pytestmark = pytest.mark.usefixtures("lives_on")


def test_a_decompression_bomb_costs_its_request(server: RunningServer) -> None:
    status, text = raw_http.post(server.url, about(as_data(png_bomb(60_000), "image/png"), "image_url"))
    assert status == 400, text


def test_a_decoder_that_does_not_end_is_killed(server: RunningServer) -> None:
    gif = endless_gif()
    assert len(gif) < BODY_BYTES / 2
    status, text = raw_http.post(server.url, about(as_data(gif, "image/gif"), "image_url"))
    assert status == 400 and "2 s" in json.loads(text)["error"]["message"], text


def test_a_decoder_that_is_killed_is_replaced(server: RunningServer, world: World) -> None:
    for device in server.device_processes():
        for decoder in device.children(recursive=True):
            decoder.kill()
    status, _ = raw_http.post(server.url, video_body(world.clip))
    assert status == 200


def test_a_video_without_its_end_is_refused(server: RunningServer, world: World) -> None:
    data = world.clip.read_bytes()
    status, _ = raw_http.post(server.url, about(as_data(data[: len(data) // 2], "video/mp4")))
    assert status == 400  # its table of contents is at the end


def test_only_allowed_media_urls_are_read(server: RunningServer, world: World, site: int) -> None:
    port = server.url.rpartition(":")[2]
    refused = [
        f"http://127.0.0.1:{port}/metrics",  # the server itself
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/a.mp4",
        f"http://127.0.0.1:{site}@evil.example/a.mp4",
        f"https://127.0.0.1:{site}/a.mp4/../../../etc/passwd",
        "ftp://127.0.0.1/a.mp4",
        "s3://bucket/key.mp4",
        "/etc/passwd",
        "file:///etc/passwd",
        f"file://{world.outside / 'secret.mp4'}",
        f"file://{world.allowed}/../outside/secret.mp4",
        f"file://{world.allowed / 'link.mp4'}",
        f"file://evil.example{world.allowed / 'a.mp4'}",
        f"file://{world.allowed / 'pipe.mp4'}",
        f"file://{world.allowed}",
        f"file://{world.allowed / 'missing.mp4'}",
    ]
    for url in refused:
        status, text = raw_http.post(server.url, about(url))
        assert status == 400, (url, text)
    existing, missing = (
        raw_http.post(server.url, about(f"file://{world.outside}/{name}.mp4"))[1] for name in ("secret", "missing")
    )
    assert existing.replace("secret", "missing") == missing
    for url in (f"http://127.0.0.1:{site}/a.mp4", f"file://{world.allowed / 'a.mp4'}"):
        status, text = raw_http.post(server.url, about(url))
        assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == world.truth, (url, text)


def test_a_redirect_to_another_host_is_not_followed(
    server: RunningServer, site: int, elsewhere: tuple[int, list[str]]
) -> None:
    status, text = raw_http.post(server.url, about(f"http://127.0.0.1:{site}/redirect.mp4"))
    assert status == 400 and "redirect" in text
    assert elsewhere[1] == []


def test_a_download_without_an_end_is_ended(server: RunningServer, site: int) -> None:
    assert raw_http.post(server.url, about(f"http://127.0.0.1:{site}/endless.mp4"))[0] == 400
