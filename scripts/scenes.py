"""Random scenes of a small synthetic world of moving shapes, and their exact captions.

Knows nothing about models or training. All positions and radii are in units of the centre square: a square whose side
is the shorter side of the frame, with (0, 0) at its top left and (1, 1) at its bottom right. All objects stay inside
this square, because a centre crop keeps only the square.

Every statement of a caption is visible and unambiguous:

- Size: the radius of a small object is at most 0.10 in every frame, the radius of a large object at least 0.135. An
  object that grows or shrinks stays within its size class.
- Order of two objects: left to right. In every frame the centre of the first object is at least 0.10 to the left of
  the centre of the second.
- Motion: an object that moves travels at least 0.18 from the first frame to the last. An object that grows or shrinks
  changes its radius by a factor of at least 4/3.
- Colours: two objects have different colours, and no object has the colour of the background.
- Objects never touch each other.

A single frame does not show the motion. Every object, also one that stays still, gets a random path and a random range
of radii. An object that moves goes along its path, and its radius is a random constant in the range. An object that
grows or shrinks goes through its range of radii, and its position is a random point of the path. For an object that
stays still, both are random constants. So a frame at a random time has the same distribution for all motions, in both
directions. One weak hint remains: an object close to the left or right edge has a vertical path more often than a
horizontal one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scripts.shapes import SIGNED_DISTANCES

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
"""Range of the radius, for each size class."""
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

_DIRECTION = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_HALF_EXTENT = {"circle": (1.0, 1.0), "square": (0.87, 0.87), "triangle": (1.04, 0.9), "star": (1.1, 1.04)}
"""Half of the width and half of the height of a shape with radius 1."""
_MIN_GROWTH = 4 / 3
"""Minimum ratio of the largest to the smallest radius of an object."""
_MIN_TRAVEL, _MAX_TRAVEL = 0.18, (0.50, 0.30)
"""Minimum length of a path; maximum length for a single object and for each of two objects."""
_MARGIN, _MIN_GAP, _MIN_ORDER_GAP = 0.005, 0.02, 0.10
"""Minimum distances: from an object to the edge, between two objects along x or y, between their centres along x."""
_CANDIDATES = 512
"""Random placements that are drawn in one batch."""


@dataclass(frozen=True)
class MovingObject:
    """One object.

    start, end: (x, y, radius) in the first and in the last frame. Values between them are linear in time.
    """

    shape: str
    colour: str
    size: str
    motion: str
    rgb: tuple[float, float, float]
    start: tuple[float, float, float]
    end: tuple[float, float, float]

    def at(self, time: float) -> tuple[float, float, float]:
        """(x, y, radius) at a time between 0 (first frame) and 1 (last frame)."""
        x, y, radius = (a + (b - a) * time for a, b in zip(self.start, self.end, strict=True))
        return x, y, radius

    @property
    def noun(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A background and one or two objects, from left to right.

    rgb: background colour, 0 to 255. slope: brightness goes from -slope to +slope along x and along y.
    """

    background: str
    rgb: tuple[float, float, float]
    slope: tuple[float, float]
    objects: tuple[MovingObject, ...]

    def caption(self) -> str:
        """The canonical caption."""
        clauses = " and ".join(f"a {item.noun} {VERBS[item.motion]}" for item in self.objects)
        return f"A{clauses[1:]}, on a {self.background} background."

    def terse_caption(self) -> str:
        """The caption in the terse style, which the LoRA adapter learns."""
        phrases = "; ".join(f"{item.colour} {item.shape}, {_terse_motion(item.motion)}" for item in self.objects)
        return f"{phrases}; {self.background} background"

    def other_captions(self) -> tuple[str, ...]:
        """Other sentences with the same content."""
        relative = " and ".join(f"a {item.noun} that {VERBS[item.motion]}" for item in self.objects)
        simultaneous = " while ".join(f"a {item.noun} {VERBS[item.motion]}" for item in self.objects)
        return (
            f"On a {self.background} background there is {relative}.",
            f"The background is {self.background}, {simultaneous}.",
        )

    def reversed(self) -> Scene:
        """The scene that the same frames show in reversed order."""
        reversed_objects = (
            MovingObject(o.shape, o.colour, o.size, REVERSED[o.motion], o.rgb, o.end, o.start) for o in self.objects
        )
        return Scene(self.background, self.rgb, self.slope, tuple(reversed_objects))


def random_scene(rng: np.random.Generator) -> Scene:
    """A random scene. Draws the attributes first, then positions until they satisfy all rules."""
    background = str(rng.choice(list(BACKGROUNDS)))
    count = 1 if rng.random() < 0.35 else 2
    colours = rng.choice([colour for colour in COLOURS if colour != background], count, replace=False)
    attributes = [
        (str(rng.choice(SHAPES)), str(colour), str(rng.choice(list(SIZES))), str(rng.choice(MOTIONS)))
        for colour in colours
    ]
    positions = _random_positions(rng, [(shape, size, motion) for shape, _, size, motion in attributes])
    objects = tuple(
        MovingObject(shape, colour, size, motion, _shade(rng, COLOURS[colour]), *position)
        for (shape, colour, size, motion), position in zip(attributes, positions, strict=True)
    )
    slope = tuple(rng.uniform(-12, 12, 2))
    return Scene(background, _shade(rng, BACKGROUNDS[background]), slope, objects)


def _random_positions(
    rng: np.random.Generator, attributes: list[tuple[str, str, str]]
) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Random start and end, each (x, y, radius), for each (shape, size, motion), from left to right."""
    while True:
        boxes, candidates = [], []
        for shape, size, motion in attributes:
            horizontal = rng.random() < 0.5 if motion not in _DIRECTION else _DIRECTION[motion][0] != 0
            low, high = SIZES[size]
            min_radius = rng.uniform(low, high / _MIN_GROWTH, _CANDIDATES)
            max_radius = rng.uniform(min_radius * _MIN_GROWTH, high)
            half_length = rng.uniform(_MIN_TRAVEL, _MAX_TRAVEL[len(attributes) - 1], _CANDIDATES) / 2
            half_path = np.stack([half_length, np.zeros_like(half_length)][:: 1 if horizontal else -1])
            # Half of the box that the object needs for its whole path at its largest radius.
            half_box = half_path + np.outer(_HALF_EXTENT[shape], max_radius)
            free = np.maximum(1 - 2 * (half_box + _MARGIN), 0)
            middle = _MARGIN + half_box + free * rng.random((2, _CANDIDATES))
            boxes.append((middle, half_box, half_path, free.min(0) > 0))
            candidates.append(_candidate_ends(rng, motion, middle, half_path, min_radius, max_radius))
        valid = np.all([box[3] for box in boxes], 0)
        if len(attributes) == 2:
            (left, left_half_box, left_half_path, _), (right, right_half_box, right_half_path, _) = boxes
            apart = np.abs(right - left) >= left_half_box + right_half_box + _MIN_GAP
            valid &= apart.any(0) & (right[0] - left[0] >= left_half_path[0] + right_half_path[0] + _MIN_ORDER_GAP)
        chosen = np.flatnonzero(valid)
        if len(chosen):
            first = chosen[0]
            return [(tuple(start[:, first].tolist()), tuple(end[:, first].tolist())) for start, end in candidates]


def _candidate_ends(
    rng: np.random.Generator,
    motion: str,
    middle: np.ndarray,
    half_path: np.ndarray,
    min_radius: np.ndarray,
    max_radius: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates for (x, y, radius) at the start and at the end: two arrays of shape (3, _CANDIDATES).

    middle, half_path: centre of the path, and distance from there to its ends, each (2, _CANDIDATES).
    min_radius, max_radius: range of the radius, each (_CANDIDATES,).
    """
    fixed_position = middle + half_path * rng.uniform(-1, 1, _CANDIDATES)
    fixed_radius = rng.uniform(min_radius, max_radius)
    if motion in _DIRECTION:
        step = np.array(_DIRECTION[motion])[:, None] * half_path
        return np.vstack([middle - step, fixed_radius]), np.vstack([middle + step, fixed_radius])
    if motion == "still":
        return np.vstack([fixed_position, fixed_radius]), np.vstack([fixed_position, fixed_radius])
    ends = np.vstack([fixed_position, min_radius]), np.vstack([fixed_position, max_radius])
    return ends if motion == "growing" else ends[::-1]


def _terse_motion(motion: str) -> str:
    return VERBS[motion] if motion in ("growing", "shrinking") else motion


def _shade(rng: np.random.Generator, rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(rgb) + rng.uniform(-12, 12, 3), 0, 255).tolist()
    return red, green, blue
