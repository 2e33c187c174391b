"""The world of moving shapes: captions agree with the pixels, and a single frame does not show the motion."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.sampling import frame_indices
from scripts.clip_world import ClipFormat, RenderedClip, random_clip, render_frame, write_clip, write_clips
from scripts.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Scene, random_scene
from tests.fakes import segments

SIDE, FINE_SIDE = 128, 512
SCENES = [random_clip(11, number).scene for number in range(150)]
# Area of a shape divided by the area of its bounding box.
FILL = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "star": 0.37}


def test_a_clip_depends_only_on_seed_and_number() -> None:
    clip, again, other = random_clip(3, 5), random_clip(3, 5), random_clip(3, 6)
    assert clip == again
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames(), again.frames(), strict=True))
    assert other != clip and random_clip(4, 5) != clip


def test_every_attribute_occurs() -> None:
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
def test_pixels_agree_with_the_caption(number: int) -> None:
    scene = SCENES[number]
    assert _caption_of_pixels(scene) == scene.caption()
    assert _caption_of_pixels(scene.reversed(), backwards=True) == scene.caption()


@pytest.mark.parametrize("scene", SCENES[:20])
def test_objects_stay_inside_the_centre_square_and_do_not_touch(scene: Scene) -> None:
    for time in (0.0, 0.5, 1.0):
        _, wide = render_frame(scene, time, 2 * SIDE, SIDE)
        assert wide[:, :, : SIDE // 2].max(initial=0) == 0 and wide[:, :, -SIDE // 2 :].max(initial=0) == 0
        edges = wide[:, [0, -1]].max(initial=0)
        assert edges == 0
        assert (wide > 0).sum(0).max() == 1


def test_reversed_frames_show_the_reversed_scene() -> None:
    for scene in SCENES[:20]:
        for time in (0.0, 0.3, 1.0):
            forwards, _ = render_frame(scene, time, SIDE, SIDE)
            backwards, _ = render_frame(scene.reversed(), 1 - time, SIDE, SIDE)
            assert np.allclose(forwards, backwards, atol=1e-2)


def test_a_single_frame_does_not_show_the_motion() -> None:
    """At a random time, position and radius have the same distribution for objects that move, grow and stay still."""
    rng = np.random.default_rng(2)
    states: dict[str, list[tuple[float, float, float]]] = {"moves": [], "grows": [], "still": []}
    for _ in range(3000):
        for item in random_scene(rng).objects:
            x, y, radius = item.at(rng.random())
            kind = {"still": "still", "growing": "grows", "shrinking": "grows"}.get(item.motion, "moves")
            low, high = SIZES[item.size]
            states[kind].append((x, y, (radius - low) / (high - low)))
    still = np.array(states["still"])
    for kind in ("moves", "grows"):
        others = np.array(states[kind])
        for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert np.allclose(np.quantile(others, quantile, 0), np.quantile(still, quantile, 0), atol=0.05)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_file_decodes_to_the_rendered_frames(codec: str, backwards: bool, tmp_path: Path) -> None:
    clip_format = ClipFormat(width=192, height=128, rate=12, frames=30, codec=codec, quality=4, noise=3)
    clip = RenderedClip(random_clip(21, 4).scene, clip_format, (21, 4), backwards)
    path = tmp_path / "clip.mp4"
    write_clip(path, clip)
    frames, sampled = clip.frames(), decode(str(path), segments(4))
    shown = [np.asarray(sampled.images[i], np.float32) for i in sampled.index]
    for index, image in zip(frame_indices(len(frames), 4), shown, strict=True):
        assert np.abs(image - frames[index]).mean() < 8
        assert np.abs(image - frames[index]).mean() < np.abs(image - frames[len(frames) - 1 - index]).mean() + 1


def test_the_centre_crop_shows_everything_in_the_caption(tmp_path: Path) -> None:
    """The centre crop of a decoded file is the centre square of the scene."""
    clip = next(clip for clip in (random_clip(31, i) for i in range(100)) if clip.format.width > clip.format.height)
    write_clip(tmp_path / "clip.mp4", clip)
    sampled = decode(str(tmp_path / "clip.mp4"), segments(4))
    crops = FrameProcessor(crop_size=SIDE, clip_short_edge=SIDE, short_edge=SIDE)(sampled.images)
    for index, crop in zip(frame_indices(clip.format.frames, 4), crops, strict=True):
        _, coverage = render_frame(clip.scene, index / (clip.format.frames - 1), SIDE, SIDE)
        for item, covered in zip(clip.scene.objects, coverage, strict=True):
            assert np.abs(crop[covered == 1].mean(0) - item.rgb).max() < 15


def test_the_meta_table_has_the_true_captions(tmp_path: Path) -> None:
    clips = [random_clip(1, number) for number in range(2)]
    meta = write_clips(tmp_path / "clips", clips)
    with meta.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "truth"]
    assert [row["truth"] for row in rows] == [clip.scene.caption() for clip in clips]
    assert all(Path(row["path"]).stat().st_size > 0 for row in rows)


def _caption_of_pixels(scene: Scene, backwards: bool = False) -> str:
    """The canonical caption, derived from the pixels of the first and the last frame."""
    ends = [render_frame(scene, time, FINE_SIDE, FINE_SIDE) for time in ((1, 0) if backwards else (0, 1))]
    frame, coverage = ends[0]
    clauses = []
    for index in np.argsort([_measure(covered)[0] for covered in coverage]):
        (x, y, area, height, fill), after = _measure(coverage[index]), _measure(ends[1][1][index])
        shape = min(FILL, key=lambda name: abs(FILL[name] - fill))
        extent = {"circle": 1.0, "square": 0.87, "triangle": 0.9, "star": 1.04}[shape]
        size = "small" if height / 2 / extent / FINE_SIDE < 0.118 else "large"
        colour = _nearest_colour(frame[int(y), int(x)], COLOURS)
        clauses.append(f"a {size} {colour} {shape} {_verb_of_change((x, y, area), after[:3])}")
    caption = " and ".join(clauses)
    return f"A{caption[1:]}, on a {_nearest_colour(frame[0, 0], BACKGROUNDS)} background."


def _measure(covered: np.ndarray) -> tuple[float, float, float, float, float]:
    """Centre x and y, area, height (all in pixels), and the share of the bounding box that the object fills."""
    rows, columns = np.nonzero(covered > 0.5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    area = covered.sum()
    return float(np.mean(columns)), float(np.mean(rows)), float(area), float(height), float(area / (height * width))


def _verb_of_change(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    across, down = (after[0] - before[0]) / FINE_SIDE, (after[1] - before[1]) / FINE_SIDE
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


def _nearest_colour(rgb: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda name: float(np.square(rgb - np.array(names[name])).sum()))
