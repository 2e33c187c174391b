"""A decoder that hangs or dies costs its clip alone."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.captioning.clips.loader import ClipLoader
from tests.fakes import mean_colour, render_clip


def _hang_on_tall(images: Sequence[Image.Image]) -> np.ndarray:
    """Spins in C with the interpreter locked, as decord can, on clips higher than wide."""
    if images[0].height > images[0].width:
        ctypes.PyDLL(None).sleep(3600)
    return mean_colour(images)


def _die_on_tall(images: Sequence[Image.Image]) -> np.ndarray:
    if images[0].height > images[0].width:
        os.kill(os.getpid(), signal.SIGSEGV)
    return mean_colour(images)


def _raise(images: Sequence[Image.Image]) -> np.ndarray:
    raise ValueError("beyond 64 megapixels")


def _rows(folder: Path) -> list[tuple[int, str]]:
    sizes = [(96, 64), (64, 96), (96, 64)]
    return [(i, str(render_clip(folder / f"{i}.mp4", i, size=size))) for i, size in enumerate(sizes)]


def test_clips_come_in_order_with_their_rows(tmp_path: Path) -> None:
    rows = [(7, _rows(tmp_path)[0][1]), (3, "missing.mp4"), (5, str(tmp_path / "1.mp4"))]
    with ClipLoader(rows, 2, mean_colour, timeout=20, prefetch=1) as loader:
        clips = list(loader)
    assert [clip.row for clip in clips] == [7, 3, 5]
    assert [clip.frames is None for clip in clips] == [False, True, False]
    assert (clips[1].stage, "no such file" in clips[1].messages[0]) == ("path", True)


@pytest.mark.parametrize(
    ("transform", "timeout", "message"), [(_hang_on_tall, 3, "no answer within 3 s"), (_die_on_tall, 30, "signal 11")]
)
def test_a_hang_or_a_crash_costs_one_clip(tmp_path: Path, transform, timeout: float, message: str) -> None:  # type: ignore[no-untyped-def]
    rows = _rows(tmp_path)
    begin = time.monotonic()
    with ClipLoader(rows, 2, transform, timeout=timeout, prefetch=1) as loader:
        clips = list(loader)
    assert [clip.frames is None for clip in clips] == [False, True, False]
    assert message in " ".join(clips[1].messages)
    assert time.monotonic() - begin < 150


def test_a_transform_that_raises_is_a_failure_of_its_own_stage(tmp_path: Path) -> None:
    with ClipLoader(_rows(tmp_path)[:1], 2, _raise, timeout=20, prefetch=1) as loader:
        clip = next(iter(loader))
    assert (clip.stage, clip.messages) == ("prepare", ("ValueError: beyond 64 megapixels",))


def test_leaving_early_leaves_no_process(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with ClipLoader(_rows(tmp_path), 2, mean_colour, timeout=20, prefetch=1) as loader:
        next(iter(loader))
    left = {child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}
    assert not left - before
