"""Ranges that a file does not have, broken files, and how much of a file a range reads."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.clip import Clip, ClipTask, LoadFailure
from pipeline.captioning.clips.decode import DecodeError, decode
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from scripts.benchmark_seek import write_long_video
from tests.captioning.clips.rendered_videos import OPEN_GOP, sampled_hashes, write_video
from tests.captioning.clips.test_animations import animation
from tests.fakes import mean_colour, segments
from tests.golden import VIDEOS

UNIFORM = FrameSampling("uniform", 3)
_EIGHT_SECONDS = range(200)


def _error(path: Path, start: int, end: int | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(str(path), UNIFORM, part=TimeRange(start, end))
    return str(caught.value)


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [(5000, 5000, "is empty"), (5000, 3000, "5.000 s to 3.000 s is reversed"), (-1, 3000, "begins before the file")],
)
def test_ranges_without_frames_are_refused_before_a_file_is_opened(start: int, end: int, problem: str) -> None:
    assert problem in _error(Path("missing.mp4"), start, end)
    rows = [ClipTask(0, path, TimeRange(start, end)) for path in ("missing.mp4", "http://127.0.0.1:9/missing.mp4")]
    with ClipLoader(rows, FramePreparation(segments(2), mean_colour), DecoderLimits(30), prefetch=1) as loader:
        failures = list(loader)
    assert all(isinstance(failure, LoadFailure) and failure.stage == "decode" for failure in failures)
    assert all(isinstance(failure, LoadFailure) and problem in failure.messages[0] for failure in failures)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mpg", "avi", "h264"])
def test_the_end_of_the_video(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg1video" if suffix == "mpg" else "libx264"
    path = write_video(tmp_path / f"a.{suffix}", _EIGHT_SECONDS, codec, {} if suffix == "mpg" else OPEN_GOP)
    for start in (8000, 100_000, 10**9):
        assert f"{start / 1000:.3f} s to the end begins after the end of the video (8.000 s)" in _error(path, start)
    last = sampled_hashes(path, 1, TimeRange(7999, 8000))
    assert (last.total_frames, last.partial) == (1, False)
    for end, partial in ((8000, False), (8500, False), (8501, True), (20_000, True)):
        sampled = sampled_hashes(path, 2, TimeRange(7000, end))
        assert (sampled.total_frames, sampled.partial) == (25, partial)


@pytest.mark.parametrize(("frames", "end"), [(1, 40), (5, 200)])
def test_very_short_videos(tmp_path: Path, frames: int, end: int) -> None:
    path = write_video(tmp_path / "a.mp4", range(frames))
    for part in (TimeRange(0), TimeRange(0, end), TimeRange(0, end + 500)):
        sampled = sampled_hashes(path, frames, part)
        assert (sampled.total_frames, sampled.partial) == (frames, False)
        assert sampled.images == sampled_hashes(path, frames).images
    assert sampled_hashes(path, 1, TimeRange(end - 1)).total_frames == 1
    assert f"the end of the video ({end / 1000:.3f} s)" in _error(path, end)


def test_a_file_with_audio_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert _error(tmp_path / "a.mp4", 0, 500) == "PyAV: no video stream"


def _longer_mp4(data: bytearray) -> None:
    for box, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        start = data.index(box) + 4 + offset
        data[start : start + 4] = struct.pack(">I", 2**30)


def _longer_mkv(data: bytearray) -> None:
    start = data.index(b"\x44\x89\x88") + 3
    data[start : start + 8] = struct.pack(">d", 1e6)


@pytest.mark.parametrize(("suffix", "patch"), [("mp4", _longer_mp4), ("mkv", _longer_mkv)])
def test_a_wrong_duration_in_the_header(tmp_path: Path, suffix: str, patch: Callable[[bytearray], None]) -> None:
    path = write_video(tmp_path / f"a.{suffix}", _EIGHT_SECONDS, options={"bf": "3"})
    expected = sampled_hashes(path, 25, TimeRange(7000, 8000))
    data = bytearray(path.read_bytes())
    patch(data)
    path.write_bytes(data)
    assert sampled_hashes(path, 25, TimeRange(7000, 8000)) == expected and not expected.partial
    assert "begins after the end of the video (8.000 s)" in _error(path, 9000, 10_000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_file_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    """Ranges before the cut are whole, one across it is partial, one behind it fails."""
    path = tmp_path / f"a.{suffix}"
    write_video(path, _EIGHT_SECONDS, options=OPEN_GOP, container_options={"movflags": "faststart"})
    expected = sampled_hashes(path, 25, TimeRange(2000, 3000))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10 // 188 * 188 + 94])
    assert sampled_hashes(path, 25, TimeRange(2000, 3000)) == expected and not expected.partial
    across = sampled_hashes(path, 200, TimeRange(3500, 7000))
    assert across.partial and 5 < across.total_frames < 50
    assert "the end of the part of the video that can be read (" in _error(path, 7000, 8000)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="real videos are not part of a clone")
def test_a_damaged_video() -> None:
    """28 of its 50 frames, ten per second, are before the damage."""
    whole = decode(str(VIDEOS / "corrupted.mp4"), UNIFORM, ["PyAV"])
    assert (whole.total_frames, whole.partial) == (28, True)
    before, across = (sampled_hashes(VIDEOS / "corrupted.mp4", 9, TimeRange(1000, end)) for end in (1900, 4000))
    assert (before.total_frames, before.partial) == (9, False)
    assert (across.total_frames, across.partial) == (18, True)
    assert "the end of the part of the video that can be read (2.800 s)" in _error(VIDEOS / "corrupted.mp4", 3000, 4000)


def _animation_range(path: Path, part: TimeRange) -> tuple[list[bytes], float, bool]:
    """The frames of a range, its rate, and whether it is partial."""
    frames = decode(str(path), FrameSampling("uniform", 1), part=part).total_frames
    sampled = decode(str(path), FrameSampling("uniform", frames), part=part)
    return [image.tobytes() for image in sampled.images], sampled.rate, sampled.partial


def test_ranges_of_animations_and_still_images(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", [100, 100, 700, 100])
    even = animation(tmp_path / "even.gif", [250] * 4)
    every = [image.tobytes() for image in decode(str(even), FrameSampling("uniform", 4)).images]
    for start, end, numbers, rate in ((0, 200, [0, 1], 10), (50, 201, [1, 2], 2.5), (300, 800, [2], 1 / 0.7)):
        sampled = _animation_range(path, TimeRange(start, end))
        assert sampled[0] == [every[number] for number in numbers] and sampled[1:] == (pytest.approx(rate), False)
    assert _animation_range(path, TimeRange(900, None))[0] == [every[3]]
    assert _animation_range(path, TimeRange(900, 2000))[2]
    assert "begins after the end of the animation (1.000 s)" in _error(path, 1000)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    assert "a still image has no time range; leave start and end blank" in _error(tmp_path / "a.png", 0, 5)


def test_a_service_that_gets_whole_files_gets_no_ranges(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", range(50))
    rows = [ClipTask(0, str(video), TimeRange(0, 1000)), ClipTask(1, str(video))]
    preparation = FramePreparation(segments(2), mean_colour, sends_file=True)
    with ClipLoader(rows, preparation, DecoderLimits(30), prefetch=1) as loader:
        failure, whole = list(loader)
    assert isinstance(failure, LoadFailure) and failure.stage == "prepare" and isinstance(whole, Clip)
    assert failure.messages[0].endswith("use --send images, or --whole_files")


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_range_at_the_end_of_a_two_hour_file_reads_little_of_it(tmp_path: Path, suffix: str) -> None:
    path = write_long_video(tmp_path / f"a.{suffix}", seconds=7200, rate=4)
    for start, end in ((7140_000, None), (3600_000, 3660_000)):
        before = _bytes_read()
        sampled = decode(str(path), UNIFORM, ["PyAV"], part=TimeRange(start, end))
        assert (sampled.total_frames, sampled.duration) == (240, 60.0)
        assert _bytes_read() - before < path.stat().st_size / 10
