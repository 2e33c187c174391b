"""Frames are prepared one by one while a clip is decoded, with the values of all frames prepared together."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.api.frames import JpegFrames, jpegs
from pipeline.captioning.captioners.images.crop import Crop
from pipeline.captioning.captioners.images.internvl import InternVL
from pipeline.captioning.captioners.images.padded_square import PaddedSquare
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.captioners.images.tiles import Tiles
from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.clips import decode_pyav, pyav_video
from pipeline.captioning.clips.decode import available_decoders, decode
from pipeline.captioning.clips.decode_server import DecodeReply, DecodeRequest, handle_request
from pipeline.captioning.clips.frame_memory import FrameMemory
from pipeline.captioning.clips.preparation import FramePreparation
from tests.fakes import mean_colour, render_clip, segments

DECODERS = available_decoders("a.mp4")
_NORMALISATION: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5)}
_TRANSFORMS = {
    "pllava": FrameProcessor(crop_size=56, clip_short_edge=56, short_edge=56),
    "crop": Crop(size=56, crop_size=(56, 56), **_NORMALISATION),
    "square": Square(size=(48, 56), **_NORMALISATION),
    "tiles": Tiles(size=56, image_grid_pinpoints=((112, 56), (56, 112)), **_NORMALISATION),
    "patches_of_two": PatchesOfTwo(max_pixels=84 * 56, **_NORMALISATION),
    "internvl": InternVL(size=(56, 56), crop_to_patches=True, **_NORMALISATION),
    "padded_square": PaddedSquare(size=56, **_NORMALISATION),
}


def _handle(path: Path, decoder: str, transform: Any, short_side: int = 0, frames: int = 4) -> tuple[Any, DecodeReply]:
    memory = FrameMemory()
    try:
        reply = handle_request(
            DecodeRequest(str(path), decoder), memory, FramePreparation(segments(frames), transform, short_side)
        )
        return (None if reply.frames is None else memory.get(reply.frames)), reply
    finally:
        memory.close()


@pytest.mark.parametrize("name", _TRANSFORMS)
def test_frames_have_the_values_of_all_frames_prepared_together(tmp_path: Path, name: str) -> None:
    path, transform = render_clip(tmp_path / "a.mp4", frames=9), _TRANSFORMS[name]
    for decoder in DECODERS:
        for short_side, size in ((0, (64, 96)), (40, (40, 60))):
            frames, reply = _handle(path, decoder, transform, short_side)
            expected = transform(decode(str(path), segments(4), [decoder], short_side).images)
            assert len(expected) == 4 and (reply.size, reply.frame_index) == (size, (0, 1, 2, 3))
            assert frames.dtype == expected.dtype and frames.shape == expected.shape
            assert bool((frames == expected).all())


def _images_in_memory(images: Sequence[Image.Image]) -> np.ndarray:
    """A transform: how many images with pixels are in memory."""
    decoded = (value for value in gc.get_objects() if isinstance(value, Image.Image) and value.size == (96, 64))
    return np.array([[sum(1 for _ in decoded)]] * len(images))


@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
def test_two_decoded_frames_are_in_memory_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str, from_start: bool
) -> None:
    if from_start:
        monkeypatch.setattr(decode_pyav, "_can_skip_frames", lambda *_: False)
    gc.collect()
    others = int(_images_in_memory([None])[0, 0])  # type: ignore[list-item]
    counts, _ = _handle(render_clip(tmp_path / "a.mp4", frames=60), decoder, _images_in_memory, frames=20)
    # The first image, the present one, and the one before it until it is replaced.
    assert len(counts) == 20 and 1 <= int(counts.min()) - others <= int(counts.max()) - others <= 3


def test_a_frame_that_is_shown_again_is_prepared_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def count(images: Sequence[Image.Image]) -> np.ndarray:
        calls.append(len(images))
        return mean_colour(images)

    for decoder in DECODERS:
        frames, reply = _handle(render_clip(tmp_path / "a.mp4", frames=2), decoder, count)
        assert (len(frames), reply.frame_index) == (2, (0, 0, 0, 1))
    assert calls == [1] * 2 * len(DECODERS)


def _fail_at(number: int) -> Callable[[Sequence[Image.Image]], np.ndarray]:
    seen: list[int] = []

    def transform(images: Sequence[Image.Image]) -> np.ndarray:
        seen.append(1)
        if len(seen) > number:
            raise ValueError("aspect ratio")
        return mean_colour(images)

    return transform


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("number", [0, 3])
def test_an_error_of_the_transform_is_not_one_of_the_decoder(tmp_path: Path, decoder: str, number: int) -> None:
    frames, reply = _handle(render_clip(tmp_path / "a.mp4", frames=40), decoder, _fail_at(number))
    assert frames is None and (reply.stage, reply.messages) == ("prepare", ("ValueError: aspect ratio",))


def test_after_seeking_has_failed_frames_are_prepared_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = render_clip(tmp_path / "a.mp4", frames=60)
    expected, _ = _handle(path, "PyAV", mean_colour)
    by_seeking = decode_pyav.decode_by_seeking

    def fail_after_two(*arguments: Any) -> Any:
        frames = by_seeking(*arguments)
        yield next(frames)
        yield next(frames)
        raise pyav_video.WrongTimestamps

    monkeypatch.setattr(decode_pyav, "decode_by_seeking", fail_after_two)
    frames, reply = _handle(path, "PyAV", mean_colour)
    assert reply.frame_index == (0, 1, 2, 3) and frames.tolist() == expected.tolist()


def test_frames_of_several_sizes_get_the_size_of_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, transform = render_clip(tmp_path / "a.mp4", frames=9), _TRANSFORMS["patches_of_two"]
    upright = pyav_video.upright
    numbers = iter(range(100))
    monkeypatch.setattr(
        pyav_video, "upright", lambda frame: upright(frame).resize((96, 64) if next(numbers) % 4 < 2 else (80, 120))
    )
    images = decode(str(path), segments(4), ["PyAV"]).images
    assert [image.size for image in images] == [(96, 64)] * 2 + [(80, 120)] * 2
    frames, reply = _handle(path, "PyAV", transform)
    assert bool((frames == transform(images)).all()) and reply.size == (64, 96)
    frames, reply = _handle(path, "PyAV", lambda images: np.stack([np.asarray(image) for image in images]))
    assert frames is None and reply.stage == "prepare" and "ValueError" in reply.messages[0]


class _CountsAsBytes:
    """A transform that makes bytes: how many images with pixels are in memory, in one byte for each frame or more."""

    makes_bytes = True

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.repeat(_images_in_memory(images).astype(np.uint8)[:, 0], 2)


def test_transforms_that_make_bytes_get_one_frame_at_a_time(tmp_path: Path) -> None:
    gc.collect()
    others = int(_images_in_memory([None])[0, 0])  # type: ignore[list-item]
    for decoder in DECODERS:
        path = render_clip(tmp_path / "a.mp4", frames=60)
        counts, _ = _handle(path, decoder, _CountsAsBytes(), frames=20)
        assert counts.shape == (40,) and 1 <= int(counts.min()) - others <= int(counts.max()) - others <= 3


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_distinct_frames_of_a_clip_become_jpegs(tmp_path: Path, decoder: str) -> None:
    path = render_clip(tmp_path / "a.mp4", frames=2)
    frames, reply = _handle(path, decoder, JpegFrames(48, 95))
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in jpegs(frames)]
    assert (reply.frame_index, reply.size, reply.mime_type) == ((0, 0, 0, 1), (64, 96), "")
    assert [image.size for image in images] == [(48, 32)] * 2
    for image, frame in zip(images, decode(str(path), segments(4), [decoder]).images, strict=True):
        expected = np.asarray(frame.resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(np.asarray(image) - expected).mean() < 4


def test_jpegs_of_a_clip_keep_their_own_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright = pyav_video.upright
    numbers = iter(range(100))
    monkeypatch.setattr(
        pyav_video, "upright", lambda frame: upright(frame).resize((96, 64) if next(numbers) % 4 < 2 else (80, 120))
    )
    frames, reply = _handle(render_clip(tmp_path / "a.mp4", frames=9), "PyAV", JpegFrames(60, 85))
    assert [Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs(frames)] == [(60, 40)] * 2 + [(40, 60)] * 2
    assert reply.size == (64, 96)
