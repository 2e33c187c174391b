"""Complete runs without a launcher, for tests: ranks are threads; clips and journals are real."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.captioning.run import job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from scripts.thread_ranks import run_ranks
from tests.fakes import CPU, FakeSource


def write_meta(folder: Path, paths: Sequence[str], texts: Sequence[str] | None = None) -> JobOptions:
    """Write `meta.csv`; returns options that caption it into `out.csv`. texts: the column `text`."""
    with (folder / "meta.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "note"] if texts is None else ["path", "text"])
        writer.writerows([path, f'n "{i}",\n' if texts is None else texts[i]] for i, path in enumerate(paths))
    return JobOptions(
        meta_path=folder / "meta.csv",
        output=folder / "out.csv",
        batch_size=2,
        pad_length=4096,
        skip_if_existing=False,
        restart=False,
        limit=None,
        decode_timeout=30,
        decode_workers=1,
        max_failure_rate=0.5,
        stall_timeout=1800,
        framework=None,
        device=None,
        dtype=None,
    )


def run_job(options: JobOptions, source: FakeSource, workers: int = 1) -> list[object]:
    """Run the job on `workers` ranks; returns what each rank returned or raised."""
    return run_ranks(workers, lambda world: job.run_in_world(options, ModelWork(source, lambda: CPU), world))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
