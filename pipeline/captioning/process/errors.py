"""The errors that end a run, and the exit code of each."""

import sys
from collections.abc import Callable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE_ERROR = 2


class UsageError(Exception):
    """A usage error (exit code 2): the message names the thing, its value and the fix in one line."""


class RunError(Exception):
    """The run failed although the command is correct (exit code 1). Its journals stay, so the next run can resume.

    hint: how to go on, for the log; empty if the message says it.
    """

    hint = "run the same command again to resume"


def print_usage_error(prog: str, error: UsageError) -> None:
    """Print a usage error to stderr, in one line. prog: name of the command."""
    print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)


def exit_code_of(prog: str, run: Callable[[], None]) -> int:
    """Run a command of one process and return its exit code; print the error that ended it to stderr.

    prog: name of the command, for the message.
    """
    try:
        run()
    except UsageError as error:
        print_usage_error(prog, error)
        return EXIT_USAGE_ERROR
    except (RunError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE
