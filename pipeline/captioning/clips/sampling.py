"""Which frames of a clip the model sees."""

from __future__ import annotations


def frame_indices(total_frames: int, num_frames: int) -> list[int]:
    """Indices of `num_frames` frames spread over a clip of `total_frames`; may repeat.

    The k-th is int(s / 2) + round_half_even(s * k) with s = (total_frames - 1) / num_frames, as in
    the public PLLaVA (`ChatPllava.get_index`); for 390 frames and 4: [48, 145, 242, 340].

    Raises:
        ValueError: no frames at all.
    """
    if total_frames < 1:
        raise ValueError("the video has no frames")
    segment = (total_frames - 1) / num_frames
    # Python's round() is half-to-even, as numpy's in the public code.
    return [int(segment / 2) + round(segment * k) for k in range(num_frames)]
