"""Captioned tables and a database for the tests of search."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.search import command
from pipeline.search.hits import Found, find
from pipeline.search.queries import expression_of


def write_table(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("path", "text")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def index(database: Path, *arguments: object) -> int:
    return command.main(["index", *map(str, arguments), "--database", str(database)])


def search(database: Path, query: str, **options: int) -> Found:
    return find(database, expression_of(query), timeout=60.0, **options)


def rows_of(database: Path, query: str) -> list[tuple[str, int, str]]:
    """Name of the table, row and column of each hit, sorted."""
    return sorted((Path(hit.table).name, hit.row, hit.column) for hit in search(database, query, limit=1000).hits)
