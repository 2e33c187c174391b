"""Clips of the synthetic world of `scenes`: frames, encoded files, and a meta table with the true captions.

Knows nothing about models or training. To write clips and their table:

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

from scripts.scenes import Scene, random_scene
from scripts.shapes import SIGNED_DISTANCES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFormat:
    """Size, length and encoding of a clip.

    width, height: pixels. rate: frames per second. frames: number of frames. codec: name of FFmpeg's encoder.
    quality: CRF for libx264, quantiser for mpeg4. noise: standard deviation of the simulated sensor noise; pixel
    values are 0 to 255.
    """

    width: int
    height: int
    rate: int
    frames: int
    codec: str
    quality: int
    noise: float


def random_format(rng: np.random.Generator) -> ClipFormat:
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
class RenderedClip:
    """A scene, and how to render it as a clip.

    noise_seed: seed of the simulated sensor noise. backwards: the frames are in reversed order.
    """

    scene: Scene
    format: ClipFormat
    noise_seed: tuple[int, ...]
    backwards: bool = False

    @property
    def shown(self) -> Scene:
        """The scene that the clip shows, in the order of its frames."""
        return self.scene.reversed() if self.backwards else self.scene

    def frames(self) -> list[np.ndarray]:
        """All frames, uint8 (height, width, 3)."""
        rng, fmt = np.random.default_rng(self.noise_seed), self.format
        # Each frame uses a different crop of one noise field. This is much faster than new noise for each frame.
        noise = rng.standard_normal((fmt.height + 64, fmt.width + 64, 3), np.float32) * np.float32(fmt.noise)
        frames = []
        for number in range(fmt.frames):
            frame, _ = render_frame(self.scene, number / (fmt.frames - 1), fmt.width, fmt.height)
            top, left = rng.integers(64, size=2)
            frame += noise[top : top + fmt.height, left : left + fmt.width]
            frames.append(np.clip(np.rint(frame, out=frame), 0, 255, out=frame).astype(np.uint8))
        return frames[::-1] if self.backwards else frames


def random_clip(seed: int, number: int) -> RenderedClip:
    """A random clip. It depends only on `seed` and `number`."""
    rng = np.random.default_rng([seed, number])
    return RenderedClip(random_scene(rng), random_format(rng), (seed, number, 1))


def render_frame(scene: Scene, time: float, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one frame without noise. width, height: pixels. time: 0 (first frame) to 1 (last frame).

    Returns:
        The frame, float32 (height, width, 3), 0 to 255, and the share of each pixel that each object covers, float32
        (objects, height, width), 0 to 1.
    """
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


def write_clip(path: Path, clip: RenderedClip) -> None:
    """Encode a clip as an MP4 file."""
    import av

    fmt = clip.format
    with av.open(str(path), "w") as container:
        stream = container.add_stream(fmt.codec, rate=Fraction(fmt.rate))
        stream.width, stream.height, stream.pix_fmt = fmt.width, fmt.height, "yuv420p"
        stream.thread_count = 1
        if fmt.codec == "libx264":
            stream.options = {"crf": str(fmt.quality), "preset": "veryfast"}
        else:
            stream.options = {"qmin": str(fmt.quality), "qmax": str(fmt.quality)}
        for frame in clip.frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_clips(folder: Path, clips: Iterable[RenderedClip]) -> Path:
    """Encode clips into a folder, and write `meta.csv` (path, truth) with one row for each clip, in their order.

    Returns:
        The path of `meta.csv`.
    """
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Render random clips, and write their true captions to meta.csv (path, truth)."
    )
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--clips", type=int, default=8, help="number of clips (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    meta = write_clips(arguments.folder, (random_clip(arguments.seed, number) for number in range(arguments.clips)))
    logger.info("wrote %d clips; their table is %s", arguments.clips, meta)


if __name__ == "__main__":
    main()
