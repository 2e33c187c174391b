"""Measures the cost of a run of up to a million rows without captioning: plan, journals, gather, write.

    python -m scripts.simulate_scale --rows 10000,100000,1000000 --ranks 64 --columns 1

For each size, the script starts the job twice, with ranks that are threads of one process and with a captioner that is
never loaded: once to plan a table without journals, once with complete journals, as at the end of a run. Work that many
hosts do in parallel is done one after the other here. Each size has its own process, so that its peak memory can be
measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Captioner
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.journal.folder import journal_folder
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.names import TEXT_COLUMN
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.run import delivery, job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from scripts.thread_ranks import run_ranks
from scripts.without_model import SourceWithoutModel

WORDS = [
    "the", "a", "man", "woman", "dog", "walks", "slowly", "through", "green",
    "field", "while", "camera", "follows", "from", "left", "light", "water", "city",
]  # fmt: skip
CAPTION_WORDS = 110  # about 150 tokens
ROWS_PER_FAILURE = 200


class _Planned(Exception):
    """Raised after planning, instead of loading a model."""


class _NoCaptioner(SourceWithoutModel):
    sampling = FrameSampling("segments", 4)

    def __init__(self, columns: Sequence[str]) -> None:
        self.asks = Asks(tuple(Ask(column, Question("Describe the video in details.")) for column in columns))

    def frame_transform(self, images: Any) -> Any:
        raise NotImplementedError

    def load(self, backend: Any) -> Captioner:
        raise NotImplementedError


def write_meta(path: Path, rows: int) -> None:
    """Write a meta table of `rows` rows; the clips do not exist."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "id", "duration", "aes"])
        for row in range(rows):
            clip = f"/data/videos/shard_{row // 10000:05d}/clip_{row:08d}.mp4"
            writer.writerow([clip, f"clip_{row:08d}", f"{4 + row % 7}.25", f"{5 + row % 100 / 50:.2f}"])


def write_journals(folder: Path, rows: int, ranks: int, fingerprint: Mapping[str, str], columns: Sequence[str]) -> None:
    """Write complete journals of all ranks, as `RankWorker` writes them."""
    rng = random.Random(0)
    for rank in range(ranks):
        with Journal(folder, rank, fingerprint) as journal:
            for row in range(rank, rows, ranks):
                if row % ROWS_PER_FAILURE == 0:
                    messages = ["decord: no video stream", "PyAV: moov atom not found"]
                    result = RowResult.failed(row, columns, "decode", messages)
                else:
                    words = [rng.choices(WORDS, k=CAPTION_WORDS) for _ in columns]
                    captions = {
                        column: CaptionResult(" ".join(own), 150) for column, own in zip(columns, words, strict=True)
                    }
                    result = RowResult(row, captions)
                journal.start([row])
                journal.finish([result])


@contextmanager
def _timed(owner: Any, name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Replace the function `owner.name`, so that the longest time of its calls is stored in `seconds`."""
    original: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.monotonic()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[name] = max(seconds.get(name, 0.0), time.monotonic() - begin)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _run(options: JobOptions, columns: Sequence[str], ranks: int) -> list[Any]:
    def activate() -> Backend:
        return Backend("torch", "cpu", "float32")

    return run_ranks(
        ranks, lambda world: job.run_in_world(options, ModelWork(_NoCaptioner(columns), activate), world), timeout=600
    )


def simulate(rows: int, ranks: int, number_of_columns: int = 1) -> dict[str, float]:
    """Run the simulation for one size; returns the seconds of each part and the peak memory of the process in GiB."""
    columns = [TEXT_COLUMN, *(f"{TEXT_COLUMN}_{i}" for i in range(2, number_of_columns + 1))]
    seconds: dict[str, float] = {}
    with TemporaryDirectory() as name:
        meta = Path(name) / "meta.csv"
        write_meta(meta, rows)
        options = JobOptions(
            meta_path=meta, output=Path(name) / "out.csv", batch_size=1, pad_length=4096, skip_if_existing=False,
            restart=False, limit=None, decode_timeout=60, decode_workers=1, max_failure_rate=1, stall_timeout=1800,
            framework=None, device=None, dtype=None,
        )  # fmt: skip
        with _timed(MetaTable, "read", seconds), _timed(job, "plan_run", seconds), _no_captioning():
            _run(options, columns, ranks)
        fresh = seconds.pop("read") + seconds.pop("plan_run")
        folder = journal_folder(options.output)
        first = next(folder.glob("rank-*.jsonl"))
        fingerprint = json.loads(first.read_text().splitlines()[0])["fingerprint"]
        begin = time.monotonic()
        write_journals(folder, rows, ranks, fingerprint, columns)
        journals = time.monotonic() - begin
        begin = time.monotonic()
        with (
            _timed(MetaTable, "read", seconds),
            _timed(job, "plan_run", seconds),
            _timed(delivery, "gather_results", seconds),
            _timed(delivery, "write_outputs", seconds),
        ):
            exit_codes = _run(options, columns, ranks)
        total = time.monotonic() - begin
        assert exit_codes == [0] * ranks, exit_codes
        with options.output.open(newline="", encoding="utf-8") as file:
            captioned = sum(bool(row[column]) for row in csv.DictReader(file) for column in columns)
        assert captioned == (rows - len(range(0, rows, ROWS_PER_FAILURE))) * len(columns), captioned
    return {
        "plan of a fresh table": fresh,
        "journals": journals,
        "plan with journals": seconds["read"] + seconds["plan_run"],
        "gather": seconds["gather_results"],
        "write": seconds["write_outputs"],
        "second run in all": total,
        "memory, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


@contextmanager
def _no_captioning() -> Iterator[None]:
    """Make every rank stop after planning, with a journal that contains only the fingerprint."""
    original = job._Job._caption

    def caption(self: Any, backend: Any, plan: Any, *others: Any) -> Any:
        Journal(self.journals.folder, self.world.rank, plan.fingerprint)._file.close()
        self.world.barrier()
        raise _Planned

    job._Job._caption = caption  # type: ignore
    try:
        yield
    finally:
        job._Job._caption = original  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--columns", type=int, default=1, help="captions for one row")
    flags = parser.parse_args()
    table: dict[int, dict[str, float]] = {}
    for rows in map(int, flags.rows.split(",")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            table[rows] = pool.apply(simulate, (rows, flags.ranks, flags.columns))
    print("| rows | " + " | ".join(next(iter(table.values()))) + " |")
    print("|---" * (1 + len(next(iter(table.values())))) + "|")
    for rows, figures in table.items():
        print(f"| {rows:,} | " + " | ".join(f"{value:.2f}" for value in figures.values()) + " |")


if __name__ == "__main__":
    main()
