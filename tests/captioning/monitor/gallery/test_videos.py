"""What the gallery reads about tables whose rows are segments of videos."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.names import failures_path, report_path
from pipeline.captioning.monitor.gallery import command as gallery
from pipeline.captioning.monitor.gallery.entries import Entries, read_entries
from pipeline.captioning.monitor.gallery.filmstrips import Filmstrip, make_filmstrips
from pipeline.captioning.monitor.gallery.page import write_page
from pipeline.captioning.monitor.gallery.videos import Video
from pipeline.captioning.process.errors import UsageError
from tests.fakes import segments

ROWS = [
    ("b.mp4", "4", "6", "A cat sleeps on a chair."),
    ("a.mp4", "10", "12.5", "A dog runs over a meadow."),
    ("b.mp4", "0", "4", ""),
    ("c.mp4", "", "", "A bird sings in a tree."),
    ("a.mp4", "0", "10", "The sun is over the sea."),
    ("b.mp4", "6", "", "It is night in the town."),
]


def _table(
    path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("path", "start", "end", "text")
) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return _table(tmp_path / "meta_caption.csv", ROWS)


def _read(table: Path, **changes: object) -> Entries:
    return read_entries(table, [], 100, 0, 5, **changes)  # type: ignore[arg-type]


def test_videos_in_order_of_their_first_row(table: Path) -> None:
    """Each with its length, also of segments that are not in the sample."""
    found = _read(table)
    assert found.videos == (Video("b.mp4", 3, 6000), Video("a.mp4", 2, 12500))
    assert [entry.range for entry in found.entries[2:5]] == [TimeRange(0, 4000), None, TimeRange(0, 10000)]
    sample = read_entries(table, ["failed"], 100, 0, 5)
    assert [entry.row for entry in sample.entries] == [2] and sample.videos == (Video("b.mp4", 3, 6000),)
    assert _read(table, whole_files=True).videos == ()


def test_titles_and_summaries(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [("a.mp4", "", ""), ("a.mp4", " First ", "One."), ("a.mp4", "Second", "Two."), ("x.mp4", "Other", "")]
    summaries = _table(tmp_path / "s.csv", texts, ("path", "title", "summary"))
    videos = _read(table, summaries=summaries).videos
    assert [(video.title, video.summary) for video in videos] == [("", ""), ("First", "One.")]
    only_summary = _table(tmp_path / "s.csv", [("b.mp4", "x" * 9000)], ("path", "summary"))
    video = _read(table, summaries=only_summary).videos[0]
    assert video.title == "" and video.summary.endswith("… (9,000 characters)")
    assert not caplog.records
    _read(table, summaries=_table(tmp_path / "s.csv", texts[3:], ("path", "title", "summary")))
    assert "has no summary of a video of the page" in caplog.text
    with pytest.raises(UsageError, match=r"s.csv has no column 'summary' or 'title'; its columns: 'path', 'text'"):
        _read(table, summaries=_table(tmp_path / "s.csv", [("b.mp4", "x")], ("path", "text")))
    with pytest.raises(UsageError, match="no row of the captioned table is a segment"):
        _read(table, summaries=summaries, whole_files=True)


def test_summaries_next_to_the_table(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under the name that summarize.py gives them."""
    header = ("path", "summary", "title")
    usual = _table(tmp_path / "meta_caption_summary.csv", [("b.mp4", "One.", "B")], header)
    assert _read(table).videos[0] == Video("b.mp4", 3, 6000, "B", "One.")
    named = _table(tmp_path / "s.csv", [("b.mp4", "Two.", "C")], header)
    assert _read(table, summaries=named).videos[0].title == "C"
    assert _read(table, whole_files=True).videos == () and not caplog.records
    _table(usual, [("b.mp4", "x")], ("path", "text"))
    assert _read(table).videos[0].title == ""
    assert "the page has no summaries: table" in caplog.text and "name their table with --summaries" in caplog.text


def test_failures_of_another_range_are_ignored(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after the video was divided anew."""
    rows = [
        [2, "b.mp4", "0.000", "4.000", "text", "decode", "no frames"],
        [0, "b.mp4", "4.000", "5.000", "text", "x", "y"],
    ]
    _table(failures_path(table), rows, ("row", "path", "start", "end", "column", "stage", "message"))
    assert _read(table).entries[2].captions[0].message == "no frames"
    assert "1 rows of" in caplog.text and "another path or range" in caplog.text


def _data(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_whole_files_is_as_in_the_report(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = table.with_name("meta_caption_gallery.html")
    report = {"captioned_in_this_run": 5, "seconds": 2.0, "clips_per_second": 1.5, "tokens_per_second": 9.0}
    report |= {"truncated": 0, "workers": 1, "backends": [], "fingerprint": {}, "options": {}, "versions": {}}
    for content, flags, videos in (
        ("", [], 2),  # no report
        ("", ["--whole_files"], 0),
        (json.dumps(report), [], 0),  # the run ignored the columns, or is of a version that did not know them
        (json.dumps(report | {"ranges": 5}), [], 2),
        (json.dumps(report | {"ranges": 5}), ["--whole_files"], 0),
    ):
        report_path(table).unlink(missing_ok=True)
        if content:
            report_path(table).write_text(content)
        assert gallery.main([str(table), *flags]) == 0
        assert len(_data(page)["videos"]) == videos, (content, flags)
    report_path(table).unlink()
    _table(table, [("a.mp4", "morning", "", "A dog.")])
    assert gallery.main([str(table)]) == 2
    assert "column 'start', row 0: 'morning' is not a time" in capsys.readouterr().err
    assert gallery.main([str(table), "--whole_files"]) == 0


def test_times_and_links_of_segments(table: Path) -> None:
    entries = _read(table)
    strips = {entry.clip: Filmstrip(b"x", 1, 4, 3, duration=2.5) for entry in entries.entries}
    write_page(table.with_name("page.html"), table, entries, strips, {}, {})
    rows = _data(table.with_name("page.html"))["rows"]
    assert [(row.get("video"), row.get("start"), row.get("end"), row.get("until")) for row in rows] == [
        (0, 4000, 6000, None),
        (1, 10000, 12500, None),
        (0, 0, 4000, None),
        (None, None, None, None),
        (1, 0, 10000, None),
        (0, 6000, None, 8500),  # known from the decoded clip
    ]
    links = [row["link"].rpartition("/")[2] for row in rows]
    assert links[1:4] == ["a.mp4#t=10.000,12.500", "b.mp4#t=0.000,4.000", "c.mp4"] and links[5] == "b.mp4#t=6.000"


def test_frames_of_a_segment_are_those_of_its_range(tmp_path: Path) -> None:
    """A video that has another colour in each second."""
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 64, 48, "yuv420p", 1
        for colour in ("red", "blue", "lime"):
            for _ in range(8):
                container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), colour))))
        container.mux(stream.encode())
    clips = [(str(path), TimeRange(*times)) for times in ((0, 1000), (1000, 2000), (2000, None), (5000, 6000))]
    strips, problems = make_filmstrips(clips, segments(4), 50_000, DecoderLimits(20), workers=2)
    assert list(strips) == clips[:3] and list(problems) == clips[3:]
    for clip, channel in zip(clips, (0, 2, 1), strict=False):
        image = np.asarray(Image.open(io.BytesIO(strips[clip].data)).convert("RGB")).astype(int).mean((0, 1))
        assert image[channel] > 180 and image.sum() - image[channel] < 150, (clip, image)
    assert strips[clips[2]].duration == pytest.approx(1.0, abs=0.01)
