"""The sampled frames are those of the public PLLaVA."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.clips.sampling import frame_indices
from tests.golden import SHARED


def test_known_clip() -> None:
    assert frame_indices(390, 4) == [48, 145, 242, 340]


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_indices_follow_the_public_formula(total: int, wanted: int) -> None:
    segment = (total - 1) / wanted
    expected = [int(segment / 2 + np.round(segment * k)) for k in range(wanted)]
    indices = frame_indices(total, wanted)
    assert indices == expected
    assert indices[-1] < total


@pytest.mark.skipif(not SHARED.is_dir(), reason="recorded videos are not part of a clone")
def test_recorded_indices() -> None:
    for case in json.loads((SHARED / "golden" / "golden-videos.json").read_text())["cases"]:
        assert frame_indices(case["video_info"]["total_frames"], case["num_frames"]) == case["frame_indices"]


def test_no_frames() -> None:
    with pytest.raises(ValueError, match="no frames"):
        frame_indices(0, 4)
