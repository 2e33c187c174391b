"""Frames become JPEGs of a bounded size, which can be taken apart again."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.api.frames import JpegFrames, jpegs

_PIXELS = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)


def _opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    image.load()
    return image


def _encoded(image: Image.Image, max_side: int = 768, quality: int = 85) -> Image.Image:
    (jpeg,) = jpegs(JpegFrames(max_side, quality)([image]))
    return _opened(jpeg)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (768, 432)),
        ((1080, 1920), (432, 768)),
        ((769, 769), (768, 768)),
        ((768, 500), (768, 500)),
        ((64, 48), (64, 48)),
        ((1, 1), (1, 1)),
        ((3000, 1), (768, 1)),
        ((1, 3000), (1, 768)),
        ((1000, 333), (768, 256)),
    ],
)
def test_the_longer_side_is_limited_and_no_frame_is_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert _encoded(Image.new("RGB", size)).size == expected


def test_a_frame_keeps_its_colours() -> None:
    found = _encoded(Image.fromarray(_PIXELS))
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - _PIXELS).mean() < 3
    halves = Image.new("RGB", (400, 200), (200, 30, 30))
    halves.paste((20, 40, 210), (200, 0, 400, 200))
    scaled = np.asarray(_encoded(halves, max_side=100)).astype(int)
    assert scaled.shape == (50, 100, 3)
    assert np.abs(scaled[:, :45] - (200, 30, 30)).max() < 6 and np.abs(scaled[:, 55:] - (20, 40, 210)).max() < 6


def test_quality_counts_and_the_same_frame_gives_the_same_bytes() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    low, high = (JpegFrames(768, quality)([noise]) for quality in (20, 90))
    assert len(low) < len(high) / 2
    assert JpegFrames(768, 90)([noise.copy()]).tobytes() == high.tobytes()


def test_comments_and_metadata_of_the_file_are_not_sent() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[270] = "private place"
    Image.fromarray(_PIXELS).save(file, "JPEG", comment=b"private words", exif=exif, icc_profile=b"private profile")
    original = _opened(file.getvalue())
    assert b"private" in file.getvalue()
    for max_side in (768, 32):
        assert b"private" not in JpegFrames(max_side, 85)([original]).tobytes()


def test_joined_frames_are_taken_apart_in_order() -> None:
    sizes = [(64, 48), (30, 90), (1, 1)]
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)]
    transform = JpegFrames(60, 85)
    joined = np.concatenate([transform([image]) for image in images])
    assert (joined.dtype, joined.ndim) == (np.uint8, 1)
    assert joined.tobytes() == transform(images).tobytes()
    found = [_opened(jpeg) for jpeg in jpegs(joined)]
    assert [image.size for image in found] == [(60, 45), (20, 60), (1, 1)]
    assert [int(np.asarray(image)[0, 0].argmax()) for image in found] == [0, 1, 2]
    assert jpegs(joined[:0]) == []


@pytest.mark.parametrize("cut", [1, 3, 4, 5, -1])
def test_incomplete_bytes_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="joined JPEGs"):
        jpegs(JpegFrames(768, 85)([Image.new("RGB", (8, 8))])[:cut])


@pytest.mark.parametrize("array", [np.zeros((1, 8), np.uint8), np.zeros(8, np.float32), np.zeros(8, np.uint8)])
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="joined JPEGs"):
        jpegs(array)
