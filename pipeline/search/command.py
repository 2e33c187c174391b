"""Searches the captions of tables.

python -m pipeline.search index meta_caption.csv more_caption.parquet --database captions.db
python -m pipeline.search query "red AND star" --limit 20 --database captions.db
python -m pipeline.search query "red AND star" --gallery hits.html
python -m pipeline.search tables
python -m pipeline.search remove meta_caption.csv
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.captioning.process.arguments import CommandParser, number, positive_int, whole_number
from pipeline.captioning.process.errors import EXIT_DONE, EXIT_FAILED, exit_code_of

from .database import open_to_read, open_to_write
from .hits import MAX_RANKED, TIMEOUT, Found, find
from .matching import plain_line
from .output import as_json, close_broken_stdout, counted, is_terminal, print_line, summary, text_lines
from .queries import expression_of

_DATABASE = Path("captions.db")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 also if nothing is found."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    parser = _make_parser()
    try:
        codes: list[int] = []
        failed = exit_code_of(parser.prog, lambda: codes.append(_run(parser.parse_args(arguments))))
        return failed or codes[0]
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; a table that was being indexed is as before", file=sys.stderr)
        return EXIT_FAILED


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--database", type=Path, default=_DATABASE, help=f"file (default: {_DATABASE})")
        return command

    index = add("index", "put captioned tables into the database; the rows of a table replace its earlier rows")
    index.add_argument("table", type=Path, nargs="+", help="captioned table: .csv, .csv.gz or .parquet")
    index.add_argument(
        "--column", action="append", default=[], metavar="NAME",
        help="a column of captions; give it once for each; default: the columns that the run wrote; if that is "
        "unknown, text and all text_NAME",
    )  # fmt: skip
    index.add_argument(
        "--whole_files", action="store_true",
        help="ignore the columns start and end: they do not say which part of its file a row is",
    )  # fmt: skip
    query = add("query", "search for captions; the best come first")
    query.add_argument(
        "query", help='words, all of which must occur; AND, OR, NOT, "a phrase", NEAR(a b, 5), prefix*, parentheses'
    )
    query.add_argument("--words", action="store_true", help="the query has no operators: all its words must occur")
    query.add_argument("--limit", type=positive_int, default=20, help="most hits (default: 20)")
    query.add_argument("--offset", type=whole_number(0), default=0, help="leave out so many hits (default: 0)")
    query.add_argument(
        "--max_ranked", type=positive_int, default=MAX_RANKED,
        help=f"rank so many hits at most, in the order in which they were indexed (default: {MAX_RANKED:,})",
    )  # fmt: skip
    query.add_argument(
        "--timeout", type=number(minimum=0, above=True), default=TIMEOUT, metavar="SECONDS",
        help=f"most seconds for the search (default: {TIMEOUT:g})",
    )  # fmt: skip
    query.add_argument("--json", action="store_true", help="print one JSON object")
    query.add_argument("--gallery", type=Path, metavar="HTML", help="write a page with the frames of the hits")
    add("tables", "list the tables in the database")
    remove = add("remove", "remove tables from the database; their files may be gone")
    remove.add_argument("table", type=Path, nargs="+")
    return parser


def _run(flags: argparse.Namespace) -> int:
    changing = {"index": _index, "remove": _remove}
    if flags.command in changing:
        changing[flags.command](flags)
        return EXIT_DONE
    try:
        {"query": _query, "tables": _tables}[flags.command](flags)
        sys.stdout.flush()
    except BrokenPipeError:
        close_broken_stdout()
        return EXIT_FAILED
    return EXIT_DONE


def _index(flags: argparse.Namespace) -> None:
    from .documents import captioned_table  # a query needs no reader of tables, which takes half a second to import
    from .indexing import index_table, optimize

    paths = list({path.resolve(): path for path in flags.table}.values())
    tables = [captioned_table(path, flags.column, flags.whole_files) for path in paths]
    with open_to_write(flags.database) as connection:
        for table in tables:
            made = index_table(connection, table)
            names = ", ".join(f"'{name}'" for name in made.captions)
            print_line(
                f"indexed {plain_line(str(table.path))}: {counted(made.documents, 'caption')} in {names}; "
                f"{counted(made.without_caption, 'row')} without a caption"
            )
        optimize(connection)


def _query(flags: argparse.Namespace) -> None:
    expression = expression_of(flags.query, flags.words)
    if flags.gallery is not None:
        _check_page(flags.gallery)
    found = find(flags.database, expression, flags.limit, flags.offset, flags.max_ranked, flags.timeout)
    if flags.gallery is not None:
        line = _write_gallery(flags, found) if found.hits else f"{flags.gallery} was not written: no hits to show"
        print_line(line, sys.stderr if flags.json else sys.stdout)
    if flags.json:
        print(json.dumps(as_json(found, flags.query)))
    elif flags.gallery is not None:
        print(summary(found, flags.offset))
    else:
        for line in text_lines(found, flags.offset, is_terminal()):
            print_line(line)


def _check_page(page: Path) -> None:
    from pipeline.captioning.monitor.gallery.pictured import check_page_path

    check_page_path(page, "--gallery")


def _write_gallery(flags: argparse.Namespace, found: Found) -> str:
    from .hits_page import write_hits_page

    return write_hits_page(flags.gallery, flags.query, found.hits)


def _tables(flags: argparse.Namespace) -> None:
    from .indexing import indexed_tables

    with open_to_read(flags.database) as connection:
        for table in indexed_tables(connection):
            when = datetime.fromtimestamp(table.indexed).strftime("%Y-%m-%d %H:%M")
            captions = counted(table.documents, "caption")
            print_line(f"{plain_line(table.path)}: {captions} in {', '.join(table.captions)}, indexed {when}")


def _remove(flags: argparse.Namespace) -> None:
    from .indexing import optimize, remove_table

    with open_to_read(flags.database) as connection:
        for table in flags.table:
            removed = counted(remove_table(connection, table), "caption")
            print_line(f"removed {plain_line(str(table))}: {removed}")
        optimize(connection)
