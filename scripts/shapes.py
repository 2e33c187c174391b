"""The shapes of the synthetic world, as signed distance functions.

Each function returns the signed distance to the edge of the shape, in pixels: negative inside, positive outside. It is
exact near the edges, except at corners.

x, y: coordinates relative to the centre of the shape, in pixels; y points down. They broadcast against each other.
radius: pixels; about the radius of the circle with the same area.
"""

from __future__ import annotations

import numpy as np


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(radius)


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.87 * radius)


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Equilateral, points up. Its circumradius is 1.2 `radius`; half of its height is above the centre, half below."""
    y = y - np.float32(0.3 * radius)
    slanted = np.float32(0.75**0.5) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(0.6 * radius)


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Five points, points up. Its circumradius is 1.15 `radius`; half of its height is above the centre, half below."""
    outer, inner = 1.15 * radius, 0.5 * radius
    y = np.float32(0.11 * radius) - y
    x = np.broadcast_to(np.abs(x), np.broadcast_shapes(x.shape, y.shape))
    # Mirror x, y at the symmetry lines through the notches, until they are in the sector of half a point of the star.
    for angle in (36, 144):
        normal_x, normal_y = np.float32(np.cos(np.radians(angle))), np.float32(-np.sin(np.radians(angle)))
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    x = np.abs(x)
    notch_x, notch_y = inner * np.sin(np.radians(36)), inner * np.cos(np.radians(36))
    edge = np.hypot(notch_x, outer - notch_y)
    return ((outer - notch_y) * x + notch_x * (y - np.float32(outer))).astype(np.float32) / np.float32(edge)


SIGNED_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star}
