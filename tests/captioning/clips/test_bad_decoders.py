"""Whole runs with clips on which decoding hangs, crashes or leaks memory: only these clips fail."""

from __future__ import annotations

import csv
import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.decode import available_decoders
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.run import options as run_options
from tests.fakes import FakeSource, mean_colour, render_clip
from tests.runs import read_rows, run_job, write_meta

GOOD, HANGING, CRASHING, LEAKING = (96, 64), (64, 96), (64, 112), (64, 128)
DEADLINE = 4.0
RESTART = 8.0
"""Seconds that a new process needs to start and import after a kill, on a busy machine."""


def _misbehave(images: Sequence[Image.Image]) -> np.ndarray:
    """Runs in the decoding process. The size of the frames selects the misbehaviour."""
    size = images[0].size
    if size == HANGING:
        ctypes.PyDLL(None).sleep(3600)  # while it holds the interpreter's lock, as decord may
    if size == CRASHING:
        os.kill(os.getpid(), signal.SIGSEGV)
    leaked = []
    while size == LEAKING:
        leaked.append(b"x" * 2**25)
    return mean_colour(images)


def test_only_bad_clips_fail_and_they_delay_the_run_by_their_deadlines_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_options, "DecoderLimits", partial(DecoderLimits, memory=2**30))
    sizes = [GOOD, HANGING, GOOD, CRASHING, GOOD, LEAKING, GOOD, GOOD]
    paths = [str(render_clip(tmp_path / f"{i}.mp4", i, size=size)) for i, size in enumerate(sizes)]
    options = replace(write_meta(tmp_path, paths), decode_timeout=DEADLINE, decode_workers=2)
    begin = time.monotonic()
    assert run_job(options, FakeSource()) == [0]
    undisturbed = time.monotonic() - begin
    expected = [row["text"] for row in read_rows(options.output)]
    begin = time.monotonic()
    assert run_job(options, FakeSource(frame_transform=_misbehave)) == [0]
    disturbed = time.monotonic() - begin
    assert [row["text"] for row in read_rows(options.output)] == [
        text if size == GOOD else "" for text, size in zip(expected, sizes, strict=True)
    ]
    with options.output.with_name("out_failures.csv").open(newline="") as file:
        failures = {int(failure["row"]): failure["message"] for failure in csv.DictReader(file)}
    assert sorted(failures) == [1, 3, 5]
    assert "no answer within 4 s" in failures[1]
    assert "signal 11" in failures[3]
    assert "of memory" in failures[5]
    # The hanging clip reaches its deadline once with each decoder. The other process continues meanwhile.
    decoders = len(available_decoders(paths[1]))
    assert disturbed - undisturbed < decoders * (DEADLINE + RESTART)
    print(f"undisturbed {undisturbed:.1f} s, disturbed {disturbed:.1f} s, {decoders} deadlines of {DEADLINE:g} s")
