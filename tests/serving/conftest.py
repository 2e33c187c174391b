"""Running servers with pllava-tiny, and rendered clips with their true captions. Tests of this folder share them.

`tiny_server` has usual limits. `server` has tight ones and may read a site and a folder: for faults.
"""

from __future__ import annotations

import csv
import http.server
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import serving_runs
from scripts.clip_world import random_clip, write_clips
from scripts.serving_runs import RunningServer
from tests.serving.faults import BODY_BYTES, MediaHandler, World, check_alive, site_of

TINY = Path(__file__).parents[2] / "pretrained_models" / "pllava-tiny"
CLIPS = 6


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered clips, and their table with the true captions."""
    folder = tmp_path_factory.mktemp("served")
    write_clips(folder, (random_clip(77, number) for number in range(CLIPS)))
    return folder


@pytest.fixture(scope="session")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "meta.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def tiny_server(folder: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    framework = request.config.getoption("--framework")
    flags = ("--devices", "cpu", "--framework", framework, "--bs", "4")
    with serving_runs.running_server(TINY, folder, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("faults")
    clips = folder / "clips"
    write_clips(clips, [random_clip(77, 0)])
    allowed, outside = folder / "allowed", folder / "outside"
    allowed.mkdir()
    outside.mkdir()
    clip = clips / "clip_00000.mp4"
    for target in (allowed / "a.mp4", outside / "secret.mp4"):
        target.write_bytes(clip.read_bytes())
    (allowed / "link.mp4").symlink_to(outside / "secret.mp4")
    os.mkfifo(allowed / "pipe.mp4")
    return World(clip, random_clip(77, 0).shown.caption(), allowed, outside)


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[tuple[int, list[str]]]:
    """Another site, which the server may not read: its port, and what was requested from it."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with site_of(Handler) as port:
        yield port, requested


@pytest.fixture(scope="session")
def site(world: World, elsewhere: tuple[int, list[str]]) -> Iterator[int]:
    """The site that the server may read: its port."""
    attributes = {"clip": world.clip.read_bytes(), "elsewhere": f"http://127.0.0.1:{elsewhere[0]}/secret.mp4"}
    with site_of(type("Handler", (MediaHandler,), attributes)) as port:
        yield port


@pytest.fixture(scope="session")
def server(world: World, site: int) -> Iterator[RunningServer]:
    flags = {
        "--devices": "cpu",
        "--bs": "2",
        "--max_waiting": "4",
        "--max_body": str(BODY_BYTES),
        "--body_timeout": "2",
        "--max_images": "8",
        "--decode_timeout": "2",
        "--download_timeout": "2",
        "--allow_media_domain": f"127.0.0.1:{site}",
        "--allow_media_path": str(world.allowed),
    }
    arguments = [part for pair in flags.items() for part in pair]
    with serving_runs.running_server(TINY, world.clip.parent, *arguments) as running:
        yield running


@pytest.fixture
def lives_on(server: RunningServer, world: World) -> Iterator[None]:
    """After the test, the server answers, and all slots are free."""
    yield
    check_alive(server, world)
