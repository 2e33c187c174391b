"""The errors that end a run, and the exit codes they stand for."""

import sys
from collections.abc import Callable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE_ERROR = 2


class UsageError(Exception):
    """Wrong use: the message names the thing, its value and the fix in one line (exit code 2)."""


class RunError(Exception):
    """The run broke through no fault of the call; its journals stay for the next one (exit code 1)."""


def exit_code_of(prog: str, run: Callable[[], None]) -> int:
    """Run a command of one process; says in one line what ended it."""
    try:
        run()
    except UsageError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USAGE_ERROR
    except (RunError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE
