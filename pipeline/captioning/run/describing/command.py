"""The command that describes videos: its parser, its checks, and its use from Python."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...clips.loader import default_decode_workers
from ...clips.time_range import TimeRange
from ...long_videos.cues import FORMATS
from ...long_videos.document import VideoDescription
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...long_videos.segmentation.rule_flags import add_rule_flags, rule_of
from ...process.arguments import CommandParser, HelpFormatter, positive_int
from ...process.errors import UsageError
from ...workers.launch import Launch
from ...workers.world import solo_world
from .. import family_source, job, model_flags, prompt_flags, run_flags
from ..command import Started
from ..model_work import work_of_source
from ..options import job_options
from ..rank_work import RankWork
from ..summaries.flags import add_summary_flags, summary_settings
from ..summaries.settings import SummarySettings
from ..summaries.work import SummaryWork
from .files import Inputs, Outputs, make_outputs, read_inputs
from .work import DescribeWork

DEFAULT_FRAMES, DEFAULT_FPS = 4, 1.0
"""Segments unless flags say otherwise: four frames at one frame per second."""
_COMMAND_ONLY = ("output", "to", "restart", "whole_files", "help")
"""Flags that are no options of `describe_videos`."""
PathType = TypeVar("PathType", str, Path)


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of the command with a model."""
    parser = CommandParser(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="VIDEO",
        help="videos, or one table (.csv, .csv.gz or .parquet) with a column 'path'",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="file of the description (.json, .jsonl, .vtt, .srt or .ffmeta), or a folder, which gets the files of "
        "each video and the tables of segments, captions and summaries",
    )
    parser.add_argument(
        "--to",
        type=_formats,
        metavar="FORMAT,...",
        help=f"formats of the files: {', '.join(FORMATS)}; if not given, json, or that of the suffix of --output",
    )
    _add_segment_flags(parser)
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument(
        "--question",
        type=prompt_flags.question,
        help="question about every segment, or @FILE; if not given, as in caption.py",
    )
    prompt.add_argument(
        "--prompt", choices=prompt_flags.NAMED_PROMPTS, metavar="NAME", help="named prompt about every segment"
    )
    prompt_flags.add_conversation_flags(parser)
    model_flags.add_generation_flags(parser)
    add_summary_flags(parser)
    run = parser.add_argument_group("run")
    run.add_argument(
        "--restart", action="store_true", help="describe the videos again; the earlier tables are kept as .bak"
    )
    run_flags.add_whole_files_flag(run)
    run_flags.add_end_flags(run)
    run_flags.add_clip_flags(run)
    run_flags.add_batch_flags(parser)
    run_flags.add_device_flags(parser)
    family_source.add_family_flags(parser)
    return parser


def _add_segment_flags(parser: argparse.ArgumentParser) -> None:
    segments = parser.add_argument_group(
        "segments", f"if none is given, --frames {DEFAULT_FRAMES} --fps {DEFAULT_FPS:g}"
    )
    add_rule_flags(segments, is_required=False)
    segments.add_argument(
        "--num_frames",
        type=positive_int,
        help="frames of a segment that the model sees; if not given, --frames, else the default of the model family",
    )


def _formats(text: str) -> tuple[str, ...]:
    """An argparse type: names of formats, separated by commas."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a format; the formats are {', '.join(FORMATS)}")
    return names


@dataclass(frozen=True)
class _Checked:
    """The parts of a command that do not depend on its videos."""

    flags: argparse.Namespace
    rule: EqualParts | Scenes
    captions: RankWork
    summaries: RankWork
    settings: SummarySettings
    model: str
    batch_size: int

    def work(self, inputs: Inputs, outputs: Outputs) -> DescribeWork:
        """The work for some videos. Makes the folder of the tables.

        Raises:
            UsageError: the folder can't be made.
        """
        flags = self.flags
        try:
            outputs.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output: the folder {outputs.folder} can't be made: {error.strerror}") from error
        flags.meta_path, flags.output = outputs.segments, outputs.captions
        captions = replace(job_options(flags), times_rows=True, whole_files=False)  # the flag is about the inputs
        summaries = replace(
            captions, meta_path=outputs.captions, output=outputs.summaries, lease_rows=1, times_rows=False
        )
        return DescribeWork(
            inputs,
            outputs,
            self.rule,
            self.captions,
            captions,
            self.summaries,
            summaries,
            self.settings,
            self.model,
            self.batch_size,
            flags.decode_workers or default_decode_workers(1),
            flags.decode_timeout,
        )


def _check(flags: argparse.Namespace, launch: Launch) -> _Checked:
    """Check everything but the videos.

    Raises:
        UsageError: flags that do not go together, or a checkpoint that is not usable.
    """
    if flags.every is None and flags.scenes is None:
        flags.frames, flags.fps = flags.frames or DEFAULT_FRAMES, flags.fps or DEFAULT_FPS
    rule = rule_of(flags)
    batch_size = flags.num_frames or flags.frames or 0
    flags.num_frames = batch_size or None
    flags.sampling = flags.max_frames = flags.short_side = flags.fps = None
    flags.ask = flags.question_column = flags.column = None
    flags.any_media = False
    flags.skip_if_existing, flags.redo, flags.short_words, flags.limit = True, None, None, None
    prompt_flags.check_prompt_flags(flags)
    settings = summary_settings(flags, "")
    source = family_source.make_source(flags)
    captions = work_of_source(source, flags.framework, flags.device, flags.dtype, launch)
    summaries = SummaryWork(captions.model, settings, "text", captions.device)
    return _Checked(
        flags, rule, captions, summaries, settings, flags.pretrained_model_name_or_path.resolve().name, batch_size
    )


def start(flags: argparse.Namespace, launch: Launch) -> Started:
    """Check the flags; see `command.Start`."""
    # The table need not exist on other hosts.
    inputs = read_inputs(flags.inputs, flags.whole_files) if launch.rank == 0 else Inputs((), ())
    outputs = make_outputs(flags.output, flags.to, inputs)
    checked = _check(flags, launch)
    work = checked.work(inputs, outputs)
    return Started(flags.stall_timeout, checked.captions.warnings(launch), work.run)


def describe_videos(
    paths: Iterable[PathType], pretrained_model_name_or_path: str | Path, **options: Any
) -> Iterator[tuple[PathType, VideoDescription]]:
    """Describe videos one by one in this process: gives each path, as it is, with its description.

    The model is loaded once, for the first video; a video is read from `paths` when its description is asked for. So
    this can be a step of a pipeline of generators.

    options: the flags of describe.py without their dashes: `every=10`, `bs=4`, `do_sample=True`. None and False are as
        if not given. Not: `output`, `to`, `restart`, `whole_files`.

    Raises:
        UsageError: an option is unknown or wrong, or the checkpoint is not usable; before the first video is read.
        RunError: no segment of a video could be captioned because of the model or the disk. A bad video is described
            with its messages instead.
    """
    arguments: list[str] = ["--pretrained_model_name_or_path", str(pretrained_model_name_or_path)]
    for name, value in options.items():
        if name in _COMMAND_ONLY:
            raise UsageError(f"describe_videos has no option {name!r}: it is of the command only")
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments.append(f"--{name}={value}")
    flags = make_parser("describe_videos", "").parse_args(["-", "--output", "-", *arguments])
    return _described(paths, _check(flags, Launch()))


def _described(paths: Iterable[PathType], checked: _Checked) -> Iterator[tuple[PathType, VideoDescription]]:
    for path in paths:
        yield path, _description(str(path), checked)


def _description(path: str, checked: _Checked) -> VideoDescription:
    """Describe a video in this process."""
    world, described = solo_world(), list[VideoDescription]()
    inputs = Inputs((path,), ((TimeRange(0),),))
    with tempfile.TemporaryDirectory(prefix="describe") as folder:
        work = checked.work(inputs, make_outputs(Path(folder) / "result.json", None, inputs))
        job.in_world(world, lambda: work.describe(world, described.extend))
    return described[0]
