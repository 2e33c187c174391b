"""The argument parser and the argument types that all commands share.

Knows nothing about the flags of any command.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn

from .errors import UsageError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print the usage and exit.

    So each usage error is one line, and only one of many workers prints it. Call `parse_args` inside
    `errors.exit_code_of`.
    """

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number, at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        return value

    return parse


positive_int = whole_number(1)


def number(minimum: float = -math.inf, maximum: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number from `minimum` to `maximum`.

    above: the number must be greater than `minimum`.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        too_small = value <= minimum if above else value < minimum
        if too_small or value > maximum or not math.isfinite(value):
            lower = f"{'above' if above else 'at least'} {minimum:g}" if minimum > -math.inf else "a finite number"
            raise argparse.ArgumentTypeError(
                f"{text} is out of bounds: must be {lower}"
                + (f" and at most {maximum:g}" if maximum < math.inf else "")
            )
        return value

    return parse


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def byte_size(text: str) -> int:
    """An argparse type: a number of bytes of at least 1, such as `500M` or `2G`. The units are powers of 1,024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write a number of bytes, or for example 500M or 2G")
    size = int(float(match[1]) * 2 ** _SIZE_UNITS[match[2].upper()])
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than one byte")
    return size
