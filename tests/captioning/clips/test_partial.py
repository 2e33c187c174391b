"""Incomplete and damaged videos: the part before the damage is decoded, and the result is marked as partial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips import decode_pyav, pyav_video
from pipeline.captioning.clips.clip import Clip, ClipTask
from pipeline.captioning.clips.decode import DecodeError, decode
from pipeline.captioning.clips.incomplete import is_incomplete
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.fakes import mean_colour, render_clip, segments

FRAMES = 60
TS_PACKET = 188
FORMATS = {
    "fast.mp4": {"movflags": "faststart"},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "a.mov": {"movflags": "faststart"},
    "a.mkv": {},
    "a.webm": {},
    "a.avi": {},
    "a.ts": {},
}


def _render(path: Path) -> bytes:
    """Write a video of noise in which each frame is brighter than the one before. Returns the bytes of the file."""
    noise = np.random.default_rng(0)
    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w", options=FORMATS.get(path.name, {})) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            image = noise.integers(0, 60, (64, 96, 3), np.uint8) + np.uint8(number * 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def _frame_numbers(images: tuple[Image.Image, ...]) -> list[float]:
    """The approximate number of each frame, from its brightness."""
    return [(np.asarray(image).mean() - 30) / 3 for image in images]


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_spread_over_the_remaining_part(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = _render(path)
    assert not is_incomplete(str(path)) and not decode(str(path), segments(4)).partial
    # Not between two packets of a transport stream, where a cut is not visible.
    path.write_bytes(whole[: len(whole) * 6 // 10 // TS_PACKET * TS_PACKET + TS_PACKET // 2])
    sampled = decode(str(path), segments(4))
    assert sampled.partial and len(sampled.images) == 4
    numbers = _frame_numbers(sampled.images)
    assert numbers == sorted(numbers)
    assert numbers[0] < 0.2 * FRAMES and 0.3 * FRAMES < numbers[-1] < 0.7 * FRAMES


def test_a_video_that_continues_with_zeros_is_partial(tmp_path: Path) -> None:
    """An interrupted download may leave a file of full size whose end is zeros."""
    path = tmp_path / "fast.mp4"
    whole = _render(path)
    kept = len(whole) * 6 // 10
    path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
    sampled = decode(str(path), segments(4))
    assert sampled.partial and 0.3 * FRAMES < _frame_numbers(sampled.images)[-1] < 0.7 * FRAMES


def test_an_incomplete_video_without_decodable_frames_fails(tmp_path: Path) -> None:
    path = render_clip(tmp_path / "a.mp4", frames=40)  # its index is at the end of the file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DecodeError, match="PyAV"):
        decode(str(path), segments(4))


def test_a_disk_error_is_a_failure_not_a_partial_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run may read the whole file, so the clip must not be captioned from a part."""

    class FailingContainer:
        def __init__(self, container: Any) -> None:
            self._container = container

        def demux(self, stream: Any) -> Any:
            return self._container.demux(stream)

        def decode(self, stream: Any) -> Iterator[Any]:
            for number, frame in enumerate(self._container.decode(stream)):
                if number == 5:
                    raise av.error.OSError(5, "Input/output error")
                yield frame

    open_video = pyav_video.open_video

    @contextmanager
    def open_failing(path: str) -> Iterator[tuple[Any, Any]]:
        with open_video(path) as (container, stream):
            yield FailingContainer(container), stream

    for module in (pyav_video, decode_pyav):
        monkeypatch.setattr(module, "open_video", open_failing)
    with pytest.raises(DecodeError, match="Input/output error"):
        decode(str(render_clip(tmp_path / "a.mkv", frames=40)), segments(4), ["PyAV"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00\x18ftypisom",
        b"\x00\x00\x00\x00mdat" + b"x" * 100,  # a box without a length: to the end of the file
        b"\x00\x00\x00\x10ftypisom\0\0\0\0" + b"\xff" * 40,  # other bytes after the last box
        b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"x" * 50,  # written to a stream
        b"\x1a\x45\xdf\xa3\x00",
        b"RIFF\xff\xff\xff\xffAVI LIST",
        b"RIFF\x00\x01\x00\x00WEBP",
        b"G" * 100,
        b"GIF89a" + b"G" * 300 + b"x" * 900,
    ],
)
def test_files_without_a_known_size_are_not_incomplete(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    assert not is_incomplete(str(path))


def test_the_decoding_process_reports_partial_videos(tmp_path: Path) -> None:
    whole, cut = (render_clip(tmp_path / f"{name}.mkv", frames=40) for name in ("whole", "cut"))
    cut.write_bytes(cut.read_bytes()[:-600])
    rows = [ClipTask(0, str(whole)), ClipTask(1, str(cut))]
    with ClipLoader(rows, FramePreparation(segments(4), mean_colour), DecoderLimits(30), prefetch=2) as loader:
        clips = list(loader)
    assert [isinstance(clip, Clip) and clip.partial for clip in clips] == [False, True]
