"""Measures how long a range at the end of a long video takes, compared with one at its start.

    python -m scripts.benchmark_seek --hours 2 --seconds 60 --repeats 7

Writes videos in several containers into a temporary folder, one second of H.264 with B frames again and again, and
decodes four frames of the first and of the last minute in turn. Prints the medians and their ratio for each container.
"""

from __future__ import annotations

import argparse
import statistics
import time
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange

SUFFIXES = ("mp4", "mkv", "ts")


def write_long_video(path: Path, seconds: int, rate: int = 25, size: tuple[int, int] = (64, 64)) -> Path:
    """Write a video of noise whose frames are repeated every second, without encoding them again.

    rate: frames per second; the first one of each second is a key frame. size: (width, height) in pixels.
    """
    import av
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (rate, size[1], size[0], 3), np.uint8)
    with av.open(str(path), "w") as container:
        options = {"bf": "3", "x264-params": f"keyint={rate}:min-keyint={rate}:scenecut=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(image, "rgb24") for image in noise]
        encoded = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        parts = [(bytes(packet), packet.pts or 0, packet.dts or 0, packet.is_keyframe) for packet in encoded]
        for second in range(seconds):
            for data, pts, dts, is_key in parts:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, rate), is_key
                packet.pts, packet.dts = second * rate + pts, second * rate + dts
                container.mux(packet)
    return path


def measure(path: Path, ranges: list[TimeRange], repeats: int) -> list[float]:
    """The median seconds that decoding four frames of each range takes. The ranges are decoded in turn."""
    seconds: list[list[float]] = [[] for _ in ranges]
    for _ in range(repeats):
        for part, taken in zip(ranges, seconds, strict=True):
            begin = time.perf_counter()
            decode(str(path), FrameSampling("uniform", 4), ["PyAV"], part=part)
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0, help="length of the video")
    parser.add_argument("--seconds", type=int, default=60, help="length of a range")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each range")
    flags = parser.parse_args()
    length = round(flags.hours * 3600)
    first = TimeRange(0, flags.seconds * 1000)
    last = TimeRange((length - flags.seconds) * 1000, length * 1000)
    print("container  MB  first range ms  last range ms  ratio")
    with TemporaryDirectory() as folder:
        for suffix in SUFFIXES:
            path = write_long_video(Path(folder) / f"long.{suffix}", length)
            begin, end = measure(path, [first, last], flags.repeats)
            size = path.stat().st_size / 1e6
            print(f"{suffix}  {size:.0f}  {begin * 1000:.1f}  {end * 1000:.1f}  {end / begin:.2f}")
            path.unlink()


if __name__ == "__main__":
    main()
