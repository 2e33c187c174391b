"""The hits in the gallery page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.search import command
from pipeline.search.hits_page import entries_of
from tests.fakes import render_clip
from tests.search.tables import index, search, write_table


def _data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_hits_with_frames_in_order_of_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [render_clip(tmp_path / f"{i}.mp4", i) for i in range(2)]
    rows = [(clips[0], "", "", "A star, and <b>many</b> more words about it here."), (clips[1], "0", "0.5", "A star.")]
    rows += [(clips[1], "0.5", "1", "A dog."), (tmp_path / "gone.mp4", "", "", "Stars, and one star that is far away.")]
    database, page = tmp_path / "captions.db", tmp_path / "hits.html"
    assert index(database, write_table(tmp_path / "t.csv", rows, ("path", "start", "end", "text"))) == 0
    capsys.readouterr()
    assert command.main(["query", "star", "--gallery", str(page), "--database", str(database)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{page}: 3 hits, 2 clips with frames, ") and out.endswith("shown: 1 to 3\n")
    data = _data(page)
    assert data["unit"] == "hit" and [row["row"] for row in data["rows"]] == [1, 2, 3]
    assert data["rows"][0]["path"] == str(clips[1]) and (data["rows"][0]["start"], data["rows"][0]["end"]) == (0, 500)
    assert data["rows"][0]["cells"][:2] == [str(tmp_path / "t.csv"), "1"]
    assert {row["path"]: row["strip"] for row in data["rows"]}[str(tmp_path / "gone.mp4")] is None
    assert data["videos"] == [{"path": str(clips[1]), "segments": 1, "length": 500, "title": "", "summary": ""}]
    assert "<title>hits for star</title>" in page.read_text() and "<b>many" not in page.read_text()


def test_a_segment_with_two_captions_is_one_segment(tmp_path: Path) -> None:
    rows = [("v.mp4", "0", "1", "A star.", "star"), ("v.mp4", "1", "2", "Two stars, one star.", "")]
    table = write_table(tmp_path / "t.csv", rows, ("path", "start", "end", "text", "text_short"))
    assert index(tmp_path / "captions.db", table) == 0
    entries = entries_of(search(tmp_path / "captions.db", "star").hits)
    assert [(video.path, video.segments) for video in entries.videos] == [("v.mp4", 2)] and entries.rows == 3
    assert all(float(entry.cells[-1]) > 0 for entry in entries.entries)  # scores of common words are small


def test_usage_errors_and_no_hits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "captions.db"
    assert index(database, write_table(tmp_path / "t.csv", [("a.mp4", "A star.")])) == 0
    query = ["query", "star", "--database", str(database), "--gallery"]
    assert command.main([*query, str(tmp_path / "hits.csv")]) == 2
    assert command.main([*query, str(tmp_path / "no" / "hits.html")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert command.main(["query", "dog", "--database", str(database), "--gallery", str(tmp_path / "h.html")]) == 0
    assert "was not written: no hits to show" in capsys.readouterr().out and not (tmp_path / "h.html").exists()
