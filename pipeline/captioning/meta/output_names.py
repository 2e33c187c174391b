"""The names of the files that a run writes beside its output. Reads and writes nothing."""

from __future__ import annotations

from pathlib import Path

_OTHER_KINDS = (".parquet", ".pq", ".gz")
"""Suffixes of tables other than `.csv`."""


def failures_path(output: Path) -> Path:
    """Every failed row with its stage and messages."""
    return _beside(output, "failures.csv")


def report_path(output: Path) -> Path:
    """The figures of the run."""
    return _beside(output, "report.json")


def outcomes_path(output: Path) -> Path:
    """The outcome of every row."""
    return _beside(output, "outcomes.jsonl")


def gallery_path(output: Path) -> Path:
    """The page of captions and frames."""
    return _beside(output, "gallery.html")


def _beside(output: Path, name: str) -> Path:
    """`s_report.json` for `s.csv`; the name of any other table stays whole, so that no two tables share a file."""
    stem = output.name.removesuffix(".csv")
    if Path(stem).suffix in _OTHER_KINDS:  # s.parquet.csv must not share the files of s.parquet
        stem = output.name
    return output.with_name(f"{stem}_{name}")
