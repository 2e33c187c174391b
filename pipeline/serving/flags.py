"""The flags of the server. Parses only; `command` checks what goes together. Imports no framework."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..captioning.process.arguments import CommandParser, HelpFormatter, byte_size, number, positive_int, whole_number
from ..captioning.run import family_source, frame_flags, model_flags, prompt_flags, run_flags
from ..captioning.run.options import AUTO
from .settings import RequestLimits

PROG = "python -m pipeline.serving"
EPILOG = (
    "Exit code 0: ended by SIGTERM or SIGINT; open questions were answered, or failed after --drain_timeout; 1: the "
    "server failed, or a second signal ended it; 2: usage error."
)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the server."""
    parser = CommandParser(
        prog=PROG,
        description="Answer questions about videos and images over HTTP, by the protocol of OpenAI's chat completions.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    _add_server_flags(parser)
    _add_request_flags(parser)
    _add_media_flags(parser)
    run_flags.add_device_flags(parser)
    _add_prompt_flags(parser)
    model_flags.add_generation_flags(parser)
    frame_flags.add_frame_flags(parser)
    family_source.add_family_flags(parser)
    return parser


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but a loopback address needs --api_key_env"
    )
    server.add_argument("--port", type=_port, default=8000, help="port to listen on; 0 chooses a free one")
    server.add_argument(
        "--api_key_env",
        metavar="NAME",
        help="environment variable with the key that clients must send; without a key the server listens on the "
        "loopback address only",
    )
    server.add_argument(
        "--served_model_name", metavar="NAME", help="name of the model for clients; if not given, the folder's name"
    )
    server.add_argument(
        "--devices",
        metavar="0,1,... | cpu,cpu",
        help="numbers of the visible accelerators, one process for each, or 'cpu' once for each process; if not given, "
        "one process on an accelerator if there is one, else on the CPU",
    )
    server.add_argument(
        "--bs",
        type=run_flags.batch_size,
        default=AUTO,
        help="questions that each device answers at the same time; 'auto' chooses a number that suits the device and "
        "its memory",
    )
    server.add_argument(
        "--max_waiting",
        type=whole_number(0),
        default=256,
        help="accepted questions that wait for a device; further ones are refused with status 503 and Retry-After",
    )
    server.add_argument(
        "--stall_timeout",
        type=number(minimum=2, maximum=1e6),
        default=300.0,
        help="start a device process again if it has questions and sends nothing for this many seconds; while it "
        "downloads and decodes files, it sends something all the time",
    )
    server.add_argument(
        "--drain_timeout",
        type=number(minimum=0, maximum=1e6),
        default=30.0,
        help="after SIGTERM, time for open questions to end, in seconds",
    )


def _add_request_flags(parser: argparse.ArgumentParser) -> None:
    limits, requests = RequestLimits(), parser.add_argument_group("requests")
    requests.add_argument(
        "--max_body",
        type=byte_size,
        default=f"{limits.body_bytes // 2**20}M",
        help="largest body of a request, in bytes or for example 500M",
    )
    requests.add_argument("--max_images", type=positive_int, default=limits.images, help="most images in one message")
    requests.add_argument(
        "--request_timeout",
        type=number(minimum=0, above=True),
        default=limits.request_seconds,
        help="time limit from the end of a request's body to the end of its answer, in seconds",
    )
    requests.add_argument(
        "--body_timeout",
        type=number(minimum=0, above=True),
        default=limits.body_seconds,
        help="time limit for receiving the body of a request, in seconds",
    )


def _add_media_flags(parser: argparse.ArgumentParser) -> None:
    media = parser.add_argument_group("media")
    media.add_argument(
        "--allow_media_domain",
        action="append",
        default=[],
        metavar="HOST",
        help="host from which http(s) URLs are downloaded, with a port or without; can be given several times; without "
        "it nothing is downloaded",
    )
    media.add_argument(
        "--allow_media_path",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="folder whose files clients may name by file:// URLs; can be given several times; without it no file is "
        "read",
    )
    run_flags.add_clip_flags(media)


def _add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument(
        "--question",
        type=prompt_flags.question,
        help="question that is asked if a message has media and no text ({{ and }} are braces); @FILE reads it from a "
        "file; if not given, that of the model family",
    )
    # The prompt flags of the commands that caption tables.
    parser.set_defaults(prompt=None, question_column=None, ask=None, column=None, any_media=False)
    prompt_flags.add_conversation_flags(parser)


def _port(text: str) -> int:
    port = whole_number(0)(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"{port} is more than 65535")
    return port
