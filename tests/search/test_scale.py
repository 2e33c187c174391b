"""A short form of scripts/search_scale.py: memory while indexing, and the same hits as a search without an index."""

from __future__ import annotations

from pathlib import Path

from pipeline.search.documents import captioned_table
from scripts import search_scale
from tests.search.tables import search

ROWS = 6_000


def test_memory_and_hits_of_many_captions(tmp_path: Path) -> None:
    table, database = tmp_path / "meta_caption.csv", tmp_path / "captions.db"
    search_scale.write_table(table, ROWS)
    assert table.stat().st_size > 4 * 2**20
    figures = search_scale.in_process(search_scale.index, table, database)
    assert figures["captions"] == ROWS
    assert figures["memory_above_mib"] < 60
    rows = {row.number: set(row.captions[0].split()) for row in captioned_table(table, [], False).rows()}
    common, *_, frequent = search_scale.vocabulary()[:6]
    words = search_scale.choose_words(database)
    assert words[0] == common and 0.9 * ROWS < search(database, common).total <= ROWS
    for count, word in words.items():
        expected = {row for row, of_row in rows.items() if word in of_row}
        found = search(database, word, limit=100)
        assert found.total == len(expected) and {hit.row for hit in found.hits} <= expected
        assert not count or 0.5 * count <= found.total <= 2 * count
        both = {row for row in expected if frequent in rows[row]}
        assert search(database, f"{word} {frequent}").total == len(both)
