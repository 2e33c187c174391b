"""Chooses the command, and turns interruptions into exit codes. Knows nothing about the flags of the commands."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from ..captioning.process.arguments import CommandParser
from ..captioning.process.errors import EXIT_FAILED, RunError, UsageError, exit_code_of
from ..search.matching import plain_line
from ..search.output import close_broken_stdout
from . import bench, caption, find

PROG = "client"
EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells report it."""

_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "caption": (caption.main, "caption videos and images"),
    "find": (find.main, "find the parts of a video whose captions match a query"),
    "bench": (bench.main, "measure a server with frames of noise"),
}
"""Name: the function that runs it, which returns the exit code and may raise UsageError; and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    codes: list[int] = []
    try:
        failed = exit_code_of(PROG, lambda: codes.append(_run(arguments)))
        return failed or codes[0]
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    flags = _make_parser().parse_args(arguments)
    run, _ = _COMMANDS[flags.command]
    try:
        code = run(flags.arguments)
        sys.stdout.flush()
        return code
    except (RunError, UsageError) as error:  # it may quote the server
        error.args = (plain_line(str(error)),)
        raise
    except BrokenPipeError:
        close_broken_stdout()
        return EXIT_FAILED


def _make_parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10} {description}" for name, (_, description) in _COMMANDS.items())
    parser = CommandParser(
        prog=PROG,
        description=f"Clients of the captioning server (pipeline.serving).\n\ncommands:\n{commands}",
        epilog="`COMMAND --help` lists its flags. Exit code 0: done; 1: failed; 2: usage error; 130: Ctrl-C.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help=" or ".join(_COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    return parser
