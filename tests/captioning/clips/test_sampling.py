"""The sampled frames are those of the public programs."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.clips.sampling import MAX_FRAMES, POINTS, FrameSampling, frame_indices
from pipeline.captioning.process.errors import UsageError
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


LLAVA_VIDEO = SHARED / "golden" / "llava-video-a" / "golden.json"


@pytest.mark.skipif(not LLAVA_VIDEO.exists(), reason="recorded outputs of LLaVA-Video are not part of a clone")
def test_recorded_indices_of_llava_video() -> None:
    cases = json.loads(LLAVA_VIDEO.read_text())["cases"]
    assert len(cases) == 35
    for case in cases:
        if case["force_sample"]:
            sampling = FrameSampling("uniform", case["max_frames_num"])
        else:
            sampling = FrameSampling("step", 0, case["fps_argument"], case["max_frames_num"])
        info = case["video_info"]
        assert sampling.indices(info["total_frames"], info["avg_fps"]) == case["frame_indices"], case["name"]


@pytest.mark.parametrize(
    ("sampling", "total", "rate", "expected"),
    [
        (FrameSampling("segments", 4), 390, 30.0, [48, 145, 242, 340]),
        (FrameSampling("uniform", 4), 250, 0.0, [0, 83, 166, 249]),
        (FrameSampling("uniform", 1), 250, 0.0, [0]),
        (FrameSampling("uniform", 8), 3, 0.0, [0, 0, 0, 0, 1, 1, 1, 2]),
        (FrameSampling("uniform", 3, multiple=2), 9, 0.0, [0, 4, 8, 8]),
        (FrameSampling("points", 1), 101, 0.0, [50]),
        (FrameSampling("points", 2), 101, 0.0, [25, 75]),
        (FrameSampling("points", 3), 101, 0.0, [10, 50, 90]),
        (FrameSampling("points", 3), 2, 0.0, [0, 1, 1]),
        (FrameSampling("rate", 0, 2.0, multiple=2), 100, 25.0, [0, 14, 28, 42, 57, 71, 85, 99]),
        (FrameSampling("rate", 0, 2.0, multiple=2), 30, 30.0, [0, 10, 19, 29]),  # 2 frames by the rate, 4 at least
        (FrameSampling("rate", 0, 2.0, 6, multiple=2), 1000, 25.0, [0, 200, 400, 599, 799, 999]),
        (FrameSampling("rate", 0, 2.0, multiple=2), 3, 30.0, [0, 2]),
        (FrameSampling("rate", 0, 2.0, multiple=2), 1, 30.0, [0, 0]),
        (FrameSampling("step", 0, 1.0, 8), 100, 29.97, [0, 30, 60, 90]),
        (FrameSampling("step", 0, 2.0, 64), 11, 5.0, [0, 2, 4, 6, 8, 10]),  # 2.5 is rounded to 2
        (FrameSampling("step", 0, 1.0, 2), 100, 29.97, [0, 99]),
        (FrameSampling("step", 0, 60.0, 8), 3, 25.0, [0, 1, 2]),  # step 0 by the formula
        (FrameSampling("step", 0, 1.0, 5, multiple=2), 9, 2.0, [0, 2, 5, 8]),  # 5 frames by the step, 4 at most
    ],
    ids=str,
)
def test_known_indices(sampling: FrameSampling, total: int, rate: float, expected: list[int]) -> None:
    assert sampling.indices(total, rate) == expected


_multiples = st.integers(1, 4)
_counts = st.builds(
    FrameSampling, st.sampled_from(["segments", "uniform"]), st.integers(1, 900), st.just(0.0), st.just(0), _multiples
)
_points = st.builds(FrameSampling, st.just("points"), st.sampled_from(list(POINTS)), multiple=_multiples)
_limits = st.one_of(st.just(0), st.integers(4, 1000))
_fps = st.floats(0, exclude_min=True, allow_infinity=False)
_rates = st.builds(FrameSampling, st.sampled_from(["rate", "step"]), st.just(0), _fps, _limits, _multiples)
samplings = st.one_of(_counts, _points, _rates)


@given(samplings, st.integers(1, 1_000_000), st.floats(0, exclude_min=True, allow_infinity=False))
def test_indices_are_frames_of_the_clip_in_time_order(sampling: FrameSampling, total: int, rate: float) -> None:
    indices = sampling.indices(total, rate)
    assert indices == sorted(indices)
    assert indices[0] >= 0 and indices[-1] < total
    assert 0 < len(indices) <= sampling.most_frames
    assert len(indices) % sampling.multiple == 0
    assert all(type(index) is int for index in indices)


@given(samplings)
def test_a_still_image_is_sampled_by_every_rule(sampling: FrameSampling) -> None:
    assert set(sampling.indices(1, 0.0)) == {0}


@given(samplings)
def test_the_text_describes_the_sampling_completely(sampling: FrameSampling) -> None:
    assert FrameSampling.parse(str(sampling)) == sampling == pickle.loads(pickle.dumps(sampling))
    assert len(str(sampling)) < 70


def test_texts() -> None:
    """Journals of PLLaVA contain only the number."""
    assert str(FrameSampling("segments", 4)) == "4"
    assert str(FrameSampling("uniform", 8)) == "uniform 8"
    assert str(FrameSampling("rate", 0, 2.0, 32, 2)) == "rate 2.0 fps max 32 multiple 2"
    for text in ("", "0", "x", "uniform", "uniform 0", "points 5", "rate 2.0", "rate 2.0 fps max", "odd 4", "4 extra"):
        with pytest.raises(ValueError):
            FrameSampling.parse(text)


@settings(deadline=None)  # the first example imports torch
@given(st.integers(2, 200_000), st.floats(1, 240), st.floats(0.1, 60), _limits)
def test_rate_follows_the_public_formula(total: int, rate: float, fps: float, max_frames: int) -> None:
    """qwen-vl-utils with its constants: frames in pairs, at least 4, at most 768."""
    import torch

    most = (max_frames or min(768, total)) // 2 * 2
    count = math.floor(min(min(max(total / rate * fps, 4), most), total) / 2) * 2
    expected = torch.linspace(0, total - 1, count).round().long().tolist()
    assert FrameSampling("rate", 0, fps, max_frames, multiple=2).indices(total, rate) == expected


@pytest.mark.parametrize("rule", ["rate", "step"])
def test_an_unknown_frame_rate(rule: str) -> None:
    for rate in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"frame rate is unknown, so the sampling rule {rule} can't be used"):
            FrameSampling(rule, 0, 1.0).indices(5, rate)
    assert FrameSampling("uniform", 2).indices(5, 0.0) == [0, 4]


@pytest.mark.parametrize("rule", ["segments", "uniform", "points", "rate", "step"])
def test_no_frames_with_any_rule(rule: str) -> None:
    sampling = FrameSampling(rule, 0, 1.0) if rule in ("rate", "step") else FrameSampling(rule, 2)
    with pytest.raises(ValueError, match="no frames"):
        sampling.indices(0, 25.0)


def test_without_a_limit_a_long_clip_gives_768_frames() -> None:
    for rule in ("rate", "step"):
        indices = FrameSampling(rule, 0, 1.0).indices(10**6, 25.0)
        assert (len(indices), indices[0], indices[-1]) == (MAX_FRAMES, 0, 10**6 - 1) == (768, 0, 999_999)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("points", 5), "points has points for 1, 2 or 3 frames, not for --num_frames 5; use --sampling uniform"),
        (("uniform", 0), "uniform needs --num_frames, for example --num_frames 3"),
        (("uniform", 4, 2.0), "takes --num_frames, so --fps 2 does not go with it; use --sampling rate or step"),
        (("segments", 4, 0.0, 9), "takes --num_frames, so --max_frames 9 does not go with it"),
        (("rate", 0), "rate needs --fps, for example --fps 1"),
        (("rate", 0, math.inf), "rate needs --fps, for example --fps 1"),
        (("step", 4, 1.0), "takes --fps, so --num_frames 4 does not go with it; use --sampling segments, uniform or p"),
        (("rate", 0, 1.0, 1, 2), "rate with --max_frames 1: the model needs at least 2 frames"),
        (("random", 4), "random is not a rule; use segments, uniform, points, rate or step"),
    ],
)
def test_values_that_do_not_go_together(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        FrameSampling(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fps", "rate", "step"), [(1.0, 29.97, 30), (2.0, 5.0, 2), (60.0, 25.0, 1), (5e-324, 25.0, 10**9)]
)
def test_the_step_between_frames(fps: float, rate: float, step: int) -> None:
    sampling = FrameSampling("step", 0, fps, 8)
    assert sampling.frame_step(rate) == step
    assert sampling.indices(4 * step, rate) == [0, step, 2 * step, 3 * step]


def test_other_rules_have_no_step() -> None:
    with pytest.raises(ValueError, match="uniform has no step"):
        FrameSampling("uniform", 4).frame_step(25.0)
