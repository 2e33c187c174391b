"""Decoding of rendered and of real videos. The error for a bad clip contains every message."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips import decode_pyav, frames, pyav_video
from pipeline.captioning.clips.decode import DecodeError, available_decoders, decode
from pipeline.captioning.clips.frames import SampledFrames
from pipeline.captioning.clips.sampling import FrameSampling
from tests.fakes import render_clip, segments
from tests.golden import SHARED, VIDEOS, GoldenSet

needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason="real videos are not part of a clone")
DECODERS = available_decoders("a.mp4")


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_right_frames_are_sampled(tmp_path: Path, decoder: str) -> None:
    sampled = decode(str(render_clip(tmp_path / "a.mp4", frames=9)), segments(4), [decoder])
    assert sampled.index == (0, 1, 2, 3)
    all_frames = decode(str(tmp_path / "a.mp4"), segments(9 * 8), [decoder])
    assert len(all_frames.images) == 9
    expected = [all_frames.images[i] for i in (1, 3, 5, 7)]
    assert [list(image.getdata()) for image in expected] == [list(image.getdata()) for image in sampled.images]


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_frame_is_decoded_once(tmp_path: Path, decoder: str) -> None:
    sampled = decode(str(render_clip(tmp_path / "a.mp4", frames=1)), segments(4), [decoder])
    assert (len(sampled.images), sampled.index) == (1, (0, 0, 0, 0))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_seeking_gives_the_frames_of_decoding_from_the_start(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 12th frame is a key frame. In MPEG transport streams (TS) timestamps are misleading after seeking."""
    path = str(render_clip(tmp_path / f"a.{suffix}", frames=200))
    by_seeking = decode(path, segments(6), ["PyAV"])
    packets = decode_pyav.read_packets(path)
    assert packets.count == 200 and len(packets.key_timestamps) > 10
    monkeypatch.setattr(decode_pyav, "_can_skip_frames", lambda *_: False)
    from_start = decode(path, segments(6), ["PyAV"])
    assert by_seeking.index == from_start.index == tuple(range(6))
    assert [image.tobytes() for image in by_seeking.images] == [image.tobytes() for image in from_start.images]
    if suffix != "ts":
        wanted, first = [packets.timestamps[100], packets.timestamps[199]], packets.timestamps[0]
        assert len(list(pyav_video.decode_by_seeking(path, wanted, packets.key_timestamps, first))) == 2


def test_a_still_image_is_rotated_to_display_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be rotated by 90 degrees
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    sampled = decode(str(tmp_path / "a.jpg"), segments(4))
    assert (sampled.images[0].size, sampled.index) == ((20, 40), (0,))


def _encode_grey(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height = (101, 67) if codec == "libx264" else (100, 66)
        stream.pix_fmt = {"libx264": "yuv444p10le", "libsvtav1": "yuv420p10le"}.get(codec, "yuv420p")
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((stream.height, stream.width, 3), 130, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "libsvtav1"])
def test_ten_bit_video_odd_sizes_and_codecs(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.mkv"
    # In a separate process: as root, the AV1 encoder gives its process real-time priority.
    encoder = multiprocessing.get_context("spawn").Process(target=_encode_grey, args=(path, codec))
    encoder.start()
    encoder.join(timeout=60)
    assert encoder.exitcode == 0
    sampled = decode(str(path), segments(2))
    assert abs(np.asarray(sampled.images[0]).mean() - 130) < 4


def _bad_clips(folder: Path) -> dict[str, tuple[str, str]]:
    """Bad clips by name: path, and a part of the message that is expected."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video at all\n" * 50)
    (folder / "text.png").write_text("no picture")
    whole = render_clip(folder / "whole.mp4", frames=40).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(folder / "fifo.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    names = {
        "empty.mp4": "0 bytes",
        "text.mp4": "PyAV: ",
        "text.png": "PIL: ",
        "cut.mp4": "PyAV: ",
        "fifo.mp4": "not a regular file",
        "dangling.mp4": "no such file",
        "missing.mp4": "no such file",
        "audio.mp4": "no video stream",
        ".": "not a regular file",
    }
    bad = {name: (str(folder / name), message) for name, message in names.items()}
    return bad | {"": ("", "path is empty"), "NUL": ("a\0b", "NUL"), "relative": ("x.mp4", "relative to /")}


def test_the_error_for_a_bad_clip_contains_every_message(tmp_path: Path) -> None:
    for name, (path, message) in _bad_clips(tmp_path).items():
        with pytest.raises(DecodeError) as caught:
            decode(path, segments(4))
        assert message in str(caught.value), name
        if name in ("text.mp4", "cut.mp4") and "decord" in DECODERS:
            assert "decord: " in str(caught.value)


def test_frames_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PIXELS", 95 * 64)
    with pytest.raises(DecodeError, match="larger than"):
        decode(str(render_clip(tmp_path / "a.mp4")), segments(4))


@needs_videos
def test_real_videos_give_the_recorded_frames() -> None:
    pytest.importorskip("decord")
    for case in GoldenSet.load(SHARED / "golden", "golden-videos").cases:
        if case["loader"] == "chat":
            sampled = decode(str(VIDEOS / case["video"]), segments(case["num_frames"]), ["decord"])
            hashes = [hashlib.sha256(np.asarray(sampled.images[i]).tobytes()).hexdigest() for i in sampled.index]
            assert hashes == case["frame_sha256"], case["name"]


def _mean_pixel_difference(first: SampledFrames, second: SampledFrames) -> float:
    pairs = zip(first.images, second.images, strict=True)
    return float(np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean() for a, b in pairs]))


BOTH_DECODERS = ["nasa_13013.mp4", "nasa_13013_rotated.mp4", "bikes.mp4", "carphone_pristine.mp4", "h265_video.mp4"]
BOTH_DECODERS += ["testsrc2_vp9.webm", "video_90.mov", "testsrc2_mpeg4.mp4", "testsrc2_odd_height_444.mp4"]


@needs_videos
@pytest.mark.parametrize("name", BOTH_DECODERS)
def test_pyav_agrees_with_decord(name: str) -> None:
    pytest.importorskip("decord")
    first, second = (decode(str(VIDEOS / name), segments(4), [decoder]) for decoder in ("decord", "PyAV"))
    assert first.index == second.index
    assert _mean_pixel_difference(first, second) <= 2


@needs_videos
def test_pyav_is_tried_after_decord(tmp_path: Path) -> None:
    for name in ("av1_video.mkv", "gradient.gif"):
        assert decode(str(VIDEOS / name), segments(4)).images[0].size[0] > 1
    path = tmp_path / "wrong_extension.dat"
    shutil.copy(VIDEOS / "carphone_pristine.mp4", path)
    assert len(decode(str(path), segments(4)).images) == 4
    assert decode(str(VIDEOS / "corrupted.mp4"), segments(4)).partial  # 28 of its 50 frames are before the damage


SAMPLINGS = [
    FrameSampling("uniform", 5),
    FrameSampling("points", 3),
    FrameSampling("rate", 0, 2.0, multiple=2),
    FrameSampling("step", 0, 3.0, 8),
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_every_rule_samples_its_frames_and_their_times_are_known(
    tmp_path: Path, decoder: str, sampling: FrameSampling
) -> None:
    path = str(render_clip(tmp_path / "a.mp4", frames=21, size=(220, 64)))  # 8 frames per second, no two equal
    every = decode(path, FrameSampling("uniform", 21), [decoder])
    sampled = decode(path, sampling, [decoder])
    assert list(sampled.positions) == sampling.indices(21, 8.0)
    assert (sampled.rate, sampled.total_frames, sampled.duration) == (8.0, 21, 21 / 8)
    assert sampled.seconds == tuple(position / 8 for position in sampled.positions)
    shown = [sampled.images[i].tobytes() for i in sampled.index]
    assert shown == [every.images[position].tobytes() for position in sampled.positions]
    assert len(set(shown)) == len(sampled.images) == len(set(sampled.positions))


@needs_videos
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_decoders_agree_on_positions_and_times(sampling: FrameSampling) -> None:
    pytest.importorskip("decord")
    for name in BOTH_DECODERS:
        first, second = (decode(str(VIDEOS / name), sampling, [decoder]) for decoder in ("decord", "PyAV"))
        assert first.positions == second.positions
        assert (first.rate, first.total_frames, first.size) == (second.rate, second.total_frames, second.size)
        assert first.seconds == second.seconds and first.duration == second.duration > 0


@needs_videos
def test_the_recorded_frames_of_llava_video() -> None:
    """Indices, hashes of the frames, times and duration, from the files to the result."""
    pytest.importorskip("decord")
    cases = json.loads((SHARED / "golden" / "llava-video-a" / "golden.json").read_text())["cases"]
    for case in {(case["video"], case["num_frames"], case["branch"]): case for case in cases}.values():
        sampling = FrameSampling("uniform", case["max_frames_num"])
        if not case["force_sample"]:
            sampling = FrameSampling("step", 0, case["fps_argument"], case["max_frames_num"])
        sampled = decode(str(VIDEOS / case["video"]), sampling, ["decord"])
        hashes = [hashlib.sha256(np.asarray(sampled.images[i]).tobytes()).hexdigest() for i in sampled.index]
        assert hashes == case["frame_sha256"], case["name"]
        assert list(sampled.positions) == case["frame_indices"]
        assert (sampled.duration, list(sampled.size)) == (case["video_time"], case["frame_size_wh"][::-1])
        np.testing.assert_allclose(sampled.seconds, case["true_times"], atol=5.1e-5)


def test_a_still_image_has_one_frame_and_no_rate(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    sampled = decode(str(tmp_path / "a.png"), FrameSampling("rate", 0, 2.0, multiple=2))
    assert (len(sampled.images), sampled.positions, sampled.index, sampled.is_image) == (1, (0,), (0,), True)
    assert (sampled.rate, sampled.total_frames, sampled.duration, sampled.seconds) == (0.0, 1, 0.0, (0.0,))


def test_a_video_without_a_frame_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(render_clip(tmp_path / "a.mp4", frames=9))
    monkeypatch.setattr(decode_pyav, "known_rate", lambda rate: 0.0)
    sampled = decode(path, segments(4), ["PyAV"])
    assert (sampled.rate, sampled.duration, sampled.seconds) == (0.0, 0.0, (0.0,) * 4)
    with pytest.raises(DecodeError, match="frame rate is unknown"):
        decode(path, FrameSampling("step", 0, 1.0), ["PyAV"])


def test_a_part_of_a_video_has_the_times_of_that_part(tmp_path: Path) -> None:
    path = render_clip(tmp_path / "a.mkv", frames=40)
    path.write_bytes(path.read_bytes()[:-600])
    for decoder in DECODERS:
        sampled = decode(str(path), FrameSampling("uniform", 3), [decoder])
        assert sampled.partial and 20 < sampled.total_frames < 40
        assert sampled.positions == (0, (sampled.total_frames - 1) // 2, sampled.total_frames - 1)
        assert sampled.duration == sampled.total_frames / 8


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((96, 64), 32, (48, 32)), ((64, 98), 32, (32, 49)), ((96, 64), 64, (96, 64)), ((96, 64), 300, (96, 64))],
)
def test_frames_are_scaled_down_to_the_short_side(
    tmp_path: Path, decoder: str, size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    path = str(render_clip(tmp_path / "a.mp4", size=size))
    whole = decode(path, segments(3), [decoder])
    scaled = decode(path, segments(3), [decoder], short_side=short_side)
    assert [image.size for image in scaled.images] == [expected] * 3
    assert scaled.size == expected[::-1]
    for image, before in zip(scaled.images, whole.images, strict=True):
        assert image.tobytes() == before.resize(expected, Image.Resampling.BICUBIC).tobytes()


def test_still_images_and_narrow_frames_are_scaled_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be rotated by 90 degrees
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.jpg", exif=exif)
    assert decode(str(tmp_path / "a.jpg"), segments(2), short_side=50).images[0].size == (50, 100)
    assert frames.scaled_down(Image.new("RGB", (3, 1000)), 2).size == (2, 667)
    assert frames.scaled_down(Image.new("RGB", (1000, 3)), 1).size == (333, 1)


@pytest.mark.parametrize("rate", [None, 0, -1.0, math.nan, math.inf])
def test_rates_that_say_nothing(rate: float | None) -> None:
    assert frames.known_rate(rate) == 0.0
    assert frames.known_rate(Fraction(30000, 1001)) == 30000 / 1001
