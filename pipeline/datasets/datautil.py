"""Merges, compares, filters and cleans meta tables.

    python -m pipeline.datasets.datautil 'part*.csv' --remove-path-duplication --output merged.csv

Operations are applied in the order in which they are given.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.captioning.meta.csv_cells import PLAIN_CSV, csv_style
from pipeline.captioning.meta.files import backup_of
from pipeline.captioning.meta.names import SUFFIXES, check_output, is_parquet, stem_of, suffix_of
from pipeline.captioning.process.arguments import CommandParser, number, positive_int, whole_number
from pipeline.captioning.process.errors import UsageError, exit_code_of

from .catalogue import OPERATIONS
from .operation import Operation, Settings
from .tables import STRING, expand, merge, read_table, write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = make_parser()
    return exit_code_of(parser.prog, lambda: run(parser.parse_args(arguments)))


def run(flags: argparse.Namespace) -> None:
    """Read the tables, apply the operations, write the result.

    Raises:
        UsageError: flags contradict each other, a table can't be read, or a column is missing.
    """
    outputs = _output_paths(flags)
    files = expand(flags.input)
    _check_outputs(outputs, files, flags)
    settings = Settings(flags.key, flags.column, flags.seed, flags.num_workers, flags.timeout, flags.whole_files)
    frames = []
    for path in files:
        frames.append(read_table(path))
        print(f"{path}: {len(frames[-1]):,} rows")
    style = PLAIN_CSV if is_parquet(files[0]) else csv_style(files[0])
    text_columns = {
        str(name)
        for path, frame in zip(files, frames, strict=True)
        if is_parquet(path)
        for name in frame.columns[frame.dtypes == STRING]
    }
    frame = merge(frames)
    if len(files) > 1:
        print(f"merged: {len(frame):,} rows")
    frames.clear()
    frame = operate(frame, flags.operations or [], settings)
    rows = len(frame)
    for shard, path in enumerate(outputs):
        part = frame.iloc[rows * shard // len(outputs) : rows * (shard + 1) // len(outputs)]
        write_table(part, path, style, text_columns)
        print(f"wrote {path}: {len(part):,} rows")


def operate(frame: pd.DataFrame, operations: Sequence[tuple[Operation, Any]], settings: Settings) -> pd.DataFrame:
    """Apply `operations`, pairs of an operation and the value of its flag, in order. Prints what each one did."""
    for operation, value in operations:
        rows_before, columns = len(frame), set(frame.columns)
        frame = operation.apply(frame, value, settings, OPERATIONS).reset_index(drop=True)
        new = [str(name) for name in frame.columns if name not in columns]
        added = f"; new columns: {', '.join(new)}" if new else ""
        print(f"{operation.name}: {rows_before:,} -> {len(frame):,} rows{added}")
    return frame


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="datautil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "input",
        nargs="+",
        help="tables (.csv, .csv.gz, .parquet), or patterns such as 'part*.csv'; several tables are merged",
    )
    parser.add_argument("--output", help="table to write: .csv, .csv.gz or .parquet")
    parser.add_argument(
        "--overwrite", action="store_true", help="allow --output to replace an input; the old file is kept as .bak"
    )
    parser.add_argument(
        "--format", choices=("csv", "csv.gz", "parquet"), help="format of the output, if --output has no suffix"
    )
    parser.add_argument(
        "--shard",
        "--chunk",
        type=positive_int,
        metavar="N",
        help="split the output into N files of equal length: NAME_0.csv, NAME_1.csv, …",
    )
    parser.add_argument(
        "--key", default="path",
        help="column by which --difference and --intersection compare tables (default: path, with start and end if "
        "both tables have them)",
    )  # fmt: skip
    parser.add_argument(
        "--whole-files", "--whole_files", action="store_true",
        help="the columns 'start' and 'end' do not say which part of its file a row is: rows are identified by path",
    )  # fmt: skip
    parser.add_argument(
        "--column", default="text", metavar="NAME", help="column of captions, for all operations (default: text)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=42, help="random seed of --shuffle and --sample (default: 42)"
    )
    parser.add_argument(
        "--num-workers", "--num_workers", type=positive_int, default=len(os.sched_getaffinity(0)),
        help="processes or threads that read files (default: number of CPU cores)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=number(minimum=0, above=True), default=60.0,
        help="maximum seconds to read one file with --info or --video-info (default: 60)",
    )  # fmt: skip
    group = parser.add_argument_group("operations, applied in the order in which they are given")
    for operation in OPERATIONS:
        names = [spelling for name in (operation.name, *operation.aliases) for spelling in _spellings(name)]
        group.add_argument(
            *names,
            action=_AppendOperation,
            dest="operations",
            operation=operation,
            help=operation.summary.replace("%", "%%"),
        )
    return parser


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"]))


class _AppendOperation(argparse.Action):
    """Appends (operation, value) to one list for all flags. So the list has the order of the command line."""

    def __init__(self, *names: Any, operation: Operation, **keywords: Any) -> None:
        if operation.value is None:
            keywords["nargs"] = 0
        else:
            keywords |= {"type": operation.value, "metavar": operation.metavar}
        super().__init__(*names, **keywords)
        self._operation = operation

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = None if self._operation.value is None else values
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), (self._operation, value)])


def _output_paths(flags: argparse.Namespace) -> list[Path]:
    if flags.output is None:
        raise UsageError("--output is required; inputs are not overwritten by default")
    output = Path(flags.output)
    suffix = suffix_of(output).lower().replace(".pq", ".parquet")
    if not suffix and flags.format is not None:
        output = output.with_name(f"{output.name}.{flags.format}")
    elif not suffix:
        raise UsageError(
            f"--output {output}: the suffix selects the format, but '{output.suffix}' is none of "
            f"{', '.join(SUFFIXES)}; use one of them, or give --format"
        )
    elif flags.format is not None and suffix != f".{flags.format}":
        raise UsageError(f"--output {output} and --format {flags.format} contradict each other")
    if flags.shard is None:
        return [output]
    return [output.with_name(f"{stem_of(output)}_{shard}{suffix_of(output)}") for shard in range(flags.shard)]


def _check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], flags: argparse.Namespace) -> None:
    tables = [value for operation, value in flags.operations or [] if operation.metavar == "TABLE"]
    used = [*inputs, *(path for path in map(Path, tables) if path.exists())]
    for output in outputs:
        check_output(output)
        if not output.exists():
            continue
        for path in used:
            if output.samefile(path) and not flags.overwrite:
                raise UsageError(
                    f"--output {output} is an input; give another name, or use --overwrite (the old file becomes .bak)"
                )
            if backup_of(output).exists() and backup_of(output).samefile(path):
                raise UsageError(
                    f"--output {output} exists; its backup would replace {path}, which is an input; give another name"
                )


if __name__ == "__main__":
    sys.exit(main())
