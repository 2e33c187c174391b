"""Measures search in a million synthetic captions of 100 words: indexing, its memory, and the time of queries.

    python -m scripts.search_scale --rows 1000000 --output docs/measurements/search.json

The words of captions are drawn from 50,000 by Zipf's law, so the most frequent one is in almost every caption. The
table is written, indexed and searched in one process after another. The memory of indexing is the peak of its process
above what it had after the imports. Each query is measured for the first time, and then several times: their
median and maximum. Queries are chosen by the number of captions that their words are in.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import multiprocessing
import os
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.search import hits
from pipeline.search.database import open_to_write
from pipeline.search.documents import captioned_table
from pipeline.search.indexing import index_table, optimize
from pipeline.search.queries import expression_of

WORDS = 100
VOCABULARY = 50_000
_EXPONENT = 1.05
_SEED = 19
_CHUNK = 4096
_LETTERS = "etaoinshrdlcumwfgypbvk"
_HITS = (10, 100, 1_000, 10_000, 100_000)


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Distinct made-up words of 3 to 9 letters, the most frequent first."""
    rng = np.random.default_rng(_SEED)
    letters = np.array(list(_LETTERS))
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(letters[rng.integers(0, len(letters), rng.integers(3, 10))])] = None
    return tuple(words)


def captions(rows: int) -> Iterator[str]:
    """Captions of WORDS words; the word of rank n is drawn with a probability in proportion to n ** -1.05."""
    rng = np.random.default_rng(_SEED)
    words = np.array(vocabulary(), dtype=object)
    shares = np.cumsum(np.arange(1, len(words) + 1) ** -_EXPONENT)
    for begin in range(0, rows, _CHUNK):
        drawn = rng.random((min(_CHUNK, rows - begin), WORDS)) * shares[-1]
        for chosen in words[np.searchsorted(shares, drawn)]:
            yield " ".join(chosen)


def write_table(table: Path, rows: int) -> None:
    """Write a captioned table; the rows of a video are ten segments of four seconds."""
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "text"])
        for row, caption in enumerate(captions(rows)):
            start = row % 10 * 4
            writer.writerow([f"/data/videos/{row // 10:07}.mp4", f"{start}.000", f"{start + 4}.000", caption])


def index(table: Path, database: Path) -> dict[str, float]:
    """Index a table; seconds, and MiB of memory above those after the imports."""
    before = _peak_mib()
    begin = time.monotonic()
    with open_to_write(database) as connection:
        made = index_table(connection, captioned_table(table, [], False))
        indexed = time.monotonic()
        optimize(connection)
    return {
        "captions": made.documents,
        "index_seconds": indexed - begin,
        "optimize_seconds": time.monotonic() - indexed,
        "memory_after_imports_mib": before,
        "memory_above_mib": _peak_mib() - before,
    }


def choose_words(database: Path) -> dict[int, str]:
    """For each number of _HITS, the word that is in about so many captions; and for 0, the most frequent one."""
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, captions, row)")
        counts = [(count, word) for word, count in connection.execute("SELECT term, doc FROM temp.words")]
    (total,) = [max(counts)]
    chosen = {wanted: min(counts, key=lambda entry: abs(entry[0] - wanted))[1] for wanted in _HITS if wanted < total[0]}
    return {0: total[1]} | chosen


def queries(database: Path) -> list[str]:
    """Queries with few and with many hits, and slow ones: frequent phrases and short prefixes."""
    chosen = choose_words(database)
    frequent = vocabulary()[:8]
    common = chosen.pop(0)
    wide = " ".join(frequent[:3])
    return [
        *chosen.values(),
        f"{chosen[max(chosen)]} AND {frequent[5]}",
        f"{chosen[min(chosen)]} OR {chosen[sorted(chosen)[1]]}",
        f"{vocabulary()[300][:4]}*",
        common,
        wide,
        " OR ".join(frequent),
        f'"{frequent[0]} {frequent[1]}"',
        f'"{" ".join([frequent[0]] * 6)}"',
        f"NEAR({wide}, 5)",
        f"{frequent[0]} NOT {frequent[1]}",
        "e*",
        "e* OR t* OR a* OR o* OR i* OR n*",
    ]


def measure(database: Path, times: int) -> list[dict[str, Any]]:
    """Search for each query `times` times after the first time."""
    rows = []
    for query in queries(database):
        expression = expression_of(query)
        seconds, cpu_seconds, result = [], [], ""
        found: hits.Found | None = None
        for _ in range(times + 1):
            begin, cpu_begin = time.monotonic(), time.process_time()
            try:
                found = hits.find(database, expression)
            except hits.RunError as error:
                result = str(error)
            seconds.append(time.monotonic() - begin)
            cpu_seconds.append(time.process_time() - cpu_begin)
            if result:
                break
        later, cpu_later = seconds[1:] or seconds, cpu_seconds[1:] or cpu_seconds
        row = {"query": query, "first_s": seconds[0], "median_s": statistics.median(later), "max_s": max(later)}
        row["median_cpu_s"] = statistics.median(cpu_later)  # on a machine with other work it says more
        rows.append(row | ({"error": result} if found is None else {"hits": found.total, "ranked": found.ranked}))
    return rows


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, whose memory is its own, too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="captions (default: 1000000)")
    parser.add_argument("--times", type=int, default=9, help="times that each query is repeated (default: 9)")
    parser.add_argument("--again", action="store_true", help="index the table a second time, too")
    parser.add_argument("--folder", type=Path, help="where the table and the database are written, and removed again")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        table, database = Path(name) / "meta_caption.csv", Path(name) / "captions.db"
        in_process(write_table, table, flags.rows)
        figures: dict[str, Any] = {"rows": flags.rows, "words": WORDS, "cores": len(os.sched_getaffinity(0))}
        figures |= {"sqlite": sqlite3.sqlite_version, "table_mib": table.stat().st_size / 2**20}
        figures |= in_process(index, table, database)
        figures["database_mib"] = database.stat().st_size / 2**20
        print(json.dumps(figures, indent=1), flush=True)
        if flags.again:
            figures["again"] = in_process(index, table, database)
            figures["database_again_mib"] = database.stat().st_size / 2**20
        figures["load_average"] = os.getloadavg()
        figures["times"] = flags.times
        figures["queries"] = in_process(measure, database, flags.times)
    for row in figures["queries"]:
        result = row.get("error") or f"{row['hits']:,} hits, {row['ranked']:,} ranked"
        times = (row["first_s"], row["median_s"], row["max_s"], row["median_cpu_s"])
        print(f"{' '.join(f'{seconds:7.3f}' for seconds in times)} s  {row['query'][:60]}: {result}")
    if flags.output is not None:
        flags.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
