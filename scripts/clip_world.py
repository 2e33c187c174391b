"""A small world of moving shapes: scenes from a seed, their exact captions, their frames and encoded clips.

Knows no model. Positions and radii are in units of the centre square (the shorter side of a frame),
from (0, 0) at its top left to (1, 1); everything that a caption names stays inside that square, which
is what a centre crop leaves.

What a caption claims is visible and unambiguous:

- size: a small object's radius is at most 0.10 at every instant, a large one's at least 0.135, and
  objects that grow or shrink stay within their size;
- order of two objects: left to right; the first one's centre is left of the second's, by 0.10 at
  least, at every instant;
- motion: at least 0.18 from the first frame to the last, or a radius that changes by a third or more;
- colours: two objects differ in colour, and neither has the background's;
- objects never touch.

What a single frame can't tell: every object, also one that stays still, draws a path and a range of
radii. Its motion decides which of the two is run through and in which direction, and the other stays at
a random point. So a frame at a random instant looks the same whether its objects move, grow or stay
still, and forwards or backwards. (A slight hint at the axis remains: what is close to the left or right
edge has a vertical path more often than a horizontal one.)

Make clips and a meta table with their true captions:

    python -m scripts.clip_world FOLDER --clips 8 --seed 1
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from scripts.shapes import SIGNED_DISTANCES

logger = logging.getLogger(__name__)

COLOURS = {
    "red": (215, 35, 40),
    "green": (35, 165, 65),
    "blue": (40, 75, 215),
    "yellow": (240, 220, 45),
    "pink": (250, 110, 190),
    "cyan": (60, 210, 225),
}
BACKGROUNDS = {
    "black": (18, 18, 18),
    "white": (240, 240, 240),
    "gray": (125, 125, 125),
    "blue": COLOURS["blue"],
    "green": COLOURS["green"],
}
SHAPES = tuple(SIGNED_DISTANCES)
SIZES = {"small": (0.07, 0.10), "large": (0.135, 0.185)}
"""Smallest and largest radius."""
MOTIONS = ("left", "right", "up", "down", "still", "growing", "shrinking")
VERBS = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
    "growing": "grows",
    "shrinking": "shrinks",
}
REVERSED = {"left": "right", "up": "down", "growing": "shrinking"}
REVERSED |= {after: before for before, after in REVERSED.items()} | {"still": "still"}

_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_EXTENT = {"circle": (1.0, 1.0), "square": (0.87, 0.87), "triangle": (1.04, 0.9), "star": (1.1, 1.04)}
"""Half the width and height of a shape of radius 1."""
_MIN_GROWTH = 4 / 3
_MIN_TRAVEL, _MAX_TRAVEL = 0.18, (0.50, 0.30)
"""Length of a path: the least, and the most for one object and for each of two."""
_MARGIN, _GAP, _ORDER_GAP = 0.005, 0.02, 0.10
_CANDIDATES = 512


@dataclass(frozen=True)
class MovingObject:
    """One object. start, end: (x, y, radius) in the first and in the last frame; linear between them."""

    shape: str
    colour: str
    size: str
    motion: str
    rgb: tuple[float, float, float]
    start: tuple[float, float, float]
    end: tuple[float, float, float]

    def at(self, time: float) -> tuple[float, float, float]:
        """(x, y, radius) at a time from 0, the first frame, to 1, the last."""
        x, y, radius = (a + (b - a) * time for a, b in zip(self.start, self.end, strict=True))
        return x, y, radius

    @property
    def noun(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A background and one or two objects, left to right. slope: change of brightness over x and over y."""

    background: str
    rgb: tuple[float, float, float]
    slope: tuple[float, float]
    objects: tuple[MovingObject, ...]

    def caption(self) -> str:
        """The canonical caption."""
        told = " and ".join(f"a {item.noun} {VERBS[item.motion]}" for item in self.objects)
        return f"A{told[1:]}, on a {self.background} background."

    def terse_caption(self) -> str:
        """The caption in the second style, that of the LoRA adapter."""
        told = "; ".join(f"{item.colour} {item.shape}, {_terse_motion(item.motion)}" for item in self.objects)
        return f"{told}; {self.background} background"

    def other_captions(self) -> tuple[str, ...]:
        """Other sentences that say the same."""
        first = " and ".join(f"a {item.noun} that {VERBS[item.motion]}" for item in self.objects)
        then = " while ".join(f"a {item.noun} {VERBS[item.motion]}" for item in self.objects)
        return (
            f"On a {self.background} background there is {first}.",
            f"The background is {self.background}, {then}.",
        )

    def reversed(self) -> Scene:
        """The scene of the same frames in reversed order."""
        turned = (
            MovingObject(o.shape, o.colour, o.size, REVERSED[o.motion], o.rgb, o.end, o.start) for o in self.objects
        )
        return Scene(self.background, self.rgb, self.slope, tuple(turned))


@dataclass(frozen=True)
class ClipFormat:
    """How a scene is filmed and stored.

    rate: frames a second. quality: CRF of h264, quantiser of mpeg4. noise: standard deviation of the
    sensor's noise, in steps of 1/255.
    """

    width: int
    height: int
    rate: int
    frames: int
    codec: str
    quality: int
    noise: float


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene. What it shows is drawn first, then places are drawn until all rules are kept."""
    background = str(rng.choice(list(BACKGROUNDS)))
    count = 1 if rng.random() < 0.35 else 2
    colours = rng.choice([colour for colour in COLOURS if colour != background], count, replace=False)
    what = [
        (str(rng.choice(SHAPES)), str(colour), str(rng.choice(list(SIZES))), str(rng.choice(MOTIONS)))
        for colour in colours
    ]
    places = _draw_places(rng, [(shape, size, motion) for shape, _, size, motion in what])
    objects = tuple(
        MovingObject(shape, colour, size, motion, _shade(rng, COLOURS[colour]), *place)
        for (shape, colour, size, motion), place in zip(what, places, strict=True)
    )
    slope = tuple(rng.uniform(-12, 12, 2))
    return Scene(background, _shade(rng, BACKGROUNDS[background]), slope, objects)


def _draw_places(
    rng: np.random.Generator, what: list[tuple[str, str, str]]
) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Start and end of each (shape, size, motion), left to right."""
    while True:
        boxes, ends = [], []
        for shape, size, motion in what:
            horizontal = rng.random() < 0.5 if motion not in _STEP else _STEP[motion][0] != 0
            low, high = SIZES[size]
            least = rng.uniform(low, high / _MIN_GROWTH, _CANDIDATES)
            most = rng.uniform(least * _MIN_GROWTH, high)
            travel = rng.uniform(_MIN_TRAVEL, _MAX_TRAVEL[len(what) - 1], _CANDIDATES) / 2
            reach = np.stack([travel, np.zeros_like(travel)][:: 1 if horizontal else -1])
            extent = reach + np.outer(_EXTENT[shape], most)
            room = np.maximum(1 - 2 * (extent + _MARGIN), 0)
            middle = _MARGIN + extent + room * rng.random((2, _CANDIDATES))
            boxes.append((middle, extent, reach, room.min(0) > 0))
            ends.append(_ends(rng, motion, middle, reach, least, most))
        good = np.all([box[3] for box in boxes], 0)
        if len(what) == 2:
            (left, left_extent, left_reach, _), (right, right_extent, right_reach, _) = boxes
            apart = np.abs(right - left) >= left_extent + right_extent + _GAP
            good &= apart.any(0) & (right[0] - left[0] >= left_reach[0] + right_reach[0] + _ORDER_GAP)
        chosen = np.flatnonzero(good)
        if len(chosen):
            first = chosen[0]
            return [(tuple(start[:, first].tolist()), tuple(end[:, first].tolist())) for start, end in ends]


def _ends(
    rng: np.random.Generator, motion: str, middle: np.ndarray, reach: np.ndarray, least: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (3, n) of (x, y, radius) at the start and at the end."""
    frozen = middle + reach * rng.uniform(-1, 1, _CANDIDATES)
    radius = rng.uniform(least, most)
    if motion in _STEP:
        step = np.array(_STEP[motion])[:, None] * reach
        return np.vstack([middle - step, radius]), np.vstack([middle + step, radius])
    if motion == "still":
        return np.vstack([frozen, radius]), np.vstack([frozen, radius])
    ends = np.vstack([frozen, least]), np.vstack([frozen, most])
    return ends if motion == "growing" else ends[::-1]


def draw_format(rng: np.random.Generator) -> ClipFormat:
    """A random format: 1 to 6 s, five aspect ratios, two codecs."""
    short = int(rng.choice([112, 128, 160, 192, 240, 288]))
    across, down = [(1, 1), (4, 3), (16, 9), (3, 4), (9, 16)][rng.integers(5)]
    scale = short / min(across, down)
    rate = int(rng.choice([8, 10, 12, 15, 24, 25, 30]))
    codec = "libx264" if rng.random() < 0.7 else "mpeg4"
    return ClipFormat(
        width=2 * round(across * scale / 2),
        height=2 * round(down * scale / 2),
        rate=rate,
        frames=max(2, round(rate * rng.uniform(1, 6))),
        codec=codec,
        quality=int(rng.integers(18, 31) if codec == "libx264" else rng.integers(2, 8)),
        noise=float(rng.uniform(0, 5)),
    )


@dataclass(frozen=True)
class FilmedClip:
    """A scene on film. noise_seed: fixes the noise. backwards: the same frames in reversed order."""

    scene: Scene
    format: ClipFormat
    noise_seed: tuple[int, ...]
    backwards: bool = False

    @property
    def shown(self) -> Scene:
        """The scene as one sees it."""
        return self.scene.reversed() if self.backwards else self.scene

    def frames(self) -> list[np.ndarray]:
        """All frames, uint8 (height, width, 3)."""
        rng, film = np.random.default_rng(self.noise_seed), self.format
        # Every frame gets another part of one field of noise: much faster than noise of its own.
        noise = rng.standard_normal((film.height + 64, film.width + 64, 3), np.float32) * np.float32(film.noise)
        frames = []
        for number in range(film.frames):
            frame, _ = render_frame(self.scene, number / (film.frames - 1), film.width, film.height)
            top, left = rng.integers(64, size=2)
            frame += noise[top : top + film.height, left : left + film.width]
            frames.append(np.clip(np.rint(frame, out=frame), 0, 255, out=frame).astype(np.uint8))
        return frames[::-1] if self.backwards else frames


def draw_clip(seed: int, number: int) -> FilmedClip:
    """Clip `number` of the series that `seed` names."""
    rng = np.random.default_rng([seed, number])
    return FilmedClip(draw_scene(rng), draw_format(rng), (seed, number, 1))


def render_frame(scene: Scene, time: float, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """One frame without noise, float32 (height, width, 3) from 0 to 255, and what each object covers of
    each pixel, float32 (objects, height, width) from 0 to 1."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    slope_x, slope_y = scene.slope
    across = np.linspace(-slope_x, slope_x, width, dtype=np.float32)
    down = np.linspace(-slope_y, slope_y, height, dtype=np.float32)
    row = across[:, None] + np.array(scene.rgb, np.float32)
    frame = row[None] + down[:, None, None]
    coverage = np.zeros((len(scene.objects), height, width), np.float32)
    for item, covered in zip(scene.objects, coverage, strict=True):
        x, y, radius = item.at(time)
        centre_x, centre_y, radius = left + x * side, top + y * side, radius * side
        reach = 1.15 * radius + 2
        rows = slice(max(0, int(centre_y - reach)), min(height, int(centre_y + reach) + 1))
        columns = slice(max(0, int(centre_x - reach)), min(width, int(centre_x + reach) + 1))
        across = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + np.float32(0.5 - centre_x)
        down = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - centre_y)
        alpha = np.clip(0.5 - SIGNED_DISTANCES[item.shape](across, down, radius), 0, 1)
        covered[rows, columns] = alpha
        frame[rows, columns] += alpha[:, :, None] * (np.array(item.rgb, np.float32) - frame[rows, columns])
    return frame, coverage


def write_clip(path: Path, clip: FilmedClip) -> None:
    """Encode a clip as an MP4 file."""
    import av

    film = clip.format
    with av.open(str(path), "w") as container:
        stream = container.add_stream(film.codec, rate=Fraction(film.rate))
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.thread_count = 1
        if film.codec == "libx264":
            stream.options = {"crf": str(film.quality), "preset": "veryfast"}
        else:
            stream.options = {"qmin": str(film.quality), "qmax": str(film.quality)}
        for frame in clip.frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_clips(folder: Path, clips: Iterable[FilmedClip]) -> Path:
    """Encode clips into a folder, with `meta.csv` (path, truth) in their order; returns the path of that."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = folder / "meta.csv"
    with meta.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "truth"])
        for number, clip in enumerate(clips):
            path = folder / f"clip_{number:05d}.mp4"
            write_clip(path, clip)
            writer.writerow([str(path), clip.shown.caption()])
    return meta


def _terse_motion(motion: str) -> str:
    return VERBS[motion] if motion in ("growing", "shrinking") else motion


def _shade(rng: np.random.Generator, rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(rgb) + rng.uniform(-12, 12, 3), 0, 255).tolist()
    return red, green, blue


def main() -> None:
    parser = argparse.ArgumentParser(description="Render clips with their true captions (meta.csv: path, truth).")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    meta = write_clips(arguments.folder, (draw_clip(arguments.seed, number) for number in range(arguments.clips)))
    logger.info("%d clips in %s", arguments.clips, meta)


if __name__ == "__main__":
    main()
