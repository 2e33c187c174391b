"""The frame transforms compared with the slow image processors of transformers, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.captioning.captioners.images import from_folder, onevision_square
from pipeline.captioning.captioners.images.base import ImageTransform
from pipeline.captioning.captioners.images.crop import Crop
from pipeline.captioning.captioners.images.internvl import InternVL, tile_grid
from pipeline.captioning.captioners.images.padded_square import PaddedSquare
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.captioners.images.tiles import Tiles
from tests.captioning.captioners.images.published import CLIP_MEAN, CLIP_STD, SIZES, frames, write_folder

RAW = {"do_rescale": False, "do_normalize": False}
"""Arguments of an image processor that make it return the uint8 values."""

PIXELS = [
    ("llava-1.5-7b-hf", "crop", "CLIPImageProcessor"),
    ("LLaVA-NeXT-Video-7B-hf", "crop", "LlavaNextVideoImageProcessor"),
    ("llava-onevision-qwen2-7b-ov-hf", "square", "SiglipImageProcessor"),
    ("blip2-opt-2.7b", "square", "BlipImageProcessor"),
    ("llava-v1.6-vicuna-7b-hf", "tiles", "LlavaNextImageProcessor"),
    ("llava-v1.6-mistral-7b-hf", "tiles", "LlavaNextImageProcessor"),
    ("LLaVA-NeXT-Video-7B-hf", "tiles", "LlavaNextImageProcessor"),
    ("llava-onevision-qwen2-7b-ov-hf", "onevision_tiles", "LlavaOnevisionImageProcessor"),
    ("Janus-Pro-1B-hf", "padded_square", "JanusImageProcessor"),
    ("InternVL3-1B-hf", "internvl", "GotOcr2ImageProcessor"),
]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))


def _processor(name: str) -> Any:
    """The class of transformers; imported late, because the tests on MindSpore collect this file too."""
    import transformers

    return getattr(transformers, name)


def _slow(processor: Any, images: list[Any], **options: Any) -> np.ndarray:
    """The processor's pixels with the channels last; its own axes before them, without that of the batch of videos."""
    found = processor(images, return_tensors="np", input_data_format="channels_last", **options)
    pixels = found["pixel_values_videos"][0] if "pixel_values_videos" in found else found["pixel_values"]
    return np.moveaxis(np.asarray(pixels), -3, -1)


def _check(ours: np.ndarray, slow: np.ndarray) -> None:
    assert ours.dtype == slow.dtype == np.uint8
    np.testing.assert_array_equal(ours.reshape(slow.shape), slow)


@each_size
@pytest.mark.parametrize(("checkpoint", "kind", "slow"), PIXELS, ids=[f"{case[0]}-{case[1]}" for case in PIXELS])
def test_published_checkpoints(tmp_path: Path, checkpoint: str, kind: str, slow: str, size: tuple[int, int]) -> None:
    folder = write_folder(tmp_path, checkpoint)
    transform, processor, images = from_folder(folder, kind), _processor(slow).from_pretrained(folder), frames(size)
    pixels = transform(images)
    assert len(pixels) == len(images)
    _check(pixels, _slow(processor, images, **RAW))
    expected = _slow(processor, images)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(transform.normalized(pixels).reshape(expected.shape), expected)


@each_size
def test_qwen_frames_and_rows(tmp_path: Path, size: tuple[int, int]) -> None:
    limits = {"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 100}
    folder = write_folder(tmp_path, "Qwen2.5-VL-7B-Instruct", **limits)
    transform, processor = PatchesOfTwo.from_folder(folder), _processor("Qwen2VLImageProcessor").from_pretrained(folder)
    for count in (1, 2, 5):
        images = frames(size, count)
        pixels = transform(images)
        rows, grid = transform.patch_rows(pixels)
        slow = processor(None, videos=[images], return_tensors="np", input_data_format="channels_last")
        assert [list(grid)] == slow["video_grid_thw"].tolist()
        raw = processor(None, videos=[images], return_tensors="np", input_data_format="channels_last", **RAW)
        _check(rows, raw["pixel_values_videos"])
        mean, std = transform.row_normalization()
        normalized = (rows.astype(np.float32) * np.float32(transform.rescale_factor) - mean) / std
        np.testing.assert_allclose(normalized, slow["pixel_values_videos"], rtol=0, atol=1e-6)
    still = processor(images[0], return_tensors="np", input_data_format="channels_last", **RAW)
    rows, grid = transform.patch_rows(transform(images[:1]))
    _check(rows, still["pixel_values"])
    assert [list(grid)] == still["image_grid_thw"].tolist()


@each_size
def test_several_still_images_of_onevision(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = write_folder(tmp_path, "llava-onevision-qwen2-7b-ov-hf")
    transform, images = from_folder(folder, "onevision_square"), frames(size)
    processor = _processor("LlavaOnevisionImageProcessor").from_pretrained(folder)
    pixels = transform(images)
    assert pixels.shape[:2] == (len(images), 1)
    _check(pixels, _slow(processor, [images], **RAW))
    expected = _slow(processor, [images])
    np.testing.assert_array_equal(transform.normalized(pixels).reshape(expected.shape), expected)


def test_the_square_of_a_very_large_image_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = from_folder(write_folder(tmp_path, "llava-onevision-qwen2-7b-ov-hf"), "onevision_square")
    image = Image.new("RGB", (2000, 200), (255, 0, 0))
    sizes: list[tuple[int, int]] = []
    new = Image.new
    monkeypatch.setattr(onevision_square, "MAX_RESIZED_PIXELS", 1000**2)
    monkeypatch.setattr(Image, "new", lambda mode, size, colour=0: sizes.append(size) or new(mode, size, colour))
    square = transform([image])[0, 0]
    assert (1000, 1000) in sizes and max(max(size) for size in sizes) == 1000
    assert (square[192] == (255, 0, 0)).all() and (square[:170] == 127).all() and (square[-170:] == 127).all()


@each_size
def test_still_images_of_internvl(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = write_folder(tmp_path, "InternVL3-1B-hf")
    processor, images = _processor("GotOcr2ImageProcessor").from_pretrained(folder), frames(size)
    for low, high in ((1, 12), (2, 5), (1, 1)):
        limits = {"crop_to_patches": True, "min_patches": low, "max_patches": high}
        transform = InternVL.from_folder(folder, **limits)
        pixels = transform(images)
        columns, rows = tile_grid(size[1], size[0], (448, 448), low, high)
        thumbnails = 1 if columns * rows > 1 else 0
        assert pixels.shape == (2, columns * rows + thumbnails, 448, 448, 3)
        _check(pixels, _slow(processor, images, **RAW, **limits))


def test_janus_fills_the_square_where_the_slow_processor_is_one_pixel_short(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "Janus-Pro-1B-hf")
    transform, processor = PaddedSquare.from_folder(folder), _processor("JanusImageProcessor").from_pretrained(folder)
    short = [side for side in range(1, 4001) if int(side * (384 / side)) != 384]
    assert len(short) == 170
    assert {588, 710} <= set(short)
    image = frames((588, 300), 1)
    assert _slow(processor, image, **RAW).shape == (1, 383, 383, 3)
    pixels = transform(image)
    assert pixels.shape == (1, 384, 384, 3)
    np.testing.assert_array_equal(pixels[0, 94:289], np.asarray(image[0].resize((384, 195), 3)))
    assert (pixels[0, :94] == 127).all()
    assert (pixels[0, 289:] == 127).all()


def test_vertical_first_changes_only_frames_whose_height_alone_shrinks(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "llava-onevision-qwen2-7b-ov-hf")
    plain, vertical = Square.from_folder(folder), Square.from_folder(folder, vertical_first=True)
    for width, height in [*SIZES, (270, 480)]:
        images = frames((width, height))
        if height > 384 >= width:
            expected = [np.asarray(image.resize((width, 384), 3).resize((384, 384), 3)) for image in images]
            np.testing.assert_array_equal(vertical(images), np.stack(expected))
        else:
            np.testing.assert_array_equal(vertical(images), plain(images))


_sides = st.integers(4, 150)
_common = {"mean": tuple(CLIP_MEAN), "std": tuple(CLIP_STD)}


def _tiny(resample: int) -> list[tuple[ImageTransform, Any]]:
    """Transforms with small outputs, and their slow processors."""
    kwargs = {"resample": resample, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    ours: dict[str, Any] = {**_common, "resample": resample}
    crop, pinpoints = {"height": 24, "width": 30}, [[28, 56], [56, 28], [56, 56], [84, 28]]
    square = {"height": 28, "width": 28}
    return [
        (
            Crop(size=26, crop_size=(24, 30), **ours),
            _processor("CLIPImageProcessor")(size={"shortest_edge": 26}, crop_size=crop, **kwargs),
        ),
        (
            Crop(size=(40, 20), crop_size=(24, 30), **ours),
            _processor("CLIPImageProcessor")(size={"height": 40, "width": 20}, crop_size=crop, **kwargs),
        ),
        (
            Tiles(size=28, image_grid_pinpoints=tuple((h, w) for h, w in pinpoints), **ours),
            _processor("LlavaNextImageProcessor")(
                size={"shortest_edge": 28}, crop_size=square, image_grid_pinpoints=pinpoints, **kwargs
            ),
        ),
        (PaddedSquare(size=32, **ours), _processor("JanusImageProcessor")(size={"height": 32, "width": 32}, **kwargs)),
    ]


@given(width=_sides, height=_sides, resample=st.sampled_from([0, 1, 2, 3, 4, 5]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_size_and_filter(width: int, height: int, resample: int) -> None:
    images = frames((width, height), 2)
    longest = max(width, height)
    for transform, processor in _tiny(resample):
        if isinstance(transform, Tiles) and longest > 12 * min(width, height):
            continue  # see the module: the slow processor takes 1 or 3 rows for channels
        if isinstance(transform, PaddedSquare) and int(longest * (32 / longest)) != 32:
            continue  # see the test above
        _check(transform(images), _slow(processor, images, **RAW))


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    low=st.integers(1, 100_000),
    more=st.integers(0, 3_000_000),
)
@settings(max_examples=500, deadline=None)
def test_qwen_sizes(width: int, height: int, low: int, more: int) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    transform = PatchesOfTwo(min_pixels=low, max_pixels=low + more, **_common)  # type: ignore[arg-type]
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match=f"a frame of {width}x{height} pixels has an aspect ratio"):
            transform.resized_size(height, width)
    else:
        assert transform.resized_size(height, width) == smart_resize(height, width, 28, low, low + more)


def test_extreme_frames_are_refused_before_they_need_gigabytes(tmp_path: Path) -> None:
    transform = Crop.from_folder(write_folder(tmp_path, "llava-1.5-7b-hf"))
    with pytest.raises(ValueError, match="a frame of 5000x4 pixels would be resized to 420000x336, more than 64"):
        transform(frames((5000, 4), 1))
