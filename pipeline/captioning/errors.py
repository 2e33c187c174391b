"""The errors that end a run, and the exit codes they stand for."""

EXIT_DONE = 0
EXIT_BROKEN = 1
EXIT_WRONG_USE = 2


class UsageError(Exception):
    """Wrong use: the message names the thing, its value and the fix in one line (exit code 2)."""


class RunError(Exception):
    """The run broke through no fault of the call; its journals stay for the next one (exit code 1)."""
