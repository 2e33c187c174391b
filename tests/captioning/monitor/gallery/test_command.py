"""The gallery command: the page it writes, and usage errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.monitor.gallery import command as gallery
from pipeline.captioning.monitor.gallery import pictured
from pipeline.captioning.monitor.gallery.page import embedded_json
from tests.captioning.clips.downloads.servers import content, web_server
from tests.fakes import render_clip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "my clips #1"
    folder.mkdir()
    paths = [render_clip(folder / f"clip {i}%.mp4", i) for i in range(3)]
    path = tmp_path / "meta_caption.csv"
    path.write_text("path,text\n" + "".join(f"{clip},A square moves.\n" for clip in paths) + "/nowhere.mp4,\n")
    return path


def _data(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_page_next_to_the_table(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"fingerprint": {"frames": "2"}, "options": {}, "versions": {}, "backends": [], "workers": 1}
    report |= {"captioned_in_this_run": 3, "seconds": 2.0, "clips_per_second": 1.5, "tokens_per_second": 9.0}
    report_path = table.with_name("meta_caption_report.json")
    report_path.write_text(json.dumps({**report, "truncated": 0}))
    assert gallery.main([str(table)]) == 0
    page = table.with_name("meta_caption_gallery.html")
    assert capsys.readouterr().out.startswith(f"{page}: 4 rows, 3 clips with frames, ")
    data = _data(page)
    assert [strip[0] for strip in data["strips"]] == [2, 2, 2]  # as many frames as the model saw
    assert [row["strip"] for row in data["rows"]] == [0, 1, 2, None]
    assert data["rows"][1]["link"] == "./my%20clips%20%231/clip%201%25.mp4"
    assert data["rows"][3]["problem"] == "path: no such file"
    assert ["speed", "1.50 clips/s, 9.0 tokens/s"] in data["run"]
    report_path.write_text('{"of": "another program"}')
    assert gallery.main([str(table)]) == 0
    assert _data(page)["run"] == []


def test_the_page_shows_the_frames_of_any_sampling(table: Path) -> None:
    report = {"of": "captioning", "fingerprint": {"frames": "points 3"}, "options": {}, "versions": {}, "backends": []}
    report |= {"workers": 1, "captioned_in_this_run": 3, "seconds": 2.0, "clips_per_second": 1.5}
    report |= {"tokens_per_second": 9.0, "truncated": 0}
    page = table.with_name("meta_caption_gallery.html")
    for frames, shown in (("points 3", 3), ("rate 2.0 fps multiple 2", 4), ("unknown text", 4)):
        report["fingerprint"] = {"frames": frames}
        table.with_name("meta_caption_report.json").write_text(json.dumps(report))
        assert gallery.main([str(table)]) == 0
        assert [strip[0] for strip in _data(page)["strips"]] == [shown] * 3


def test_clips_from_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    data = render_clip(tmp_path / "a.mp4").read_bytes()
    with web_server() as web:
        urls = [web.url("/a.mp4?x=s3cret", content(data), user="me:pa55@"), web.url("/b.mp4", content(b"x" * 10**6))]
        urls.append(web.url("/c.mp4", content(data)))
        table = tmp_path / "meta_caption.csv"
        table.write_text("path,text\n" + "".join(f"{url},A square moves.\n" for url in urls))
        assert gallery.main([str(table), "--max_download", "500K", "--download_timeout", "20"]) == 0
    page = table.with_name("meta_caption_gallery.html")
    data = _data(page)
    assert [row["strip"] for row in data["rows"]] == [0, None, 1]
    assert data["rows"][0]["path"] == f"http://127.0.0.1:{web.server_address[1]}/a.mp4?…"
    assert [row.get("link") for row in data["rows"]] == [None, None, urls[2]]
    assert "s3cret" not in page.read_text() and "pa55" not in page.read_text()
    assert data["rows"][1]["problem"].startswith("download: the file has 1,000,000 bytes, more than --max_download")


def test_random_sample(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = table.with_name("few.html")
    flags = ["--output", str(page), "--only", "repeated", "--sample", "2", "--num_frames", "3"]
    assert gallery.main([str(table), *flags]) == 0
    assert "2 of 3 rows, drawn at random" in capsys.readouterr().out
    data = _data(page)
    assert len(data["rows"]) == 2 and {strip[0] for strip in data["strips"]} == {3}
    assert (data["total"], data["captioned"], data["chosen"]) == (4, [3], 3)


def test_embedded_json_cannot_end_its_element() -> None:
    data = {"<!--": ["</script><script>alert(1)</script>", "\u2028 ]]> & \ud800"]}
    text = embedded_json(data)
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == data


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.csv"], "meta file nowhere.csv does not exist"),
        (["{table}", "--sample", "0"], "argument --sample: 0 is less than 1 (see --help)"),
        ([], "the following arguments are required: table (see --help)"),
        (["{table}", "--output", "page.txt"], "--output page.txt must end in .html"),
        (["{table}", "--output", "/no/folder/page.html"], "the folder of --output, /no/folder, does not exist"),
    ],
)
def test_usage_error(table: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gallery.main([flag.replace("{table}", str(table)) for flag in flags]) == 2
    assert capsys.readouterr().err == f"gallery: {message}\n"


def test_interruption_keeps_the_earlier_page(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = table.with_name("page.html")
    page.write_text("earlier")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictured, "make_filmstrips", interrupt)
    assert gallery.main([str(table), "--output", str(page)]) == 1
    assert page.read_text() == "earlier" and "no page was written" in capsys.readouterr().err
    assert not [path for path in table.parent.iterdir() if path.name.endswith(".tmp")]


def test_csv_and_parquet_tables_of_the_same_name_have_separate_pages(table: Path) -> None:
    parquet = table.with_suffix(".parquet")
    pd.read_csv(table).to_parquet(parquet)
    assert gallery.main([str(table)]) == gallery.main([str(parquet)]) == 0
    assert len(list(table.parent.glob("meta_caption*_gallery.html"))) == 2
