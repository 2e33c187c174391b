"""The command that captions single files through a server, and prints each caption when it arrives.

    python -m pipeline.client caption a.mp4 b.jpg
    python -m pipeline.client caption *.mp4 --question "What is the weather like?" --json

Knows nothing about tables; for those there is caption_api.py, which resumes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from ..captioning.captioners.api.options import Visuals
from ..captioning.clips.clip import ClipTask
from ..captioning.clips.downloads.urls import without_credentials
from ..captioning.clips.killable import DecoderLimits
from ..captioning.clips.sampling import FrameSampling
from ..captioning.meta.results import Failure
from ..captioning.process.arguments import CommandParser, HelpFormatter, number, positive_int
from ..captioning.process.errors import EXIT_DONE, EXIT_FAILED
from ..captioning.run.frame_flags import frame_sampling
from ..captioning.run.service import values
from ..search.matching import plain_line
from ..search.output import print_line
from .clips import ClipAnswer, clip_answers
from .connection import Connection, ConnectionOptions
from .connection_flags import add_answer_flags, add_connection_flags, connection_options
from .content import FILE, FRAMES, SEND, Sending

DEFAULT_SAMPLING = FrameSampling("segments", 4)
_DEFAULTS = Visuals()


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError, RunError: see `exit_code_of`.
    """
    flags = _make_parser().parse_args(arguments)
    sampling, sending = sampling_of(flags), sending_of(flags)
    options = connection_options(flags, flags.concurrency)
    return asyncio.run(_caption(flags, sampling, sending, options))


def add_clip_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how clips are sent; `sending_of` reads them."""
    sent = parser.add_argument_group("what is sent of a clip")
    sent.add_argument(
        "--send",
        choices=SEND,
        default=FRAMES,
        help="of a video: sampled frames as one video of JPEGs, sampled frames as images for services that know no "
        "such video, or the file",
    )
    sent.add_argument(
        "--max_side",
        type=positive_int,
        help=f"scale larger frames and images to a longer side of this many pixels; if not given, {_DEFAULTS.max_side}",
    )
    sent.add_argument("--jpeg_quality", type=values.jpeg_quality, help=f"1 to 95; if not given, {_DEFAULTS.quality}")
    sent.add_argument("--concurrency", type=positive_int, default=8, help="maximum number of requests in flight")
    sent.add_argument(
        "--decode_timeout",
        type=number(minimum=0, above=True),
        default=60.0,
        help="time limit of each decoder for one clip, in seconds",
    )


def sampling_of(flags: argparse.Namespace) -> FrameSampling:
    """The frames that are sampled, from `--num_frames` and `--fps`.

    Raises:
        UsageError: both are given.
    """
    return frame_sampling(argparse.Namespace(**vars(flags), sampling=None, max_frames=None), DEFAULT_SAMPLING)


def sending_of(flags: argparse.Namespace) -> Sending:
    """How clips are sent, from the flags of `add_clip_flags`.

    With `--send file` the server samples the frames; images are still scaled and encoded here.
    """
    given = {name: getattr(flags, name) for name in ("num_frames", "fps") if getattr(flags, name, None) is not None}
    return Sending(
        flags.send,
        flags.max_side or _DEFAULTS.max_side,
        flags.jpeg_quality or _DEFAULTS.quality,
        given if flags.send == FILE else {},
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="client caption",
        description="Caption videos and images through a server. Each caption is printed when it arrives, so the order "
        "may differ from that of the files.",
        epilog="Exit code 0: all files have captions; 1: some failed; 2: usage error; 130: Ctrl-C.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="video or image; http(s):// and s3:// URLs, too")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each file, in one line: index (of the argument, from 0), file, and caption, "
        "finish_reason, usage; or error",
    )
    add_connection_flags(parser)
    add_answer_flags(parser)
    parser.add_argument(
        "--max_tokens", type=values.answer_tokens, default=200, help="maximum length of an answer, in tokens"
    )
    frames = parser.add_argument_group("frames", f"if not given, {DEFAULT_SAMPLING.num_frames} frames")
    frames.add_argument("--num_frames", type=positive_int, help="number of frames sampled from each video")
    frames.add_argument("--fps", type=number(minimum=0, above=True), help="frames sampled per second")
    add_clip_flags(parser)
    return parser


async def _caption(
    flags: argparse.Namespace, sampling: FrameSampling, sending: Sending, options: ConnectionOptions
) -> int:
    tasks = [ClipTask(number, file) for number, file in enumerate(flags.files)]
    limits = DecoderLimits(flags.decode_timeout)
    any_failed = False
    async with Connection(options) as connection:
        answers = clip_answers(tasks, sampling, sending, flags.question, connection, flags.concurrency, limits)
        async with aclosing(answers) as arriving:
            async for answer in arriving:
                any_failed |= isinstance(answer.result, Failure)
                _print(answer, flags.json)
    return EXIT_FAILED if any_failed else EXIT_DONE


def _print(answer: ClipAnswer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_record(answer), ensure_ascii=False), flush=True)
    elif isinstance(answer.result, Failure):
        print_line(plain_line(f"{_shown(answer.path)}: {answer.result}"), sys.stderr)
    else:
        print_line(plain_line(f"{_shown(answer.path)}: {answer.result.caption}"))


def _record(answer: ClipAnswer) -> dict[str, Any]:
    """The same fields as in the answers of the server's `POST /caption`, with the index of the file."""
    record: dict[str, Any] = {"index": answer.row, "file": _shown(answer.path)}
    if isinstance(answer.result, Failure):
        return {**record, "error": {"message": str(answer.result)}}
    assert answer.answer is not None
    record |= {"caption": answer.result.caption, "finish_reason": answer.answer.finish_reason}
    if answer.answer.has_usage:
        used = answer.answer
        record["usage"] = {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.prompt_tokens + used.completion_tokens,
        }
    return record


def _shown(path: str) -> str:
    """The path as text: a file name may be no UTF-8, and a URL may contain credentials."""
    return os.fsencode(without_credentials(path)).decode("utf-8", "replace")
