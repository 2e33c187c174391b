"""Flags shared by all captioning commands, validated into frozen dataclasses.

Free of frameworks, so that a usage error is reported at once. A family's command adds flags of its own.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from ..backends import DEVICES, DTYPES, FRAMEWORKS
from ..captioners.prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM, TEMPLATES, check_prompt_part
from ..generation.options import GenerationOptions
from ..meta.files import backup_of
from ..meta.names import check_output, default_output, failures_path, outcomes_path, report_path
from ..process.arguments import CommandParser, number, positive_int, whole_number
from ..process.errors import UsageError

MIN_PAD_LENGTH = 64
"""int32 words; a failure with its messages cut must fit."""


AUTO = "auto"


@dataclass(frozen=True)
class JobOptions:
    """What the job does, whatever the model.

    output: the captioned table.
    batch_size: clips captioned at once on each worker; None for as many as suit the device.
    pad_length: longest record that is gathered, in int32 words of 4 bytes.
    limit: caption so many rows at most; None for all.
    decode_timeout: deadline for decoding one clip, in seconds.
    decode_workers: decoding processes of each worker; None to go by the cores.
    max_failure_rate: share of a worker's last 1,000 rows that may fail.
    stall_timeout: seconds that a worker may be without progress before it is ended.
    framework, device, dtype: None to choose by launcher and hardware.
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

    def __post_init__(self) -> None:
        meta_file = os.path.realpath(self.meta_path)  # pathlib's resolve raises for a link to itself
        if os.path.realpath(self.output) == meta_file:
            raise UsageError(f"--output {self.output} is the meta file itself; it is never written over")
        check_output(self.output)
        names = (failures_path, report_path, outcomes_path, backup_of)
        for other in (name(self.output) for name in names):
            if os.path.realpath(other) == meta_file:
                raise UsageError(
                    f"--output {self.output} would replace the meta file: the run writes {other.name} beside its "
                    "output; give --output another name"
                )


@dataclass(frozen=True)
class PromptOptions:
    """What is asked of the model; see `captioners.prompts`."""

    question: str
    system: str
    conv_mode: str | None

    def __post_init__(self) -> None:
        check_prompt_part("--question", self.question)
        check_prompt_part("--system", self.system)


def make_parser(prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with the flags that all captioning commands share."""
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("meta_path", type=Path, help="meta table: .csv, .csv.gz or .parquet, with a 'path' column")

    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("--question", default=DEFAULT_QUESTION, help="what is asked about every clip")
    prompt.add_argument("--system", default=DEFAULT_SYSTEM, help="system prompt; '' for none")
    prompt.add_argument(
        "--conv_mode", choices=sorted(TEMPLATES), help="conversation template; by default the checkpoint's own"
    )

    generation = parser.add_argument_group("generation")
    defaults = GenerationOptions()
    generation.add_argument(
        "--max_new_tokens", type=positive_int, default=defaults.max_new_tokens, help="longest caption, in tokens"
    )
    generation.add_argument("--num_beams", type=positive_int, default=defaults.num_beams, help="beams; 1 for none")
    generation.add_argument(
        "--temperature",
        type=number(minimum=0),
        default=defaults.temperature,
        help="other than 1.0 it turns sampling on; 0 is greedy",
    )
    generation.add_argument("--do_sample", action="store_true", help="sample; greedy otherwise")
    generation.add_argument(
        "--top_p", type=number(minimum=0, maximum=1, above=True), default=defaults.top_p, help="nucleus to sample from"
    )
    generation.add_argument(
        "--seed", type=whole_number(0), default=defaults.seed, help="of sampling, with the row's number"
    )

    generation.add_argument(
        "--repetition_penalty",
        type=number(minimum=0, above=True),
        help="above 1 it makes tokens less likely that were there before; by default the checkpoint's own, else none",
    )
    generation.add_argument(
        "--no_repeat_ngram_size",
        type=whole_number(0),
        help="no sequence of so many tokens comes twice; 0 for no rule; by default the checkpoint's own, else none",
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--bs",
        type=batch_size,
        default=1,
        help="clips captioned at once on each worker; auto for as many as suit the device and its memory",
    )
    run.add_argument(
        "--output",
        type=Path,
        help="captioned table, .csv, .csv.gz or .parquet; by default <meta>_caption beside the meta table",
    )
    run.add_argument(
        "--skip_if_existing",
        action="store_true",
        help="keep the captions of rows that have one, in the output or else in the meta's 'text'",
    )
    run.add_argument("--restart", action="store_true", help="throw away the journals of an interrupted run")
    run.add_argument(
        "--limit", type=positive_int, help="caption at most so many of the rows that keep no caption, the first ones"
    )
    run.add_argument(
        "--pad_length",
        type=positive_int,
        default=4096,
        help="longest record that is gathered, in words of 4 bytes; longer captions become failures",
    )
    run.add_argument(
        "--decode_timeout", type=number(minimum=0, above=True), default=60.0, help="seconds for decoding one clip"
    )
    run.add_argument(
        "--decode_workers", type=positive_int, help="decoding processes of each worker; by default from the cores"
    )
    run.add_argument(
        "--max_failure_rate",
        type=number(minimum=0, maximum=1),
        default=0.5,
        help="stop when a larger share of a worker's last 1,000 rows failed",
    )
    run.add_argument(
        "--stall_timeout",
        type=number(minimum=2, maximum=1e6),
        default=1800.0,
        help="end a worker that has made no progress for so many seconds; loading and waiting for other ranks do not "
        "count, and clips have the time of their own deadlines",
    )

    device = parser.add_argument_group("device")
    device.add_argument("--framework", choices=FRAMEWORKS, help="by default the launcher's, else the device's")
    device.add_argument("--device", choices=DEVICES, help="by default an accelerator if there is one")
    device.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of computing; by default float32 on CPUs, bfloat16 on accelerators that have it",
    )
    return parser


def job_options(flags: argparse.Namespace) -> JobOptions:
    """Validate the flags that concern the job."""
    if flags.max_new_tokens > flags.pad_length:
        raise UsageError(
            f"--max_new_tokens {flags.max_new_tokens} is more than --pad_length {flags.pad_length}: "
            "captions could not be gathered; raise --pad_length"
        )
    if flags.pad_length < MIN_PAD_LENGTH:
        raise UsageError(f"--pad_length {flags.pad_length} is less than {MIN_PAD_LENGTH}")
    if flags.output is None and not os.path.isdir(flags.meta_path.parent):
        raise UsageError(f"meta file {flags.meta_path} does not exist, nor does its folder")
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
    )


def prompt_options(flags: argparse.Namespace) -> PromptOptions:
    return PromptOptions(flags.question, flags.system, flags.conv_mode)


def generation_options(flags: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=flags.max_new_tokens,
        num_beams=flags.num_beams,
        temperature=flags.temperature,
        do_sample=flags.do_sample,
        top_p=flags.top_p,
        seed=flags.seed,
        repetition_penalty=flags.repetition_penalty,
        no_repeat_ngram_size=flags.no_repeat_ngram_size,
    )


def batch_size(text: str) -> int | str:
    """An argparse type: a whole number from 1, or `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor is it {AUTO}") from None


def pooling_shape(text: str) -> tuple[int, int, int]:
    """An argparse type: `16-12-12` or `16,12,12`, (time, rows, columns)."""
    parts = text.replace(",", "-").split("-")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers from 1, as in 16-12-12")
    time, rows, columns = map(int, parts)
    return time, rows, columns
