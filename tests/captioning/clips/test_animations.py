"""Animated GIF, WebP and PNG are clips whose frames are sampled by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.decode import DecodeError, decode
from pipeline.captioning.clips.sampling import FrameSampling
from tests.fakes import segments

_RED, _BLUE, _GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def _near(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], tolerance: int) -> bool:
    return bool((np.abs(np.subtract(found, expected)) <= tolerance).all())


_COLOURS = [_RED, _BLUE, _GREEN, (0, 0, 0)]


def animation(path: Path, durations: list[int], **options: object) -> Path:
    pictures = [Image.new("RGB", (20, 10), colour) for colour in _COLOURS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, **options)
    return path


def _colours(path: Path, sampling: FrameSampling) -> list[tuple[int, ...]]:
    sampled = decode(str(path), sampling)
    assert not sampled.is_image
    return [tuple(np.asarray(sampled.images[index])[5, 5].tolist()) for index in sampled.index]


@pytest.mark.parametrize(
    ("name", "options"), [("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.mp4", {"format": "GIF"})]
)
def test_animated_images_are_clips_whose_frames_are_sampled_by_time(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    even = animation(tmp_path / name, [250] * 4, **options)
    sampled = decode(str(even), FrameSampling("uniform", 4))
    assert (sampled.total_frames, sampled.rate, sampled.duration) == (4, 4.0, 1.0)
    assert sampled.seconds == (0.0, 0.25, 0.5, 0.75)
    assert _near(_colours(even, FrameSampling("uniform", 4)), _COLOURS, 1)
    assert _near(_colours(even, FrameSampling("rate", 0, fps=2.0)), _COLOURS, 1)  # at least four frames
    uneven = animation(tmp_path / name, [100, 100, 700, 100], **options)
    assert decode(str(uneven), FrameSampling("uniform", 4)).duration == 1.0
    assert _near(_colours(uneven, FrameSampling("uniform", 4)), [_RED, _GREEN, _GREEN, _GREEN], 1)


def test_frames_without_a_duration_take_a_tenth_of_a_second(tmp_path: Path) -> None:
    assert decode(str(animation(tmp_path / "a.gif", [0] * 4)), segments(1)).duration == pytest.approx(0.4)


def test_transparent_frames_of_a_gif_are_composed(tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (20, 10), (0, 0, 0, 0)) for _ in range(3)]
    for number, picture in enumerate(pictures):
        picture.paste((255, 0, 0, 255), (5 * number, 0, 5 * number + 5, 10))
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    sampled = decode(str(tmp_path / "a.gif"), FrameSampling("uniform", 3))
    for number, image in enumerate(sampled.images):
        expected = np.full((10, 20, 3), 255)
        expected[:, 5 * number : 5 * number + 5] = _RED
        assert np.array_equal(np.asarray(image), expected)


def test_a_gif_with_one_frame_is_a_clip(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), _RED).save(tmp_path / "a.gif")
    sampled = decode(str(tmp_path / "a.gif"), segments(4))
    assert not sampled.is_image and sampled.index == (0, 0, 0, 0)


def test_the_image_for_programs_without_animation_is_no_frame(tmp_path: Path) -> None:
    others = [Image.new("RGB", (20, 10), colour) for colour in (_BLUE, _GREEN)]
    options = {"save_all": True, "append_images": others, "default_image": True, "duration": 100}
    Image.new("RGB", (20, 10), _RED).save(tmp_path / "a.png", **options)
    assert _colours(tmp_path / "a.png", FrameSampling("uniform", 2)) == [_BLUE, _GREEN]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_damaged_animation_is_partial(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(6)]
    path = tmp_path / name
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    if name == "a.webp":  # the decoder checks the size of the whole file first
        with pytest.raises(DecodeError):
            decode(str(path), segments(2))
        return
    sampled = decode(str(path), FrameSampling("uniform", 2))
    assert sampled.partial and 1 <= sampled.total_frames < 6
