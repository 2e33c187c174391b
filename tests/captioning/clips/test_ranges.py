"""A range of a video gives the frames that decoding the whole file and choosing by time gives."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.captioning.clips import decode_pyav_range
from pipeline.captioning.clips.decode import available_decoders, decode
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from tests.captioning.clips.rendered_videos import (
    MILLISECONDS,
    OPEN_GOP,
    frame_times,
    sampled_hashes,
    write_video,
)
from tests.golden import VIDEOS

needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason="real videos are not part of a clone")
REAL_VIDEOS = ["av1_video.mkv", "bikes.mp4", "carphone_pristine.mp4", "discard_first_keyframe.mp4", "h265_video.mp4"]
REAL_VIDEOS += ["nasa_13013.mp4", "nasa_13013_rotated.mp4", "testsrc2_mpeg4.mp4", "testsrc2_odd_height_444.mp4"]
REAL_VIDEOS += ["testsrc2_vp9.webm", "video_90.mov"]
RENDERED = {
    "open_gop.mp4": ("libx264", OPEN_GOP),
    "open_gop.mkv": ("libx264", OPEN_GOP),
    "open_gop.ts": ("libx264", OPEN_GOP),
    "open_gop.avi": ("libx264", OPEN_GOP),
    "open_gop.h264": ("libx264", OPEN_GOP),
    "a.flv": ("flv1", {}),
    "a.mpg": ("mpeg1video", {"bf": "2"}),
    "a.avi": ("mpeg4", {"bf": "2"}),
    "a.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


def _ranges(times: list[int], seed: int, count: int) -> list[TimeRange]:
    """Ranges of a video: all of it, its last frame, some that begin with a frame or between two, and short ones."""
    chosen = random.Random(seed)
    ranges = [TimeRange(0), TimeRange(times[-1]), TimeRange(times[len(times) // 2], times[-1] + 1)]
    for _ in range(count):
        start = chosen.choice([chosen.choice(times), chosen.randint(0, times[-1])])
        ranges.append(TimeRange(start, start + chosen.choice([1, 40, 300, 1000, 4000])))
    return ranges


def _check(path: Path, times: list[int], ranges: list[TimeRange]) -> None:
    every = sampled_hashes(path, len(times)).images
    assert len(set(every)) > 0.9 * len(times), "frames can be told from each other"
    for part in ranges:
        expected = [number for number, time in enumerate(times) if part.contains(time)]
        expected = expected or [max(number for number, time in enumerate(times) if time <= part.start)]
        sampled = sampled_hashes(path, len(expected), part)
        assert sampled.total_frames == len(expected), part
        assert sampled.images == [every[number] for number in expected], part


@needs_videos
@pytest.mark.parametrize("name", REAL_VIDEOS)
def test_ranges_of_real_videos(name: str) -> None:
    times = frame_times(VIDEOS / name)
    _check(VIDEOS / name, times, _ranges(times, seed=1, count=4))


@pytest.mark.parametrize("name", RENDERED)
def test_ranges_in_several_codecs_and_containers(tmp_path: Path, name: str) -> None:
    """With frames that are stored in another order than shown, and in formats with few timestamps or none."""
    codec, options = RENDERED[name]
    path = write_video(tmp_path / name, range(150), codec, options)
    times = [number * 40 for number in range(150)]  # the timestamps of raw streams and some AVI files are wrong
    _check(path, times, _ranges(times, seed=2, count=8))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_ranges_of_a_video_with_a_variable_frame_rate(tmp_path: Path, name: str) -> None:
    chosen, timestamps = random.Random(0), [0]
    for _ in range(120):
        timestamps.append(timestamps[-1] + chosen.choice([2, 17, 33, 40, 500, 3000]))
    path = write_video(tmp_path / name, timestamps, options={"bf": "3"}, unit=MILLISECONDS, rate=1000)
    assert frame_times(path) == timestamps
    _check(path, timestamps, _ranges(timestamps, seed=3, count=12))


def test_a_range_within_a_long_frame_shows_that_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [0, 1000, 21000, 22000], unit=MILLISECONDS)
    every = sampled_hashes(path, 4)
    for part in (TimeRange(1001, 1002), TimeRange(5000, 9000), TimeRange(20999, 21000)):
        sampled = sampled_hashes(path, 3, part)
        assert (sampled.images, sampled.positions, sampled.partial) == ([every.images[1]], (0, 0, 0), False)


def test_frames_are_in_the_range_by_their_rounded_times(tmp_path: Path) -> None:
    """At 29.97 frames per second frame 100 is shown at 3.336667 s, in a table 3.337 s."""
    path = write_video(tmp_path / "a.mp4", range(150), unit=Fraction(1001, 30000), rate=30)
    every = sampled_hashes(path, 150).images
    before, after = (sampled_hashes(path, 200, part) for part in (TimeRange(3303, 3337), TimeRange(3337, 3370)))
    assert (before.images, after.images) == ([every[99]], [every[100]])


def test_times_are_those_of_a_file_cut_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", range(100))
    sampled = decode(str(path), FrameSampling("rate", 0, 2.0), part=TimeRange(1000, 3000))
    assert (sampled.rate, sampled.total_frames, sampled.duration, sampled.partial) == (25.0, 50, 2.0, False)
    assert sampled.positions == (0, 16, 33, 49) and sampled.seconds == (0.0, 16 / 25, 33 / 25, 49 / 25)


def test_the_rate_is_that_of_the_range_where_it_varies(tmp_path: Path) -> None:
    timestamps = [*range(0, 1000, 40), *range(1000, 21000, 500)]
    path = write_video(tmp_path / "a.mkv", timestamps, unit=MILLISECONDS)
    fast, slow = (sampled_hashes(path, 2, part) for part in (TimeRange(0, 1000), TimeRange(5000, 10000)))
    assert (fast.rate, fast.duration, slow.rate, slow.duration) == (25.0, 1.0, 2.0, 5.0)
    constant = write_video(tmp_path / "b.mkv", range(120), rate=120)  # the timestamps are whole milliseconds
    assert sampled_hashes(constant, 2, TimeRange(500, 517)).rate == pytest.approx(120, rel=1e-3)


def test_only_pyav_decodes_ranges_of_videos() -> None:
    assert available_decoders("a.mp4", TimeRange(0, 1)) == ("PyAV",)
    assert available_decoders("a.webp", TimeRange(0, 1)) == ("PIL",)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_when_decoding_by_seeking_fails_the_frames_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Down to counting the frames from the start of the file."""
    path = write_video(tmp_path / "a.mkv", range(150), options=OPEN_GOP)
    part, by_seeking, calls = TimeRange(3000, 4000), decode_pyav_range.decode_by_seeking, []
    expected = sampled_hashes(path, 25, part)

    def fail_at_first(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) <= failing:
            raise RuntimeError("seeking failed")
        return by_seeking(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode_pyav_range, "decode_by_seeking", fail_at_first)
    assert sampled_hashes(path, 25, part) == expected and len(set(expected.images)) == 25
    assert len(calls) == min(failing + 1, 3)
