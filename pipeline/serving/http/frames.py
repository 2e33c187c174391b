"""Which of the frames that a client sends as images are kept, if the model takes fewer. Opens no image."""

from __future__ import annotations

from dataclasses import dataclass

from ...captioning.clips.sampling import RATE_RULES, FrameSampling


@dataclass(frozen=True)
class Kept:
    """indices: of the frames that are kept, ascending. rate: of these frames per second; 0.0 if it is unknown."""

    indices: tuple[int, ...]
    rate: float


def kept(count: int, rate: float, sampling: FrameSampling) -> Kept:
    """All frames if the sampling may give as many, else those that it chooses from a video of these frames.

    count, rate: of the frames that were sent; rate: 0.0 if it is unknown, then a rule that needs it is replaced by the
        rule `uniform`.
    """
    most = sampling.most_frames
    if count <= most:
        return Kept(tuple(range(count)), rate)
    if sampling.rule in RATE_RULES and not rate:
        sampling = FrameSampling("uniform", most)
    indices = tuple(sorted(set(sampling.indices(count, rate))))  # the last one may have been repeated
    return Kept(indices, rate * len(indices) / count)
