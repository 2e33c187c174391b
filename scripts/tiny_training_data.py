"""Random training batches for pllava-tiny, and the auxiliary tasks: classify what each patch or visual token shows.

The batches use other random streams than `clip_world.random_clip`. Frames are rendered in the input size of the vision
tower. They are then degraded in a similar way as resizing and video compression degrade them.
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
from scripts.clip_world import random_format, render_frame
from scripts.scenes import BACKGROUNDS, COLOURS, MOTIONS, REVERSED, SHAPES, SIZES, Scene, random_scene

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
}
_MIN_COVERAGE = 0.04
"""A patch or cell shows an object if the object covers more than this share of its area."""


@dataclass(frozen=True)
class FrameTargets:
    """What the patches (or cells) of frames show.

    attributes: for each name in ATTRIBUTES the class numbers, int64 (frames, patches); -1 for a patch without an
        object, except that "background" has a class for every patch.
    geometry: centre and radius of the object, scaled to (4 (x - 0.5), 4 (y - 0.5), 20 radius - 2), float32
        (frames, patches, 3).
    shows: which patches show an object, bool (frames, patches).
    """

    attributes: dict[str, np.ndarray]
    geometry: np.ndarray
    shows: np.ndarray


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of clips.

    pixels: uint8 (clips, frames, size, size, 3).
    patches: targets for the patches of all frames; the patches of a frame are in row-major order.
    cells: targets for the cells of all frames. A cell is the area of one pooled visual token, larger than a patch.
    """

    pixels: np.ndarray
    scenes: list[Scene]
    patches: FrameTargets
    cells: FrameTargets


def random_batch(
    rng: np.random.Generator, clips: int, frames: int, size: int, grid: int, cells: int, single: bool = False
) -> TrainingBatch:
    """A random batch.

    size: width and height of the frames in pixels. grid, cells: patches and cells along each side of a frame.
    single: use one frame at a random time for each clip instead of `frames` sampled frames.
    """
    scenes, pixels, rendered_frames = [], [], []
    for _ in range(clips):
        scene, clip_format = random_scene(rng), random_format(rng)
        if single:
            times = [float(rng.random())]
        else:
            times = [i / (clip_format.frames - 1) for i in frame_indices(clip_format.frames, frames)]
        rendered = [render_frame(scene, time, size, size) for time in times]
        pixels.append(_degrade(rng, np.stack([frame for frame, _ in rendered]), clip_format.noise))
        rendered_frames += [(scene, time, coverage) for time, (_, coverage) in zip(times, rendered, strict=True)]
        scenes.append(scene)
    return TrainingBatch(np.stack(pixels), scenes, _targets(rendered_frames, grid), _targets(rendered_frames, cells))


class AuxiliaryTask(nn.Module):
    """Linear heads that predict from each feature whether its patch or cell shows an object, and its attributes.

    names: attributes to predict. geometry: predict centre and radius too.
    """

    def __init__(self, width: int, names: Sequence[str], geometry: bool) -> None:
        super().__init__()
        self.names = tuple(names)
        self.classes = nn.ModuleDict({name: nn.Linear(width, len(ATTRIBUTES[name])) for name in names})
        self.shows = nn.Linear(width, 1)
        self.geometry = nn.Linear(width, 3) if geometry else None

    def forward(self, features: torch.Tensor, targets: FrameTargets) -> tuple[torch.Tensor, dict[str, float]]:
        """features: (frames, patches or cells, width).

        Returns:
            The loss, and metrics by name: the accuracy of each attribute, and the mean errors of centre and radius in
            units of the centre square.
        """
        features = features.float()
        shows = torch.from_numpy(targets.shows)
        loss = functional.binary_cross_entropy_with_logits(self.shows(features)[..., 0], shows.float())
        metrics = {}
        for name in self.names:
            logits, wanted = self.classes[name](features), torch.from_numpy(targets.attributes[name])
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1)
            labelled = wanted >= 0
            metrics[name] = (logits.argmax(-1) == wanted)[labelled].float().mean().item()
        if self.geometry is not None:
            wanted = torch.from_numpy(targets.geometry)[shows]
            predicted = self.geometry(features)[shows]
            loss = loss + 4 * functional.smooth_l1_loss(predicted, wanted, beta=0.1)
            metrics["radius error"] = (predicted - wanted)[:, 2].abs().mean().item() / 20
            metrics["centre error"] = (predicted - wanted)[:, :2].abs().mean().item() / 4
        return loss, metrics


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
        for index, item in enumerate(scene.objects):
            shown = (owner == index) & (share[index] > _MIN_COVERAGE)
            x, y, radius = item.at(time)
            shows[number] |= shown
            geometry[number][shown] = 4 * (x - 0.5), 4 * (y - 0.5), 20 * radius - 2
            for name in ("shape", "colour", "size", "motion"):
                attributes[name][number, shown] = ATTRIBUTES[name].index(getattr(item, name))
    return FrameTargets(attributes, geometry, shows)


def _degrade(rng: np.random.Generator, frames: np.ndarray, noise: float) -> np.ndarray:
    """Apply blur, brightness, noise and compression. frames: float32 (n, size, size, 3), 0 to 255. Returns uint8."""
    blur = max(0.0, float(rng.uniform(-0.5, 0.35)))
    if blur:
        for axis in (1, 2):
            frames = (1 - blur) * frames + blur / 2 * (np.roll(frames, 1, axis) + np.roll(frames, -1, axis))
    frames = frames * np.float32(rng.uniform(0.97, 1.03))
    # Downscaling and video compression both reduce the sensor noise.
    deviation = np.float32(noise * rng.uniform(0, 0.8))
    frames = frames + deviation * _NOISE[rng.integers(len(_NOISE), size=len(frames))][:, : frames.shape[1]]
    pixels = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 96))
        pixels = np.stack([_compress(frame, quality) for frame in pixels])
    return pixels


_NOISE = np.random.default_rng(0).standard_normal((64, 128, 128, 3), np.float32)
"""Precomputed noise fields. New noise for each frame would take more time than everything else."""


def _compress(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)  # chroma subsampling 4:2:0, as in the clips
    return np.asarray(Image.open(file))


def last_and_first_frames(cells: FrameTargets, scenes: Sequence[Scene], frames: int) -> FrameTargets:
    """Targets for the last frame of each clip, followed by those for the last frame of each reversed clip.

    The last frame of a reversed clip is the first frame of the clip, with the motion reversed. frames: frames per clip.
    """

    def choose(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[frames - 1 :: frames], values[::frames]])

    attributes = {name: choose(values) for name, values in cells.attributes.items()}
    motion = attributes["motion"]
    clips = len(motion) // 2
    reversed_motion = np.array([ATTRIBUTES["motion"].index(REVERSED[name]) for name in ATTRIBUTES["motion"]])
    motion[clips:] = np.where(motion[clips:] >= 0, reversed_motion[motion[clips:]], -1)
    return FrameTargets(attributes, choose(cells.geometry), choose(cells.shows))
