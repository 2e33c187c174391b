"""Filmstrips show the sampled frames in order and do not exceed their maximum size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.monitor.gallery.filmstrips import ClipKey, FilmstripEncoder, make_filmstrips
from tests.fakes import render_clip, segments


def _picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("max_bytes", [2_000, 30_000, 200_000])
@pytest.mark.parametrize("size", [(1280, 720), (90, 320), (3000, 20)])
def test_noise_fits_into_the_maximum_size(max_bytes: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, size[1], size[0], 3), np.uint8)
    data = FilmstripEncoder(max_bytes)([Image.fromarray(frame) for frame in noise]).tobytes()
    assert len(data) <= max_bytes
    width, height = _picture(data).size
    assert max(width // 4, height) >= 64


def test_small_frames_are_not_enlarged_and_sixteen_wide_frames_fit() -> None:
    frames = [Image.new("RGB", (48, 32), (i, 0, 0)) for i in range(3)]
    assert _picture(FilmstripEncoder(200_000)(frames).tobytes()).size == (144, 32)
    wide = [Image.new("RGB", (4000, 1000), (i, 0, 0)) for i in range(16)]
    assert _picture(FilmstripEncoder(10**6)(wide).tobytes()).size == (16 * 512, 128)


def test_at_most_sixteen_frames_are_shown(tmp_path: Path) -> None:
    clip = str(render_clip(tmp_path / "long.mp4", 1, frames=60))
    strips, _ = make_filmstrips([(clip, None)], segments(40), 50_000, DecoderLimits(20), workers=1)
    strip = strips[clip, None]
    assert (strip.frames, strip.width) == (16, 96) and strip.duration > 1


def test_clips_images_and_unreadable_files(tmp_path: Path) -> None:
    clip = str(render_clip(tmp_path / "clip.mp4", 3))
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "image.png")
    (tmp_path / "text.mp4").write_text("no video")
    unreadable = [str(tmp_path / "text.mp4"), "/nowhere.mp4", ""]
    paths = [clip, str(tmp_path / "image.png"), *unreadable, clip]
    clips: list[ClipKey] = [(path, None) for path in paths]
    strips, problems = make_filmstrips(clips, segments(4), 50_000, DecoderLimits(20), workers=2)
    assert set(strips) == set(clips[:2]) and set(problems) == set(clips[2:5])
    assert problems["/nowhere.mp4", None] == "path: no such file"
    assert problems[clips[2]].startswith("decode: ")
    strip = strips[clips[0]]
    assert (strip.frames, strip.width, strip.height) == (4, 96, 64)
    assert (strips[clips[1]].frames, strips[clips[1]].width) == (1, 60)
    # The square moves to the right from frame to frame, so its centre does, too.
    picture = np.asarray(_picture(strip.data)).astype(int)
    frames = [picture[:, i * 96 : (i + 1) * 96] for i in range(4)]
    is_square = [np.abs(frame - frame[4, 4]).sum(-1) > 60 for frame in frames]
    centres = [np.nonzero(mask)[1].mean() for mask in is_square]
    assert centres == sorted(centres) and centres[-1] - centres[0] > 15
