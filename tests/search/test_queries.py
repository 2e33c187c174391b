"""The query language, ranking, snippets, limits, and what the command prints."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.captioning.process.errors import RunError, UsageError
from pipeline.search import command, hits
from pipeline.search.database import open_to_read
from pipeline.search.matching import Matcher
from pipeline.search.queries import expression_of
from tests.search.tables import index, search, write_table

CAPTIONS = [
    "A red star moves to the left of a blue dog.",
    "A star that is red, a red star, and one more red star.",
    "The dog's owner plays rock-and-roll under the stars.",
    "A blue circle.",
    "Black and white: a red car.",
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    rows = [(f"/d/{i}.mp4", i * 3661.5 + 0.25, "", text) for i, text in enumerate(CAPTIONS)]
    assert index(folder / "captions.db", write_table(folder / "t.csv", rows, ("path", "start", "end", "text"))) == 0
    return folder / "captions.db"


def _rows(database: Path, query: str, as_words: bool = False) -> list[int]:
    return sorted(hit.row for hit in hits.find(database, expression_of(query, as_words), timeout=60.0).hits)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("red star", [0, 1]),
        ("red AND star", [0, 1]),
        ("circle OR car", [3, 4]),
        ("red NOT star", [4]),
        ('"red star"', [0, 1]),
        ('"star red"', []),
        ("NEAR(blue left, 3)", [0]),
        ("NEAR(blue red, 3)", []),
        ("star*", [0, 1, 2]),
        ("blue AND (dog OR circle)", [0, 3]),
        ('"dog\'s"', [2]),
        ('"rock-and-roll"', [2]),
        ('"and" white', [4]),
        ("^black", [4]),
    ],
)
def test_language(database: Path, query: str, rows: list[int]) -> None:
    assert _rows(database, query) == rows
    matcher = Matcher(expression_of(query))  # the same without the database
    assert [i for i, snippet in enumerate(matcher.snippets(CAPTIONS)) if snippet] == rows
    assert [i for i, text in enumerate(CAPTIONS) if matcher.highlighted(text)] == rows


def test_plain_words(database: Path) -> None:
    assert _rows(database, "the dog's rock-and-roll!", as_words=True) == [2]
    assert _rows(database, 'AND "white', as_words=True) == [4]
    assert _rows(database, "red - star", as_words=True) == [0, 1]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("the dog's owner", 'character 8: "\'" must be in double quotes: the "dog\'s" owner; or give --words'),
        ("(sci-fi)", "character 5: '-' must be in double quotes: (\"sci-fi\")"),
        ("a red car?", "character 10: '?' must be in double quotes: a red \"car?\""),
        ("text:red", "character 5: ':' must be in double quotes"),
        ('a "red star', "character 3: this double quote is not closed"),
        ("red AND", "it ends where a word is expected, at character 8"),
        ("OR red", "'OR' is not expected at character 1"),
        ("red, star", "',' is not expected at character 4"),
        ("* star", "'*' follows a word"),
        ("(red", "it ends where"),
        ("blue (dog OR cat)", "there must be an operator, such as AND, between a word and a parenthesis"),
        ("NEAR(red star, x)", 'expected integer, got "x"'),
        ("", "has no word"),
        ('"..."', "has no word"),
        ("a" * 20_000, "at most 10,000"),
    ],
)
def test_a_query_that_is_not_understood(
    database: Path, query: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["query", query, "--database", str(database)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    with pytest.raises(UsageError):
        expression_of(query)


def test_no_query_is_refused_by_the_database_alone(database: Path) -> None:
    """Whatever passes the check is searched for."""
    parts = ["red", '"a b"', "AND", "NOT", "(", ")", "*", "^", "+", "NEAR(red star)"]
    accepted = []
    for first in parts:
        for second in parts:
            for third in parts:
                query = f"{first} {second} {third}"
                try:
                    accepted.append(expression_of(query))
                except UsageError:
                    continue
    assert 50 < len(accepted) < len(parts) ** 3
    with open_to_read(database) as connection:
        for expression in accepted:
            connection.execute("SELECT bm25(captions) FROM captions WHERE captions MATCH ?", (expression,)).fetchall()


def test_ranking_offset_and_snippets(database: Path) -> None:
    found = search(database, "red star")
    assert [hit.row for hit in found.hits] == [1, 0] and found.total == found.ranked == 2 and found.captions == 5
    assert [hit.rank for hit in found.hits] == [1, 2] and found.hits[0].score > found.hits[1].score
    assert found.hits[1].snippet.marked("[", "]").startswith("A [red] [star] moves")
    (second,) = search(database, "red star", offset=1).hits
    assert (second.row, second.rank) == (0, 2)
    assert search(database, "red star", limit=1).total == 2
    beyond = search(database, "red star", offset=7)
    assert beyond.hits == () and beyond.total == 2
    capped = search(database, "red star", max_ranked=1)
    assert [hit.row for hit in capped.hits] == [0] and (capped.total, capped.ranked) == (2, 1)


def test_a_long_caption_has_a_short_snippet() -> None:
    (snippet,) = Matcher("star").snippets([" ".join(f"w{i}" for i in range(500)) + " star " + "x " * 500])
    assert snippet is not None and len(snippet.text.split()) < 30
    ((begin, end),) = snippet.marks
    assert snippet.text[begin:end] == "star" and snippet.text.startswith("…")


def test_text_for_people(database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = database.with_name("t.csv")
    assert command.main(["query", "circle OR dog", "--limit", "1", "--database", str(database)]) == 0
    assert capsys.readouterr().out == (
        "1. /d/3.mp4 3:03:04.750 to the end\n"
        f"   A blue circle.  [text, row 3 of {table}]\n"
        "3 hits in 5 captions; shown: 1 to 1\n"
    )
    monkeypatch.setattr(command, "is_terminal", lambda: True)
    assert command.main(["query", "circle", "--database", str(database)]) == 0
    assert "A blue \x1b[1mcircle\x1b[0m." in capsys.readouterr().out
    assert command.main(["query", "red", "--max_ranked", "2", "--database", str(database)]) == 0
    assert "3 hits in 5 captions; shown: 1 to 2; only the first 2 hits" in capsys.readouterr().out
    assert command.main(["query", "zebra", "--database", str(database)]) == 0
    assert capsys.readouterr().out == "no hits in 5 captions\n"


def test_json_for_programs(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["query", "circle", "--json", "--database", str(database)]) == 0
    answer = json.loads(capsys.readouterr().out)
    (hit,) = answer.pop("hits")
    assert answer == {"query": "circle", "captions": 5, "total": 1, "ranked": 1}
    assert hit.pop("score") > 0
    assert hit == {
        "rank": 1, "path": "/d/3.mp4", "start": 10984.75, "end": None, "table": str(database.with_name("t.csv")),
        "row": 3, "column": "text", "outcome": "", "text": CAPTIONS[3], "snippet": CAPTIONS[3], "marks": [[7, 13]],
    }  # fmt: skip


def test_a_query_that_takes_too_long_is_an_error(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether SQLite can be interrupted or not."""

    def interruptible(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")

    end = threading.Event()
    for endless in (interruptible, lambda *_: end.wait()):
        monkeypatch.setattr(hits, "_find", endless)
        with pytest.raises(RunError, match=r"takes more than 0\.2 s.*--timeout"):
            hits.find(database, "red", timeout=0.2)
    end.set()


def test_a_database_that_is_being_written(tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = tmp_path / "busy.db"
    busy.write_bytes(database.read_bytes())
    other = sqlite3.connect(busy, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")  # as a large transaction has
    assert command.main(["query", "red", "--database", str(busy), "--timeout", "1"]) == 1
    assert "is being written by another process" in capsys.readouterr().err
    other.close()
    assert search(busy, "red").total == 3


def test_a_reader_that_has_enough_gets_no_error(database: Path) -> None:
    for name in ("query", "tables"):
        read, write = os.pipe()
        os.close(read)
        arguments = [name, *(["red"] if name == "query" else []), "--database", str(database)]
        command_line = [sys.executable, "-m", "pipeline.search", *arguments]
        done = subprocess.run(command_line, stdout=write, stderr=subprocess.PIPE, timeout=60)
        os.close(write)
        assert (done.returncode, done.stderr) == (1, b"")


def test_a_query_imports_no_framework_and_no_reader_of_tables(database: Path) -> None:
    code = (
        "import sys; from pipeline.search import command; "
        f"assert command.main(['query', 'star', '--database', {str(database)!r}]) == 0; "
        "print(sorted({'torch', 'mindspore', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
