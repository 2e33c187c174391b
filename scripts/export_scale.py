"""Measures time and memory of the exports for a million rows, from CSV and Parquet.

    python -m scripts.export_scale --rows 1000000

Each export runs in a process of its own. `txt` writes into one folder per thousand clips. WebDataset reads one small
clip for all rows. Parquet tables have one row group. For `vtt`, a hundred rows are the segments of a video.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from pipeline.datasets import export
from scripts.table_scale import CAPTION


def _write_tables(folder: Path, rows: int) -> None:
    (folder / "clip.mp4").write_bytes(bytes(1000))
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "clip", "fps", "text"])
        for row in range(rows):
            path = f"{folder}/clips/{row // 1000}/{row % 1000:03}.mp4"
            writer.writerow([path, folder / "clip.mp4", "24.0", f"{row} {CAPTION}" if row % 10 else ""])
    table = pd.read_csv(folder / "meta.csv", na_filter=False)
    table.to_parquet(folder / "meta.parquet", index=False, row_group_size=rows)
    table.assign(path=table["clip"]).to_csv(folder / "same_clip.csv", index=False)
    number = pd.Series(range(rows))
    videos = f"{folder}/clips/" + (number // 100).astype(str) + ".mp4"
    start = number % 100 * 4
    table.assign(path=videos, start=start, end=start + 4).to_csv(folder / "segments.csv", index=False)


def _measure(arguments: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB."""
    start = time.monotonic()
    assert export.main(arguments) == 0
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default: 1000000)")
    parser.add_argument(
        "--to", choices=("jsonl", "sharegpt", "webdataset", "txt", "vtt"), help="one format (default: all)"
    )
    flags = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as name:
        folder = Path(name)
        with spawn.Pool(1) as pool:  # a separate process, so that its memory is not measured
            pool.apply(_write_tables, (folder, flags.rows))
        text_files = ["--output", f"{folder}/txt", "--root", f"{folder}/clips"]
        for table, kind, rest in (
            ("meta.csv", "jsonl", ["--output", f"{folder}/csv.jsonl"]),
            ("meta.parquet", "jsonl", ["--output", f"{folder}/parquet.jsonl"]),
            ("meta.csv", "sharegpt", ["--output", f"{folder}/csv.json"]),
            ("same_clip.csv", "webdataset", ["--output", f"{folder}/shards", "--shard_size", "100000"]),
            ("meta.csv", "txt", text_files),
            ("meta.csv", "txt", text_files),  # everything is there
            ("segments.csv", "vtt", ["--output", f"{folder}/vtt"]),
        ):
            if flags.to not in (None, kind):
                continue
            with spawn.Pool(1) as pool:
                seconds, memory = pool.apply(_measure, ([f"{folder}/{table}", "--to", kind, *rest],))
            size = (folder / table).stat().st_size / 2**20
            print(f"{kind} from {table} ({size:.0f} MiB): {seconds:.1f} s, {memory:.0f} MiB of memory")


if __name__ == "__main__":
    main()
