"""The shapes of the rendered world, as signed distances to their edges.

Pixels, negative inside, exact near the edges (corners apart). x, y: coordinates from the shape's centre,
y pointing down; radius: of about the circle of the same area.
"""

from __future__ import annotations

import numpy as np


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(radius)


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.87 * radius)


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Equilateral, of circumradius 1.2, pointing up; the middle of its height in the origin."""
    y = y - np.float32(0.3 * radius)
    slanted = np.float32(0.75**0.5) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(0.6 * radius)


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Five-pointed, of circumradius 1.15, pointing up; the middle of its height in the origin."""
    outer, inner = 1.15 * radius, 0.5 * radius
    y = np.float32(0.11 * radius) - y
    x = np.broadcast_to(np.abs(x), np.broadcast_shapes(x.shape, y.shape))
    # Fold into the sector of half a point: mirror at the lines through the notches.
    for tilt in (36, 144):
        normal_x, normal_y = np.float32(np.cos(np.radians(tilt))), np.float32(-np.sin(np.radians(tilt)))
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    x = np.abs(x)
    notch_x, notch_y = inner * np.sin(np.radians(36)), inner * np.cos(np.radians(36))
    edge = np.hypot(notch_x, outer - notch_y)
    return ((outer - notch_y) * x + notch_x * (y - np.float32(outer))).astype(np.float32) / np.float32(edge)


SIGNED_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star}
