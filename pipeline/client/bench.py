"""The command that measures how many clips a server answers in a second. The clips are frames of noise.

    python -m pipeline.client bench
    python -m pipeline.client bench --mode stream --requests 256 --in_flight 64

Frames are made and encoded before the measurement, so that it contains the transport and the server alone.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..captioning.captioners.api.errors import RequestFailed
from ..captioning.captioners.api.frames import JpegFrames, jpegs
from ..captioning.captioners.api.options import IMAGES, Visuals
from ..captioning.process.arguments import CommandParser, HelpFormatter, positive_int, whole_number
from ..captioning.process.errors import EXIT_DONE, EXIT_FAILED, RunError
from ..captioning.run.service import values
from ..search.matching import plain_line
from ..search.output import print_line
from .connection import Connection, ConnectionOptions
from .connection_flags import add_answer_flags, add_connection_flags, connection_options
from .content import FRAMES, Message, frames_message, images_message
from .load import MODES, Figures, Load, median, percentile, run

DISTINCT_CLIPS = 32
"""More requests send these clips again, in turns: bounded memory, and no waiting for noise."""
MOST_FAILED_IN_A_ROW = 32
"""Then the server is gone, and nothing is measured any more."""
_COLUMNS = {
    "clips": "clips/s",
    "frames": "frames/s",
    "tokens": "tokens/s",
    "megabytes": "MB/s sent",
    "latency_median": "median s",
    "latency_p99": "p99 s",
}
_SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")


class BenchFailed(RunError):
    """The server does not answer at all, or not any more."""

    hint = ""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError, RunError: see `exit_code_of`.
    """
    flags = _make_parser().parse_args(arguments)
    load, modes = Load(flags.requests, flags.batch, flags.in_flight), flags.mode or MODES
    options = connection_options(flags, max(load.most_in_flight(mode) for mode in modes))
    if flags.ignore_eos:
        generation = dataclasses.replace(options.generation, extra_body={"ignore_eos": True})
        options = dataclasses.replace(options, generation=generation)
    messages = [_message(flags, number) for number in range(min(DISTINCT_CLIPS, flags.requests))]
    figures = asyncio.run(_measure(modes, load, options, messages, flags.frames))
    if flags.json:
        print(json.dumps(_document(flags, options, figures), ensure_ascii=False))
    else:
        _print_table(flags, options, figures)
    return EXIT_FAILED if any(mode.failures for mode in figures) else EXIT_DONE


def size(text: str) -> tuple[int, int]:
    """An argparse type: width and height in pixels, as in `336x336`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of 1 to 9999 pixels a side, as in 336x336")
    return int(match[1]), int(match[2])


def noise(frames: int, size: tuple[int, int], quality: int, seed: Sequence[int]) -> list[bytes]:
    """JPEGs of random pixels. size: width and height."""
    random = np.random.default_rng(seed)
    width, height = size
    images = [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(frames)]
    return jpegs(JpegFrames(max(size), quality)(images))


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="client bench",
        description="Measure a server with frames of noise. The modes are ways to send requests: 'single' one by one; "
        "'batch' --batch requests at once, the next batch when the whole batch has ended; 'stream' --in_flight "
        "requests in flight all the time; 'batched-stream' so many batches in flight as make up --in_flight. 'stream' "
        "does not mean streamed answers: every answer comes as a whole. One request is sent before the measurement.",
        epilog="Exit code 0: all requests were answered; 1: some failed; 2: usage error; 130: Ctrl-C.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode", choices=MODES, action="append", help="may be given several times; if not given, all modes"
    )
    parser.add_argument("--requests", type=positive_int, default=64, help="requests of each mode")
    parser.add_argument("--batch", type=positive_int, default=8, help="requests of a batch")
    parser.add_argument(
        "--in_flight", type=positive_int, default=32, help="requests in flight in the modes with 'stream'"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    clips = parser.add_argument_group("clips")
    clips.add_argument("--frames", type=positive_int, default=4, help="frames of each clip; 1 is sent as an image")
    clips.add_argument("--size", type=size, default="336x336", metavar="WxH", help="of the frames, in pixels")
    clips.add_argument("--jpeg_quality", type=values.jpeg_quality, default=Visuals.quality, help="1 to 95")
    clips.add_argument("--noise_seed", type=whole_number(0), default=0, help="seed of the noise")
    clips.add_argument(
        "--send", choices=(FRAMES, IMAGES), default=FRAMES, help="frames as one video of JPEGs, or as images"
    )
    add_connection_flags(parser)
    add_answer_flags(parser)
    parser.add_argument(
        "--max_tokens", type=values.answer_tokens, default=50, help="maximum length of an answer, in tokens"
    )
    parser.add_argument(
        "--ignore_eos",
        action="store_true",
        help="let every answer have --max_tokens tokens, on servers that know the field ignore_eos",
    )
    return parser


def _message(flags: argparse.Namespace, number: int) -> Message:
    frames = noise(flags.frames, flags.size, flags.jpeg_quality, (flags.noise_seed, number))
    if flags.frames == 1 or flags.send == IMAGES:
        return images_message(frames, flags.question)
    return frames_message(frames, flags.question)


async def _measure(
    modes: Sequence[str], load: Load, options: ConnectionOptions, messages: Sequence[Message], frames: int
) -> list[Figures]:
    async with Connection(options) as connection:
        await _warm_up(connection, messages[0])
        return [await _figures(mode, load, connection, messages, frames) for mode in modes]


async def _warm_up(connection: Connection, message: Message) -> None:
    """One request that is not measured: the first one may take longer, and may show that none can succeed."""
    try:
        await connection.ask(message.content, message.fields)
    except RequestFailed as error:
        raise BenchFailed(f"the first request failed: {error}") from None


async def _figures(mode: str, load: Load, connection: Connection, messages: Sequence[Message], frames: int) -> Figures:
    sent_bytes = failed_in_a_row = 0

    async def ask(number: int) -> int:
        nonlocal sent_bytes, failed_in_a_row
        message = messages[number % len(messages)]
        try:
            answer = await connection.ask(message.content, message.fields)
        except RequestFailed as error:
            failed_in_a_row += 1
            if failed_in_a_row >= MOST_FAILED_IN_A_ROW:
                raise BenchFailed(f"{failed_in_a_row} requests in a row failed; the last one: {error}") from None
            raise
        failed_in_a_row = 0
        sent_bytes += message.media_bytes
        return answer.completion_tokens

    print(f"{mode}: {load.requests} requests, at most {load.most_in_flight(mode)} in flight …", file=sys.stderr)
    retries = connection.usage.retries
    answers, seconds = await run(mode, load, ask)
    answered = len(answers.latencies)
    return Figures(
        mode=mode,
        requests=load.requests,
        in_flight=load.most_in_flight(mode),
        failures=len(answers.problems),
        retries=connection.usage.retries - retries,
        seconds=seconds,
        clips=answered / seconds,
        frames=answered * frames / seconds,
        tokens=answers.tokens / seconds,
        megabytes=sent_bytes / seconds / 1e6,
        latency_median=median(answers.latencies),
        latency_p99=percentile(answers.latencies, 0.99),
        problem=next(iter(answers.problems), ""),
    )


def _document(flags: argparse.Namespace, options: ConnectionOptions, figures: Sequence[Figures]) -> dict[str, Any]:
    width, height = flags.size
    return {
        "base_url": options.base_url,
        "model": options.generation.model,
        "frames": flags.frames,
        "size": f"{width}x{height}",
        "send": flags.send,
        "batch": flags.batch,
        "max_tokens": flags.max_tokens,
        "modes": [
            {name: None if value != value else value for name, value in dataclasses.asdict(mode).items()}
            for mode in figures
        ],
    }


def _print_table(flags: argparse.Namespace, options: ConnectionOptions, figures: Sequence[Figures]) -> None:
    from rich.console import Console
    from rich.table import Table

    width, height = flags.size
    table = Table(
        title=f"{options.generation.model} at {options.base_url}: clips of {flags.frames} frames of {width}x{height}",
        title_justify="left",
    )
    table.add_column("mode")
    for heading in ("in flight", "requests", "failed", "retries", "seconds", *_COLUMNS.values()):
        table.add_column(heading, justify="right")
    for mode in figures:
        counts = (mode.in_flight, mode.requests, mode.failures, mode.retries)
        measured = (getattr(mode, name) for name in ("seconds", *_COLUMNS))
        table.add_row(mode.mode, *map(str, counts), *map(_number, measured))
    # Into a file or a pipe, as wide as it has to be: nothing may be cut off.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)
    for mode in figures:
        if mode.problem:
            print_line(f"{mode.mode}: the first failed request: {plain_line(mode.problem)}", sys.stderr)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
