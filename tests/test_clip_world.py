"""The world of moving shapes: captions say what the pixels show, and a single frame gives no motion away."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.sampling import frame_indices
from scripts.clip_world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    ClipFormat,
    FilmedClip,
    Scene,
    draw_clip,
    draw_scene,
    render_frame,
    write_clip,
    write_clips,
)

SIDE, FINE = 128, 512
SCENES = [draw_clip(11, number).scene for number in range(150)]
# Area of a shape over that of its bounding box.
FILL = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "star": 0.37}


def test_a_clip_depends_on_seed_and_number_alone() -> None:
    clip, again, other = draw_clip(3, 5), draw_clip(3, 5), draw_clip(3, 6)
    assert clip == again
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames(), again.frames(), strict=True))
    assert other != clip and draw_clip(4, 5) != clip


def test_every_word_of_the_world_comes_up() -> None:
    objects = [item for scene in SCENES for item in scene.objects]
    assert {len(scene.objects) for scene in SCENES} == {1, 2}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    for name, words in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("motion", MOTIONS)):
        assert {getattr(item, name) for item in objects} == set(words)


def test_canonical_and_terse_captions() -> None:
    scene = next(scene for scene in SCENES if [item.motion for item in scene.objects] == ["left", "growing"])
    first, second = scene.objects
    assert scene.caption() == (
        f"A {first.size} {first.colour} {first.shape} moves to the left and "
        f"a {second.size} {second.colour} {second.shape} grows, on a {scene.background} background."
    )
    assert scene.terse_caption() == (
        f"{first.colour} {first.shape}, left; {second.colour} {second.shape}, grows; {scene.background} background"
    )


@pytest.mark.parametrize("number", range(0, 150, 4))
def test_what_the_caption_claims_is_in_the_pixels(number: int) -> None:
    scene = SCENES[number]
    assert _seen(scene) == scene.caption()
    assert _seen(scene.reversed(), backwards=True) == scene.caption()


@pytest.mark.parametrize("scene", SCENES[:20])
def test_objects_stay_in_the_centre_square_and_apart(scene: Scene) -> None:
    for time in (0.0, 0.5, 1.0):
        _, wide = render_frame(scene, time, 2 * SIDE, SIDE)
        assert wide[:, :, : SIDE // 2].max(initial=0) == 0 and wide[:, :, -SIDE // 2 :].max(initial=0) == 0
        edges = wide[:, [0, -1]].max(initial=0)
        assert edges == 0
        assert (wide > 0).sum(0).max() == 1


def test_reversed_frames_are_frames_of_the_same_world() -> None:
    for scene in SCENES[:20]:
        for time in (0.0, 0.3, 1.0):
            forwards, _ = render_frame(scene, time, SIDE, SIDE)
            backwards, _ = render_frame(scene.reversed(), 1 - time, SIDE, SIDE)
            assert np.allclose(forwards, backwards, atol=1e-2)


def test_a_single_frame_gives_no_motion_away() -> None:
    """At a random instant place and radius are spread alike, whether objects move, grow or stay still."""
    rng = np.random.default_rng(2)
    seen: dict[str, list[tuple[float, float, float]]] = {"moves": [], "grows": [], "still": []}
    for _ in range(3000):
        for item in draw_scene(rng).objects:
            x, y, radius = item.at(rng.random())
            kind = {"still": "still", "growing": "grows", "shrinking": "grows"}.get(item.motion, "moves")
            low, high = SIZES[item.size]
            seen[kind].append((x, y, (radius - low) / (high - low)))
    still = np.array(seen["still"])
    for kind in ("moves", "grows"):
        others = np.array(seen[kind])
        for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert np.allclose(np.quantile(others, quantile, 0), np.quantile(still, quantile, 0), atol=0.05)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("backwards", [False, True])
def test_files_decode_to_the_frames(codec: str, backwards: bool, tmp_path: Path) -> None:
    film = ClipFormat(width=192, height=128, rate=12, frames=30, codec=codec, quality=4, noise=3)
    clip = FilmedClip(draw_clip(21, 4).scene, film, (21, 4), backwards)
    path = tmp_path / "clip.mp4"
    write_clip(path, clip)
    frames, sampled = clip.frames(), decode(str(path), 4)
    shown = [np.asarray(sampled.images[i], np.float32) for i in sampled.index]
    for index, image in zip(frame_indices(len(frames), 4), shown, strict=True):
        assert np.abs(image - frames[index]).mean() < 8
        assert np.abs(image - frames[index]).mean() < np.abs(image - frames[len(frames) - 1 - index]).mean() + 1


def test_the_vision_tower_sees_all_that_is_told(tmp_path: Path) -> None:
    """The centre crop of a decoded file is the square that the scene is rendered in."""
    clip = next(clip for clip in (draw_clip(31, i) for i in range(100)) if clip.format.width > clip.format.height)
    write_clip(tmp_path / "clip.mp4", clip)
    sampled = decode(str(tmp_path / "clip.mp4"), 4)
    crops = FrameProcessor(crop_size=SIDE, clip_short_edge=SIDE, short_edge=SIDE)(sampled.images)
    for place, crop in zip(frame_indices(clip.format.frames, 4), crops, strict=True):
        _, wanted = render_frame(clip.scene, place / (clip.format.frames - 1), SIDE, SIDE)
        for item, covered in zip(clip.scene.objects, wanted, strict=True):
            assert np.abs(crop[covered == 1].mean(0) - item.rgb).max() < 15


def test_a_folder_of_clips_has_its_truth_in_the_meta_table(tmp_path: Path) -> None:
    clips = [draw_clip(1, number) for number in range(2)]
    meta = write_clips(tmp_path / "clips", clips)
    with meta.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "truth"]
    assert [row["truth"] for row in rows] == [clip.scene.caption() for clip in clips]
    assert all(Path(row["path"]).stat().st_size > 0 for row in rows)


def _seen(scene: Scene, backwards: bool = False) -> str:
    """The canonical caption, measured in the pixels of the first and the last frame."""
    ends = [render_frame(scene, time, FINE, FINE) for time in ((1, 0) if backwards else (0, 1))]
    frame, coverage = ends[0]
    told = []
    for place in np.argsort([_measure(covered)[0] for covered in coverage]):
        (x, y, area, height, fill), after = _measure(coverage[place]), _measure(ends[1][1][place])
        shape = min(FILL, key=lambda name: abs(FILL[name] - fill))
        extent = {"circle": 1.0, "square": 0.87, "triangle": 0.9, "star": 1.04}[shape]
        size = "small" if height / 2 / extent / FINE < 0.118 else "large"
        told.append(f"a {size} {_name(frame[int(y), int(x)], COLOURS)} {shape} {_verb((x, y, area), after[:3])}")
    caption = " and ".join(told)
    return f"A{caption[1:]}, on a {_name(frame[0, 0], BACKGROUNDS)} background."


def _measure(covered: np.ndarray) -> tuple[float, float, float, float, float]:
    """Centre x and y, area and height in pixels, and the share of the bounding box that is filled."""
    rows, columns = np.nonzero(covered > 0.5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    area = covered.sum()
    return float(np.mean(columns)), float(np.mean(rows)), float(area), float(height), float(area / (height * width))


def _verb(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    across, down = (after[0] - before[0]) / FINE, (after[1] - before[1]) / FINE
    growth = after[2] / before[2]
    if growth > 1.5:
        return "grows"
    if growth < 1 / 1.5:
        return "shrinks"
    if abs(across) > 0.15:
        return "moves to the right" if across > 0 else "moves to the left"
    if abs(down) > 0.15:
        return "moves down" if down > 0 else "moves up"
    return "stays still"


def _name(rgb: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda name: float(np.square(rgb - np.array(names[name])).sum()))
