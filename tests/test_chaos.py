"""A run whose worker is killed at a random moment loses nothing: the short form of `python -m scripts.chaos`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from scripts import launched
from scripts.chaos import FLAGS, Chaos

pytestmark = pytest.mark.msrun


def test_a_killed_and_resumed_run_writes_what_an_undisturbed_run_writes(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=7, clips=16)
    chaos.prepare(launched.plain(*FLAGS))
    chaos.disturb(0, "worker", signal.SIGKILL, short=True)
