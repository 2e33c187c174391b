"""Choose which frames of a clip the model sees."""

from __future__ import annotations


def frame_indices(total_frames: int, num_frames: int) -> list[int]:
    """Indices of `num_frames` frames, spread over a clip of `total_frames`. An index may occur several times.

    The k-th index is int(s / 2) + round_half_even(s * k) with s = (total_frames - 1) / num_frames, as in
    the public PLLaVA (`ChatPllava.get_index`); for 390 frames and 4: [48, 145, 242, 340].

    Raises:
        ValueError: the clip has no frames.
    """
    if total_frames < 1:
        raise ValueError("the video has no frames")
    segment = (total_frames - 1) / num_frames
    # Python's round() rounds half to even, as numpy does in the public code.
    return [int(segment / 2) + round(segment * k) for k in range(num_frames)]
