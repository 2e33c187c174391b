"""Training batches for the small PLLaVA, rendered on the fly, and the side task of telling what each patch shows.

Scenes are drawn from seeds that `clip_world.draw_clip` never uses. Frames are rendered at the size that
the vision tower sees and roughened as resizing and video compression would.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from pipeline.captioning.clips.sampling import frame_indices
from scripts.clip_world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    REVERSED,
    SHAPES,
    SIZES,
    Scene,
    draw_format,
    draw_scene,
    render_frame,
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
}
_LEAST_COVERAGE = 0.04
"""A patch or cell shows an object from this share of its area on."""


@dataclass(frozen=True)
class FrameTargets:
    """What the patches of frames show.

    attributes: class numbers by name of ATTRIBUTES, int64 (frames, patches); -1 where no object is seen
        (the background is named everywhere).
    geometry: the object's centre and radius, float32 (frames, patches, 3), as (4 (x - 0.5), 4 (y - 0.5),
        20 radius - 2).
    shows: which patches show an object, bool (frames, patches).
    """

    attributes: dict[str, np.ndarray]
    geometry: np.ndarray
    shows: np.ndarray


@dataclass(frozen=True)
class TrainingBatch:
    """pixels: uint8 (clips, frames, size, size, 3). patches: targets of all frames, row by row of patches.
    cells: targets of the coarser cells that the pooled visual tokens stand for."""

    pixels: np.ndarray
    scenes: list[Scene]
    patches: FrameTargets
    cells: FrameTargets


def draw_batch(
    rng: np.random.Generator, clips: int, frames: int, size: int, grid: int, cells: int, single: bool = False
) -> TrainingBatch:
    """A batch of clips. single: one frame at a random time instead of the frames that are sampled."""
    scenes, pixels, owners = [], [], []
    for _ in range(clips):
        scene, clip_format = draw_scene(rng), draw_format(rng)
        if single:
            times = [float(rng.random())]
        else:
            times = [i / (clip_format.frames - 1) for i in frame_indices(clip_format.frames, frames)]
        rendered = [render_frame(scene, time, size, size) for time in times]
        pixels.append(_roughen(rng, np.stack([frame for frame, _ in rendered]), clip_format.noise))
        owners += [(scene, time, coverage) for time, (_, coverage) in zip(times, rendered, strict=True)]
        scenes.append(scene)
    return TrainingBatch(np.stack(pixels), scenes, _targets(owners, grid), _targets(owners, cells))


class SideTasks(nn.Module):
    """Reads attributes, and for `geometry` also centre and radius, of what each place shows."""

    def __init__(self, width: int, names: Sequence[str], geometry: bool) -> None:
        super().__init__()
        self.names = tuple(names)
        self.classes = nn.ModuleDict({name: nn.Linear(width, len(ATTRIBUTES[name])) for name in names})
        self.shows = nn.Linear(width, 1)
        self.geometry = nn.Linear(width, 3) if geometry else None

    def forward(self, features: torch.Tensor, targets: FrameTargets) -> tuple[torch.Tensor, dict[str, float]]:
        """features: (frames, places, width). Returns the loss, and the share of right answers by attribute."""
        features = features.float()
        shows = torch.from_numpy(targets.shows)
        loss = functional.binary_cross_entropy_with_logits(self.shows(features)[..., 0], shows.float())
        right = {}
        for name in self.names:
            logits, wanted = self.classes[name](features), torch.from_numpy(targets.attributes[name])
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1)
            named = wanted >= 0
            right[name] = (logits.argmax(-1) == wanted)[named].float().mean().item()
        if self.geometry is not None:
            wanted = torch.from_numpy(targets.geometry)[shows]
            found = self.geometry(features)[shows]
            loss = loss + 4 * functional.smooth_l1_loss(found, wanted, beta=0.1)
            right["radius error"] = (found - wanted)[:, 2].abs().mean().item() / 20
            right["centre error"] = (found - wanted)[:, :2].abs().mean().item() / 4
        return loss, right


def _targets(frames: Sequence[tuple[Scene, float, np.ndarray]], grid: int) -> FrameTargets:
    shape = (len(frames), grid * grid)
    attributes = {name: np.full(shape, -1, np.int64) for name in ATTRIBUTES}
    geometry = np.zeros((*shape, 3), np.float32)
    shows = np.zeros(shape, bool)
    for number, (scene, time, coverage) in enumerate(frames):
        side = coverage.shape[-1] // grid
        share = coverage.reshape(len(coverage), grid, side, grid, side).mean((2, 4)).reshape(len(coverage), -1)
        owner = share.argmax(0)
        attributes["background"][number] = ATTRIBUTES["background"].index(scene.background)
        for place, item in enumerate(scene.objects):
            seen = (owner == place) & (share[place] > _LEAST_COVERAGE)
            x, y, radius = item.at(time)
            shows[number] |= seen
            geometry[number][seen] = 4 * (x - 0.5), 4 * (y - 0.5), 20 * radius - 2
            for name in ("shape", "colour", "size", "motion"):
                attributes[name][number, seen] = ATTRIBUTES[name].index(getattr(item, name))
    return FrameTargets(attributes, geometry, shows)


def _roughen(rng: np.random.Generator, frames: np.ndarray, noise: float) -> np.ndarray:
    """Blur, brightness, noise and compression on a clip, float32 (n, size, size, 3) to uint8."""
    blur = max(0.0, float(rng.uniform(-0.5, 0.35)))
    if blur:
        for axis in (1, 2):
            frames = (1 - blur) * frames + blur / 2 * (np.roll(frames, 1, axis) + np.roll(frames, -1, axis))
    frames = frames * np.float32(rng.uniform(0.97, 1.03))
    # Downscaling and the codec both weaken the sensor's noise.
    deviation = np.float32(noise * rng.uniform(0, 0.8))
    frames = frames + deviation * _NOISE[rng.integers(len(_NOISE), size=len(frames))][:, : frames.shape[1]]
    pixels = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 96))
        pixels = np.stack([_compress(frame, quality) for frame in pixels])
    return pixels


_NOISE = np.random.default_rng(0).standard_normal((64, 128, 128, 3), np.float32)
"""A stock of noise: drawing it anew would take longer than all the rest."""


def _compress(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)  # 4:2:0, as in the clips
    return np.asarray(Image.open(file))


def last_and_first_frames(cells: FrameTargets, scenes: Sequence[Scene], frames: int) -> FrameTargets:
    """Targets of the last frame of each clip, then of each reversed clip, whose last frame is the first."""

    def choose(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[frames - 1 :: frames], values[::frames]])

    attributes = {name: choose(values) for name, values in cells.attributes.items()}
    motion = attributes["motion"]
    forwards = len(motion) // 2
    turn = np.array([ATTRIBUTES["motion"].index(REVERSED[name]) for name in ATTRIBUTES["motion"]])
    motion[forwards:] = np.where(motion[forwards:] >= 0, turn[motion[forwards:]], -1)
    return FrameTargets(attributes, choose(cells.geometry), choose(cells.shows))
