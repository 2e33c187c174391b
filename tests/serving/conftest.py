"""A running server with pllava-tiny, and rendered clips with their true captions. Tests of this folder share them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import serving_runs
from scripts.clip_world import random_clip, write_clips
from scripts.serving_runs import RunningServer

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
