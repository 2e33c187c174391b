"""Merges, compares, filters and cleans meta tables.

    python -m pipeline.datasets.datautil 'part*.csv' --remove-path-duplication --output merged.csv

Operations are carried out in the order in which they are given.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.captioning.errors import UsageError, exit_code_of

from .catalogue import OPERATIONS
from .operation import Operation, Settings
from .tables import expand, merge, read_table, write_table

SUFFIXES = (".csv", ".parquet", ".pq")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = make_parser()
    flags = parser.parse_args(arguments)
    return exit_code_of(parser.prog, lambda: run(flags))


def run(flags: argparse.Namespace) -> None:
    """Read, operate, write.

    Raises:
        UsageError: wrong use, or a table that can't be read.
    """
    outputs = _outputs(flags)
    files = expand(flags.input)
    _check_outputs(outputs, files, flags)
    settings = Settings(flags.key, flags.seed, flags.num_workers, flags.timeout)
    frames = []
    for path in files:
        frames.append(read_table(path))
        print(f"{path}: {len(frames[-1]):,} rows")
    frame = merge(frames)
    if len(files) > 1:
        print(f"together: {len(frame):,} rows")
    frames.clear()
    frame = operate(frame, flags.operations or [], settings)
    rows = len(frame)
    for number, path in enumerate(outputs):
        part = frame.iloc[rows * number // len(outputs) : rows * (number + 1) // len(outputs)]
        write_table(part, path)
        print(f"wrote {path}: {len(part):,} rows")


def operate(frame: pd.DataFrame, operations: Sequence[tuple[Operation, Any]], settings: Settings) -> pd.DataFrame:
    """Carry out operations, with the values of their flags, one after the other, and print what each did."""
    for operation, value in operations:
        before, columns = len(frame), set(frame.columns)
        frame = operation.apply(frame, value, settings, OPERATIONS).reset_index(drop=True)
        new = [str(name) for name in frame.columns if name not in columns]
        made = f"; new: {', '.join(new)}" if new else ""
        print(f"{operation.name}: {before:,} -> {len(frame):,} rows{made}")
    return frame


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="datautil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("input", nargs="+", help="CSV or Parquet files, or patterns for them; several are merged")
    parser.add_argument("--output", help="file to write, CSV or Parquet by its suffix")
    parser.add_argument(
        "--overwrite", action="store_true", help="let --output be one of the inputs; keeps a .bak of it"
    )
    parser.add_argument("--format", choices=("csv", "parquet"), help="kind of the output, where --output has no suffix")
    parser.add_argument(
        "--shard", "--chunk", type=int, metavar="N", help="write N files of equal length: NAME_0.csv, NAME_1.csv, …"
    )
    parser.add_argument("--key", default="path", help="column by which tables are compared (default: path)")
    parser.add_argument("--seed", type=int, default=42, help="for --shuffle and --sample (default: 42)")
    parser.add_argument(
        "--num-workers", "--num_workers", type=int, default=len(os.sched_getaffinity(0)),
        help="processes or threads that read files (default: the cores)",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for looking at one file (default: 60)")
    group = parser.add_argument_group("operations, carried out in the order in which they are given")
    for operation in OPERATIONS:
        names = [spelling for name in (operation.name, *operation.aliases) for spelling in _spellings(name)]
        group.add_argument(
            *names,
            action=_Ordered,
            dest="operations",
            operation=operation,
            help=operation.summary.replace("%", "%%"),
        )
    return parser


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"]))


class _Ordered(argparse.Action):
    """Appends (operation, value), so that the order on the command line is kept."""

    def __init__(self, *names: Any, operation: Operation, **others: Any) -> None:
        if operation.value is None:
            others["nargs"] = 0
        else:
            others |= {"type": operation.value, "metavar": operation.metavar}
        super().__init__(*names, **others)
        self._operation = operation

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = None if self._operation.value is None else values
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), (self._operation, value)])


def _outputs(flags: argparse.Namespace) -> list[Path]:
    if flags.output is None:
        raise UsageError("--output says where to write; nothing is written over by default")
    output = Path(flags.output)
    if output.suffix.lower() not in SUFFIXES:
        if flags.format is None:
            raise UsageError(f"--output {output}: the suffix tells the kind, .csv or .parquet; or give --format")
        output = output.with_name(f"{output.name}.{flags.format}")
    elif flags.format is not None and (output.suffix.lower() == ".csv") != (flags.format == "csv"):
        raise UsageError(f"--output {output} and --format {flags.format} contradict each other")
    if flags.shard is None:
        return [output]
    if flags.shard < 1:
        raise UsageError(f"--shard {flags.shard} is less than 1")
    return [output.with_name(f"{output.stem}_{number}{output.suffix}") for number in range(flags.shard)]


def _check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], flags: argparse.Namespace) -> None:
    others = [Path(value) for operation, value in flags.operations or [] if operation.metavar == "TABLE"]
    for output in outputs:
        if not output.parent.is_dir():
            raise UsageError(f"--output {output}: there is no folder {output.parent}")
        for path in (*inputs, *others):
            if path.exists() and output.exists() and output.samefile(path) and not flags.overwrite:
                raise UsageError(f"--output {output} is an input; another name, or --overwrite, which keeps a .bak")


if __name__ == "__main__":
    sys.exit(main())
