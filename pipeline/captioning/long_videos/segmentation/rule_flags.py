"""The flags that say how videos are divided into segments."""

from __future__ import annotations

import argparse
from fractions import Fraction

from ...process.arguments import number, positive_int
from ...process.errors import UsageError
from .division import EqualParts, Scenes
from .scenes import DETECTORS, check_installed

_SCENE_FLAGS = ("threshold", "min_length", "max_length")
_MIN_LENGTH = 0.6
"""Seconds; the default of PySceneDetect's commands."""


def add_rule_flags(parser: argparse._ActionsContainer, is_required: bool = True) -> None:
    """Add the flags that `rule_of` reads. is_required: one of the rules must be given."""
    rule = parser.add_mutually_exclusive_group(required=is_required)
    rule.add_argument(
        "--every",
        type=number(minimum=0.001),
        metavar="SECONDS",
        help="segments of this length; the last one is shorter",
    )
    rule.add_argument(
        "--frames", type=positive_int, metavar="N",
        help="segments of N frames at --fps frames per second, so N / fps seconds; the last one is shorter",
    )  # fmt: skip
    rule.add_argument(
        "--scenes", nargs="?", const=DETECTORS[0], choices=DETECTORS,
        help="from cut to cut, by a detector of PySceneDetect (default: adaptive); pip install -r "
        "requirements-scenes.txt",
    )  # fmt: skip
    parser.add_argument("--fps", type=number(minimum=0, above=True), help="--frames: frames per second")
    parser.add_argument(
        "--threshold", type=number(minimum=0, above=True),
        help="--scenes: how much frames must differ; less gives more cuts (default: adaptive 3, content 27)",
    )  # fmt: skip
    parser.add_argument(
        "--min_length", type=number(minimum=0), metavar="SECONDS",
        help=f"--scenes: shortest scene (default: {_MIN_LENGTH})",
    )  # fmt: skip
    parser.add_argument(
        "--max_length", type=number(minimum=0.001), metavar="SECONDS",
        help="--scenes: longer scenes are divided into equal parts (default: no limit)",
    )  # fmt: skip


def rule_of(flags: argparse.Namespace) -> EqualParts | Scenes:
    """The rule that the flags describe.

    Raises:
        UsageError: flags do not go together, or the packages that --scenes needs are missing.
    """
    if flags.scenes is None:
        for name in _SCENE_FLAGS:
            if getattr(flags, name) is not None:
                raise UsageError(f"--{name} is a flag of --scenes")
    if flags.frames is None and flags.fps is not None:
        raise UsageError("--fps is a flag of --frames")
    if flags.every is not None:
        return EqualParts(1000 * _fraction(flags.every))
    if flags.frames is not None:
        if flags.fps is None:
            raise UsageError(f"--frames {flags.frames} needs --fps, for example --fps 1")
        length = 1000 * flags.frames / _fraction(flags.fps)
        if length < 1:
            raise UsageError(
                f"--frames {flags.frames} --fps {flags.fps:g}: segments would be shorter than 1 ms; use a lower --fps"
            )
        return EqualParts(length)
    min_length = _MIN_LENGTH if flags.min_length is None else flags.min_length
    max_length = flags.max_length or 0.0
    if 0 < max_length < min_length:
        raise UsageError(f"--max_length {max_length:g} is less than --min_length {min_length:g}; lower --min_length")
    check_installed()
    return Scenes(flags.scenes, flags.threshold, round(1000 * min_length), round(1000 * max_length))


def _fraction(value: float) -> Fraction:
    """The number that was written: 29.97 and not the float next to it."""
    return Fraction(repr(value))
