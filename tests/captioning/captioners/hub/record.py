"""Writes `tests/data/hub-greedy.json`: what transformers' `generate` answers for the tiny models, on PyTorch.

Run `python -m tests.captioning.captioners.hub.record` after a tiny model is added or changed.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Sequence

from pipeline.captioning.backends import Choice

from . import __path__ as package_path
from .tiny import NEW_TOKENS, RECORDED, TEXT, Tiny

_CLOSE = 5e-4
"""Rounding differences of the frameworks are smaller than this difference of two logits."""
_SHORTEST = 4


def main() -> None:
    Choice("torch", "cpu", 0, "recording").activate(None)
    stops: dict[str, int] = {}
    answers: dict[str, list[list[int]]] = {}
    for tiny in _all():
        model = tiny.reference()
        found = [tiny.greedy(model, clip, TEXT["vocab_size"]) for clip in tiny.clips]
        margin = min(margin for _, margin in found)
        assert margin > _CLOSE, f"{tiny.name}: two logits differ by {margin} only"
        full = [ids for ids, _ in found]
        assert len(set(map(tuple, full))) == len(full), f"{tiny.name}: two clips have the same answer"
        stops[tiny.name] = _stop_id(full)
        answers[tiny.name] = [tiny.greedy(model, clip, stops[tiny.name])[0] for clip in tiny.clips]
        print(f"{tiny.name}: smallest margin {margin:.4f}, lengths {[len(ids) for ids in answers[tiny.name]]}")
    lines = json.dumps({"stop ids": stops, "ids": answers}).replace("]], ", "]],\n").replace("}, ", "},\n")
    RECORDED.write_text(lines + "\n", encoding="utf-8")


def _all() -> list[Tiny]:
    """The tiny models of all test modules of this package."""
    names = [info.name for info in pkgutil.iter_modules(package_path) if info.name.startswith("test_")]
    modules = [importlib.import_module(f".{name}", __package__) for name in names]
    found = [tiny for module in modules for tiny in getattr(module, "TINY", ())]
    return sorted(found, key=lambda tiny: tiny.name)


def _stop_id(answers: Sequence[Sequence[int]]) -> int:
    """An id that ends at least one answer early, none of them very early, and leaves different lengths."""

    def lengths(stop: int) -> list[int]:
        return [ids.index(stop) + 1 if stop in ids else NEW_TOKENS for ids in map(list, answers)]

    possible = {stop for ids in answers for stop in ids if min(lengths(stop)) >= _SHORTEST}
    return max(sorted(possible), key=lambda stop: len(set(lengths(stop))))


if __name__ == "__main__":
    main()
