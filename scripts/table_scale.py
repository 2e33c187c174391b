"""Measures time and memory of the meta table utilities for a million rows.

    python -m scripts.table_scale --rows 1000000

Merges two halves of a table, takes the difference to a table of captions, and filters, all in a separate process.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.datasets import datautil
from scripts.simulate_scale import write_meta

CAPTION = "A man walks slowly through a green field while the camera follows him from the left, " * 5


def _write_tables(folder: Path, rows: int) -> None:
    write_meta(folder / "whole.csv", rows)
    with (folder / "whole.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    for name, columns, rows_of_part in (
        ("part0", [*header, "text"], ([*line, CAPTION] for line in lines[: rows // 2])),
        ("part1", [*header, "text"], ([*line, CAPTION] for line in lines[rows // 2 :])),
        ("done", ["path", "text"], ([line[0], CAPTION if i % 3 else ""] for i, line in enumerate(lines[: rows // 2]))),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows_of_part)


def _measure(folder: Path) -> tuple[float, float]:
    """Seconds, and peak memory in bytes."""
    arguments = [str(folder / "part*.csv"), "--remove-path-duplication", "--difference", str(folder / "done.csv")]
    arguments += ["--aesmin", "5.5", "--secondsmin", "5", "--remove-empty-caption", "--output", str(folder / "out.csv")]
    start = time.monotonic()
    assert datautil.main(arguments) == 0
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the merged table (default: 1000000)")
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(1) as pool:  # a separate process, so that its memory is not measured
            pool.apply(_write_tables, (folder, flags.rows))
        size = sum(path.stat().st_size for path in folder.glob("part*.csv"))
        with spawn.Pool(1) as pool:
            seconds, memory = pool.apply(_measure, (folder,))
    print(
        f"{flags.rows:,} rows, {size / 2**20:.0f} MiB: {seconds:.1f} s, {memory / size:.1f} times the table in memory"
    )


if __name__ == "__main__":
    main()
