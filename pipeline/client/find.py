"""The command that finds the parts of a video whose captions match a query.

    python -m pipeline.client find "red AND star" video.mp4 --every 2
    python -m pipeline.client find "dog OR cat" video.mp4 --scenes --json

The video is divided into segments, and each of them is captioned through a server. Knows nothing about tables.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..captioning.clips.clip import ClipTask
from ..captioning.clips.killable import DecoderLimits
from ..captioning.clips.sampling import FrameSampling
from ..captioning.clips.time_range import TimeRange
from ..captioning.long_videos.segmentation.many import divide_many
from ..captioning.long_videos.segmentation.rule_flags import add_rule_flags, rule_of
from ..captioning.meta.results import CaptionResult, Failure
from ..captioning.process.arguments import CommandParser, HelpFormatter, positive_int
from ..captioning.process.errors import RunError, UsageError
from ..captioning.run.service import values
from ..search.fts import check_fts5
from ..search.matching import Matcher, Snippet, plain_line
from ..search.output import close_broken_stdout, counted, emphasized, is_terminal, print_line, range_text
from ..search.queries import expression_of
from .caption import DEFAULT_SAMPLING, add_clip_flags, sending_of
from .clips import clip_answers
from .connection import Connection, ConnectionOptions
from .connection_flags import add_answer_flags, add_connection_flags, connection_options
from .content import FILE
from .find_ranges import joined

EXIT_FOUND, EXIT_NOT_FOUND, EXIT_ERROR = 0, 1, 2
"""As grep: an error is also a segment without a caption."""


class Answered(Protocol):
    """A segment that was captioned, or could not be. row: index of the segment."""

    @property
    def row(self) -> int: ...

    @property
    def result(self) -> CaptionResult | Failure: ...


@dataclass
class Findings:
    """What is known so far. matching, failed: indices of segments."""

    matching: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError: see `exit_code_of`.
    """
    flags = _make_parser().parse_args(arguments)
    rule, expression = rule_of(flags), expression_of(flags.query, flags.words)
    if flags.send == FILE:
        raise UsageError(
            f"--send {FILE} would send the whole video for each segment; leave it out, or use --send images"
        )
    try:
        check_fts5()
        options = connection_options(flags, flags.concurrency)
        (segments,), damaged = divide_many([flags.video], [TimeRange(0)], rule, 1, flags.decode_timeout)
        if isinstance(segments, str):
            raise RunError(f"{flags.video}: {segments}")
        if damaged:
            print_line(f"{plain_line(flags.video)} is cut off or damaged, and divided up to there", sys.stderr)
        return asyncio.run(_find(flags, expression, segments, options))
    except BrokenPipeError:
        close_broken_stdout()
        return EXIT_ERROR
    except (RunError, OSError) as error:
        print_line(f"client find: {plain_line(str(error))}", sys.stderr)
        return EXIT_ERROR


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="client find",
        description="Find the parts of a video whose captions match a query. Each caption is printed when it arrives, "
        "so the order may differ from that of time; a star marks those that match. At the end come the time ranges "
        "that match.",
        epilog="Exit code 0: found; 1: not found; 2: usage error, or a segment has no caption; 130: Ctrl-C.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "query", help='words, all of which must occur; AND, OR, NOT, "a phrase", NEAR(a b, 5), prefix*, parentheses'
    )
    parser.add_argument("video", metavar="VIDEO", help="a local file")
    parser.add_argument("--words", action="store_true", help="the query has no operators: all its words must occur")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each segment, in one line: start, end, and caption, matches, marks; or error; "
        "and at the end one with found, segments, matching, failed",
    )
    add_rule_flags(parser.add_argument_group("segments"))
    add_connection_flags(parser)
    add_answer_flags(parser)
    parser.add_argument(
        "--max_tokens", type=values.answer_tokens, default=200, help="maximum length of an answer, in tokens"
    )
    parser.add_argument(
        "--num_frames", type=positive_int, default=DEFAULT_SAMPLING.num_frames,
        help="number of frames sampled from each segment",
    )  # fmt: skip
    add_clip_flags(parser)
    return parser


async def _find(
    flags: argparse.Namespace, expression: str, segments: Sequence[TimeRange], options: ConnectionOptions
) -> int:
    tasks = [ClipTask(number, flags.video, segment) for number, segment in enumerate(segments)]
    sampling, limits = FrameSampling("segments", flags.num_frames), DecoderLimits(flags.decode_timeout)
    async with Connection(options) as connection:
        answers = clip_answers(
            tasks, sampling, sending_of(flags), flags.question, connection, flags.concurrency, limits
        )
        async with aclosing(answers):
            findings = await report(answers, segments, Matcher(expression), flags.json)
    for line in closing_lines(segments, findings, flags.json):
        print_line(line)
    if findings.failed:
        return EXIT_ERROR
    return EXIT_FOUND if findings.matching else EXIT_NOT_FOUND


async def report(
    answers: AsyncIterable[Answered], segments: Sequence[TimeRange], matcher: Matcher, as_json: bool
) -> Findings:
    """Print each caption when it arrives; returns which segments match."""
    findings = Findings()
    async for answer in answers:
        segment, result = segments[answer.row], answer.result
        found: Snippet | None = None
        if isinstance(result, Failure):
            findings.failed.add(answer.row)
        elif (found := matcher.highlighted(result.caption)) is not None:
            findings.matching.add(answer.row)
        if as_json:
            print(json.dumps({**_times(segment), **_json_of(result, found)}), flush=True)
        elif isinstance(result, Failure):
            print_line(f"  {range_text(segment)}  {plain_line(str(result))}", sys.stderr)
        else:
            shown = found or Snippet(plain_line(result.caption), ())
            print_line(f"{'*' if found else ' '} {range_text(segment)}  {emphasized(shown, is_terminal())}")
    return findings


def closing_lines(segments: Sequence[TimeRange], findings: Findings, as_json: bool) -> list[str]:
    """The time ranges that match."""
    ranges = joined(segments, findings.matching)
    if as_json:
        counts = {"segments": len(segments), "matching": len(findings.matching), "failed": len(findings.failed)}
        return [json.dumps({"found": [_times(found.part) for found in ranges], **counts})]
    without = counted(len(findings.failed), "segment has", "segments have")
    failed = f"; {without} no caption" if findings.failed else ""
    searched = counted(len(segments), "segment")
    if not ranges:
        return [f"not found in {searched}{failed}"]
    lines = [f"found in {len(findings.matching):,} of {searched}{failed}:"]
    return [*lines, *(range_text(found.part) for found in ranges)]


def _json_of(result: CaptionResult | Failure, found: Snippet | None) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"error": {"message": str(result)}}
    text = plain_line(result.caption)
    return {"caption": text, "matches": found is not None, "marks": found.marks if found else ()}


def _times(part: TimeRange) -> dict[str, float | None]:
    return {"start": part.start / 1000, "end": None if part.end is None else part.end / 1000}
