"""The flags that choose the frames of a clip, and the sampling that they select."""

from __future__ import annotations

import argparse

from ..clips.sampling import COUNT_RULES, MAX_FRAMES, POINTS, RATE_RULES, SAMPLING_RULES, FrameSampling
from ..process.arguments import number, positive_int
from ..process.errors import UsageError


def add_frame_flags(
    parser: argparse.ArgumentParser, description: str = "if not given, the default of the model family"
) -> None:
    """Add the flags that choose the frames of a clip. If a flag is not given, its value is None.

    description: of the group, for the help.
    """
    frames = parser.add_argument_group("frames", description)
    frames.add_argument(
        "--sampling",
        choices=SAMPLING_RULES,
        help="which frames are sampled: one in each of --num_frames equal segments, --num_frames uniformly from the "
        "first to the last, --num_frames at fixed points (1 to 3 frames), at a rate of --fps, or in steps of the frame "
        "rate / --fps",
    )
    frames.add_argument("--num_frames", type=positive_int, help="number of frames sampled from each clip")
    frames.add_argument(
        "--fps",
        type=number(minimum=0, above=True),
        help="frames sampled per second; implies --sampling rate, and --sampling step for llava_qwen",
    )
    frames.add_argument(
        "--max_frames",
        type=positive_int,
        help=f"maximum number of frames sampled with --fps; if neither the flag nor the family sets it, {MAX_FRAMES}",
    )
    frames.add_argument(
        "--short_side",
        type=positive_int,
        help="scale larger frames down to a shorter side of this many pixels before the preprocessing of the model",
    )


def frame_sampling(
    flags: argparse.Namespace, default: FrameSampling, rate_default: FrameSampling | None = None
) -> FrameSampling:
    """The sampling that the flags of `add_frame_flags` choose; what they leave open is taken from `default`.

    rate_default: replaces `default` if --fps is given; None for no other default.

    Without --sampling, the rule of `default` is used if the given flags fit it. Otherwise --fps selects the rule
    `rate` and --num_frames the rule `uniform`. `multiple` is always that of `default`.

    Raises:
        UsageError: flags that do not go together.
    """
    if flags.num_frames is not None and flags.fps is not None:
        raise UsageError(
            f"--num_frames {flags.num_frames} and --fps {flags.fps:g} both set the number of frames; give one of them"
        )
    if flags.fps is not None and rate_default is not None:
        default = rate_default
    rule = flags.sampling or default.rule
    if flags.sampling is None and flags.fps is not None and rule in COUNT_RULES:
        rule = "rate"
    has_other_number = rule in RATE_RULES or (rule == "points" and flags.num_frames not in POINTS)
    if flags.sampling is None and flags.num_frames is not None and has_other_number:
        rule = "uniform"
    if rule in COUNT_RULES:
        if flags.max_frames is not None and flags.sampling is None:
            raise UsageError(f"--max_frames {flags.max_frames} limits the frames of --fps; give --fps, too")
        num_frames = flags.num_frames or default.num_frames
        return FrameSampling(rule, num_frames, flags.fps or 0.0, flags.max_frames or 0, default.multiple)
    return FrameSampling(
        rule, flags.num_frames or 0, flags.fps or default.fps, flags.max_frames or default.max_frames, default.multiple
    )
