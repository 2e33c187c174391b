"""Describe videos from Python, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ...clips.time_range import TimeRange
from ...long_videos.document import VideoDescription
from ...process.errors import UsageError
from ...workers.launch import Launch
from ...workers.world import solo_world
from .. import job
from ..summaries.flags import has_service_flag
from .command import Checked, check, make_parser
from .files import Inputs, make_outputs

_COMMAND_ONLY = ("output", "to", "restart", "whole_files", "help")
"""Flags that are no options of `describe_videos`."""
PathType = TypeVar("PathType", str, Path)


def describe_videos(
    paths: Iterable[PathType], pretrained_model_name_or_path: str | Path | None = None, **options: Any
) -> Iterator[tuple[PathType, VideoDescription]]:
    """Describe videos one by one in this process: gives each path, as it is, with its description.

    The model is loaded once, for the first video; a video is read from `paths` when its description is asked for. So
    this can be a step of a pipeline of generators.

    options: the flags of describe.py without their dashes: `every=10`, `bs=4`, `do_sample=True`. None and False are as
        if not given. Not: `output`, `to`, `restart`, `whole_files`.

    pretrained_model_name_or_path: folder of the checkpoint; None with `base_url=URL`, for a service.

    Raises:
        UsageError: an option is unknown or wrong, or the checkpoint is not usable; before the first video is read.
        RunError: no segment of a video could be captioned because of the model or the disk. A bad video is described
            with its messages instead.
    """
    if isinstance(paths, (str, Path)):
        raise UsageError(f"describe_videos: {paths!r} is one path; give a list of paths")
    arguments: list[str] = []
    options["pretrained_model_name_or_path"] = pretrained_model_name_or_path
    for name, value in options.items():
        if name in _COMMAND_ONLY:
            raise UsageError(f"describe_videos has no option {name!r}: it is of the command only")
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments.append(f"--{name}={value}")
    through_service = has_service_flag(arguments)
    if through_service and options.get("answers") is None:
        raise UsageError("describe_videos: give answers=FILE, in which the answers of the service are kept")
    flags = make_parser("describe_videos", through_service).parse_args(["-", "--output", "-", *arguments])
    return _described(paths, check(flags, Launch()))


def _described(paths: Iterable[PathType], checked: Checked) -> Iterator[tuple[PathType, VideoDescription]]:
    for path in paths:
        yield path, _description(str(path), checked)


def _description(path: str, checked: Checked) -> VideoDescription:
    """Describe a video in this process."""
    world, described = solo_world(), list[VideoDescription]()
    inputs = Inputs((path,), ((TimeRange(0),),))
    with tempfile.TemporaryDirectory(prefix="describe") as folder:
        work = checked.work(inputs, make_outputs(Path(folder) / "result.json", None, inputs))
        job.in_world(world, lambda: work.describe(world, described.extend))
    return described[0]
