"""The command that describes videos: its parser and its checks, with a model in this process or through a service."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from ...clips.loader import default_decode_workers
from ...long_videos.cues import FORMATS
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...long_videos.segmentation.rule_flags import add_rule_flags, rule_of
from ...process.arguments import CommandParser, HelpFormatter, positive_int
from ...process.errors import UsageError
from ...workers.launch import Launch
from .. import prompt_flags, run_flags
from ..command import Started
from ..options import job_options
from ..report import versions
from ..summaries.command import Command
from ..summaries.flags import SERVICE_FLAG, add_summary_flags, has_service_flag, summary_settings
from ..summaries.settings import SummarySettings
from .descriptions import About
from .files import Inputs, Outputs, make_outputs, read_inputs
from .work import DescribeWork
from .works import CheckedWorks, Works

DEFAULT_FRAMES, DEFAULT_FPS = 4, 1.0
"""Segments unless flags say otherwise: four frames at one frame per second."""


def command_for(arguments: Sequence[str]) -> Command:
    """The command for a command line: through a service if it has SERVICE_FLAG, else with a model."""
    return Command(make_parser("describe.py", has_service_flag(arguments)), start)


def make_parser(prog: str, through_service: bool = False) -> argparse.ArgumentParser:
    """The parser of the command with a model, or with a service."""
    other = (
        f"Without {SERVICE_FLAG}, a model in this process" if through_service else f"With {SERVICE_FLAG} URL, a service"
    )
    description = f"Describe long videos: captions of their segments, a summary and a title. {other} writes them."
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=run_flags.EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
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
    add_summary_flags(parser)
    run = parser.add_argument_group("run")
    run.add_argument(
        "--restart", action="store_true", help="describe the videos again; the earlier tables are kept as .bak"
    )
    run_flags.add_whole_files_flag(run)
    run_flags.add_end_flags(run)
    run_flags.add_clip_flags(run)
    _works_module(through_service).add_flags(parser)
    return parser


def _works_module(through_service: bool) -> ModuleType:
    """`model_works` or `service_works`. The former needs packages that a service does without."""
    return importlib.import_module(f"{__package__}.{'service' if through_service else 'model'}_works")


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
class Checked:
    """The parts of a command that do not depend on its videos."""

    flags: argparse.Namespace
    rule: EqualParts | Scenes
    works: CheckedWorks
    settings: SummarySettings
    batch_size: int
    versions: Mapping[str, str]

    def work(self, inputs: Inputs, outputs: Outputs) -> DescribeWork:
        """The work for some videos. Makes the folder of the tables.

        Raises:
            UsageError: the folder can't be made, or a flag of a service is wrong.
        """
        flags = self.flags
        try:
            outputs.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output: the folder {outputs.folder} can't be made: {error.strerror}") from error
        flags.meta_path, flags.output = outputs.segments, outputs.captions
        if hasattr(flags, "answers") and flags.answers is None:
            flags.answers = outputs.answers  # not in the folder, which --restart moves away: the answers are paid for
        captions = replace(job_options(flags), times_rows=True, whole_files=False)  # the flag is about the inputs
        summaries = replace(
            captions, meta_path=outputs.captions, output=outputs.summaries, lease_rows=1, times_rows=False
        )
        try:
            works = self.works.make(captions, summaries)
        except UsageError:
            with contextlib.suppress(OSError):  # it has files of an earlier call
                outputs.folder.rmdir()
            raise
        return DescribeWork(
            inputs,
            outputs,
            self.rule,
            works.captions,
            captions,
            works.summaries,
            summaries,
            self._about(works),
            flags.decode_workers or default_decode_workers(1),
            flags.decode_timeout,
        )

    def _about(self, works: Works) -> About:
        return About(
            self.batch_size,
            works.model,
            works.captions.source.asks.texts[0],
            self.settings.summary_question,
            self.settings.title_question,
            self.versions,
        )


def check(flags: argparse.Namespace, launch: Launch) -> Checked:
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
    works = _works_module(hasattr(flags, "base_url")).check(flags, launch, settings)
    # The versions are read now, because mindnlp changes what is known about PyTorch.
    return Checked(flags, rule, works, settings, batch_size, versions())


def start(flags: argparse.Namespace, launch: Launch) -> Started:
    """Check the flags; see `command.Start`."""
    # The table need not exist on other hosts.
    inputs = read_inputs(flags.inputs, flags.whole_files) if launch.rank == 0 else Inputs((), ())
    outputs = make_outputs(flags.output, flags.to, inputs)
    checked = check(flags, launch)
    work = checked.work(inputs, outputs)
    return Started(flags.stall_timeout, checked.works.warnings, work.run)
