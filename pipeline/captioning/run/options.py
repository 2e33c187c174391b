"""The flags of the run, the device and the frames: parsed and checked, then stored in frozen dataclasses.

Imports no framework, so that a usage error is reported within a second or two. Knows nothing about the model, whose
flags are in `model_flags` and `prompt_flags`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends import DEVICES, DTYPES, FRAMEWORKS
from ..clips.downloads.limits import DOWNLOAD_TIMEOUT, MAX_DOWNLOAD, DownloadLimits
from ..clips.killable import DecoderLimits
from ..clips.sampling import COUNT_RULES, MAX_FRAMES, POINTS, RATE_RULES, SAMPLING_RULES, FrameSampling
from ..journal.run_journals import pad_length_problem
from ..meta.files import backup_of
from ..meta.marks import CAPTION_MARKS, SHORT_WORDS
from ..meta.names import TEXT_COLUMN, check_output, default_output, failures_path, outcomes_path, report_path
from ..process.arguments import CommandParser, HelpFormatter, byte_size, number, positive_int
from ..process.errors import UsageError
from ..workers.leases import MAX_LEASE_ROWS
from .model_flags import add_generation_flags
from .prompt_flags import add_conversation_flags, add_prompt_flags

AUTO = "auto"

_EPILOG = (
    "Exit code 0: done, also if single clips failed; 1: the run failed or no row could be captioned (the journals are "
    "kept; run the same command again to resume); 2: usage error."
)


@dataclass(frozen=True)
class JobOptions:
    """The options of a run that do not depend on the model.

    output: the captioned table.
    batch_size: clips that each worker captions at the same time; None for as many as suit the device.
    pad_length: maximum size of a gathered record, in int32 words of 4 bytes.
    limit: consider this many rows at most, without the kept rows; None for all.
    decode_timeout: time limit for decoding one clip with one decoder, in seconds.
    decode_workers: decoding processes of each worker; None to choose from the number of CPU cores.
    max_failure_rate: share of a worker's last 1,000 rows that may fail.
    stall_timeout: seconds without progress after which a worker is ended.
    framework, device, dtype: None to choose from launcher and hardware.
    max_download: largest size of a clip that is downloaded, in bytes.
    download_timeout: time limit for downloading one clip, all attempts together, in seconds.
    redo: captions with one of these marks are not kept but made again, in the order of `marks.CAPTION_MARKS`.
    short_words: a caption with fewer words has the mark `short`.
    times_rows: record how long each row took, in its result.
    lease_rows: rows that a rank leases at a time at most.
    whole_files: the columns `start` and `end` of the table are ignored: every row is a whole file.

    Raises:
        UsageError: the output can't be written, or writing it would replace the meta table.
    """

    meta_path: Path
    output: Path
    batch_size: int | None
    pad_length: int
    skip_if_existing: bool
    restart: bool
    limit: int | None
    decode_timeout: float
    decode_workers: int | None
    max_failure_rate: float
    stall_timeout: float
    framework: str | None
    device: str | None
    dtype: str | None
    max_download: int = MAX_DOWNLOAD
    download_timeout: float = DOWNLOAD_TIMEOUT
    redo: tuple[str, ...] = ()
    short_words: int = SHORT_WORDS
    times_rows: bool = False
    lease_rows: int = MAX_LEASE_ROWS
    whole_files: bool = False

    @property
    def decoder_limits(self) -> DecoderLimits:
        """The limits of each decoding process."""
        return DecoderLimits(self.decode_timeout, download=DownloadLimits(self.max_download, self.download_timeout))

    def __post_init__(self) -> None:
        meta_file = os.path.realpath(self.meta_path)  # pathlib's resolve raises an error for a link to itself
        if os.path.realpath(self.output) == meta_file:
            raise UsageError(f"--output {self.output} is the meta file itself, which is never overwritten")
        check_output(self.output)
        names = (failures_path, report_path, outcomes_path, backup_of)
        for other in (name(self.output) for name in names):
            if os.path.realpath(other) == meta_file:
                raise UsageError(
                    f"--output {self.output} would replace the meta file: the run writes {other.name} next to its "
                    "output; give --output another name"
                )


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a command whose captions a model makes, without the flags of the checkpoint."""
    parser = make_table_parser(prog, description)
    add_prompt_flags(parser)
    add_conversation_flags(parser)
    add_generation_flags(parser)
    run = add_run_flags(parser)
    run.add_argument(
        "--bs",
        type=batch_size,
        default=1,
        help="batch size: clips that each worker captions at the same time; 'auto' chooses a number that suits the "
        "device and its memory",
    )
    run.add_argument(
        "--pad_length",
        type=positive_int,
        default=4096,
        help="maximum size of a row's result when the results are gathered, in words of 4 bytes; a row with a longer "
        "caption becomes a failure",
    )
    device = parser.add_argument_group("device")
    device.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        help="framework that runs the model; if not given, chosen from launcher and device",
    )
    device.add_argument(
        "--device",
        choices=DEVICES,
        help="device that runs the model; if not given, an accelerator if there is one, else the CPU",
    )
    device.add_argument(
        "--dtype",
        choices=DTYPES,
        help="computing type; if not given, float32 on CPUs, bfloat16 on accelerators that have it, float16 on "
        "other accelerators",
    )
    return parser


def make_table_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make a parser whose only argument is the meta table."""
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("meta_path", type=Path, help="meta table (.csv, .csv.gz or .parquet) with a column 'path'")
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags of tables, rows and clips that all captioning commands have; returns their group."""
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output",
        type=Path,
        help="captioned table (.csv, .csv.gz or .parquet); if not given, <meta>_caption next to the meta table, with "
        "the same suffix",
    )
    run.add_argument(
        "--skip_if_existing",
        action="store_true",
        help="keep existing captions, each column by itself: those in an earlier output, else those in the same column "
        "of the meta table",
    )
    run.add_argument(
        "--redo",
        type=caption_marks,
        metavar="MARK,...",
        help="with --skip_if_existing: do not keep captions that have one of these marks of the gallery, but caption "
        f"their rows again: {', '.join(CAPTION_MARKS)}",
    )
    run.add_argument(
        "--short_words",
        type=positive_int,
        help=f"with --redo short: a caption with fewer words is short; if not given, {SHORT_WORDS}",
    )
    run.add_argument(
        "--restart", action="store_true", help="discard the journals of an interrupted run and caption its rows again"
    )
    run.add_argument(
        "--whole_files",
        action="store_true",
        help="ignore the columns 'start' and 'end' of the meta table: they do not say which part of its file a row is",
    )
    run.add_argument(
        "--limit",
        type=positive_int,
        help="caption only the first LIMIT rows, not counting rows that keep a caption; if not given, all rows",
    )
    run.add_argument(
        "--decode_timeout",
        type=number(minimum=0, above=True),
        default=60.0,
        help="time limit of each decoder for one clip, in seconds",
    )
    run.add_argument(
        "--decode_workers",
        type=positive_int,
        help="decoding processes of each worker; if not given, 2 to 8, chosen from the number of CPU cores",
    )
    run.add_argument(
        "--max_download",
        type=byte_size,
        default=f"{MAX_DOWNLOAD // 2**30}G",
        help="largest file that is downloaded for a row whose path is a URL, in bytes or for example 500M",
    )
    run.add_argument(
        "--download_timeout",
        type=number(minimum=0, above=True),
        default=DOWNLOAD_TIMEOUT,
        help="time limit for downloading one clip, all attempts together, in seconds",
    )
    run.add_argument(
        "--max_failure_rate",
        type=number(minimum=0, maximum=1),
        default=0.5,
        help="stop the run if more than this share of a worker's last 1,000 rows failed",
    )
    run.add_argument(
        "--stall_timeout",
        type=number(minimum=2, maximum=1e6),
        default=1800.0,
        help="end a worker that has made no progress for this many seconds; loading the model and waiting for other "
        "ranks do not count, and a clip may take as long as --download_timeout and --decode_timeout allow",
    )
    return run


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


def job_options(flags: argparse.Namespace, columns: Sequence[str] = (TEXT_COLUMN,)) -> JobOptions:
    """Check the flags of the run.

    columns: the columns that receive captions.

    Raises:
        UsageError: values that do not go together, or a folder that does not exist.
    """
    problem = pad_length_problem(flags.pad_length, flags.max_new_tokens, columns)
    if problem:
        raise UsageError(problem)
    if flags.redo and not flags.skip_if_existing:
        raise UsageError(
            f"--redo {','.join(flags.redo)}: without --skip_if_existing all rows are captioned again; give it, too"
        )
    if flags.short_words is not None and "short" not in (flags.redo or ()):
        raise UsageError(f"--short_words {flags.short_words} has an effect only with --redo short; give it, too")
    if flags.output is None and not os.path.isdir(flags.meta_path.parent):
        raise UsageError(f"meta file {flags.meta_path} does not exist, and its folder does not exist")
    return JobOptions(
        meta_path=flags.meta_path,
        output=flags.output or default_output(flags.meta_path),
        batch_size=None if flags.bs == AUTO else flags.bs,
        pad_length=flags.pad_length,
        skip_if_existing=flags.skip_if_existing,
        restart=flags.restart,
        limit=flags.limit,
        decode_timeout=flags.decode_timeout,
        decode_workers=flags.decode_workers,
        max_failure_rate=flags.max_failure_rate,
        stall_timeout=flags.stall_timeout,
        framework=flags.framework,
        device=flags.device,
        dtype=flags.dtype,
        max_download=flags.max_download,
        download_timeout=flags.download_timeout,
        redo=flags.redo or (),
        short_words=flags.short_words or SHORT_WORDS,
        whole_files=flags.whole_files,
    )


def batch_size(text: str) -> int | str:
    """An argparse type: a whole number of at least 1, or `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor is it {AUTO}") from None


def caption_marks(text: str) -> tuple[str, ...]:
    """An argparse type: marks of captions, separated by commas. Returns them in the order of CAPTION_MARKS."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CAPTION_MARKS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a mark; the marks are {', '.join(CAPTION_MARKS)}")
    return tuple(mark for mark in CAPTION_MARKS if mark in names)
