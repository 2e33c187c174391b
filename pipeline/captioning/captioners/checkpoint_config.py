"""Reads the JSON files of a checkpoint folder: config.json, and the penalties in generation_config.json.

Imports no framework. Knows nothing about model families: each family interprets the entries of config.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..generation.options import GenerationOptions
from ..process.errors import UsageError

_GENERATION_CONFIG = "generation_config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """The entries of `config.json`.

    Raises:
        UsageError: the file is missing, unreadable, or not a JSON object.
    """
    settings = _read_object(folder / "config.json")
    if settings is None:
        raise UsageError(f"{folder} is not a checkpoint: it has no config.json")
    return settings


def read_settings(path: Path) -> dict[str, Any]:
    """The entries of a JSON file; an empty dictionary if the file does not exist.

    Raises:
        UsageError: the file is unreadable, or not a JSON object.
    """
    return _read_object(path) or {}


def with_checkpoint_defaults(given: GenerationOptions, folder: Path) -> GenerationOptions:
    """The given options, with the penalties of `generation_config.json` in place of None.

    Raises:
        UsageError: the file's repetition penalty is not a positive number, or its n-gram size not a whole number >= 0.
    """
    path = folder / _GENERATION_CONFIG
    settings = read_settings(path)
    penalty, size = settings.get("repetition_penalty"), settings.get("no_repeat_ngram_size")
    if penalty is not None and not (_is_number(penalty, int, float) and math.isfinite(penalty) and penalty > 0):
        raise UsageError(f"{path}: repetition_penalty {penalty!r} is not a positive number; correct or remove it")
    if size is not None and not (_is_number(size, int) and size >= 0):
        raise UsageError(f"{path}: no_repeat_ngram_size {size!r} is not a whole number >= 0; correct or remove it")
    return given.with_defaults(
        repetition_penalty=None if penalty is None else float(penalty),
        no_repeat_ngram_size=size,
    )


def describe_penalties(given: GenerationOptions, used: GenerationOptions) -> list[str]:
    """Lines for the log: each penalty in effect, and where it comes from.

    given: the user's options. used: the options with the checkpoint's values.
    """
    lines = []
    if used.penalty != 1:
        origin = _GENERATION_CONFIG if given.repetition_penalty is None else "--repetition_penalty"
        lines.append(f"repetition penalty {used.penalty:g} ({origin})")
    if used.ngram_size:
        origin = _GENERATION_CONFIG if given.no_repeat_ngram_size is None else "--no_repeat_ngram_size"
        lines.append(f"no sequence of {used.ngram_size} tokens occurs twice ({origin})")
    return lines


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} can't be read: it holds no JSON object")
    return settings


def _is_number(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
