"""Cues and chapters, read by FFmpeg and by Chromium: times, order, overlaps and odd texts."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser

from pipeline.captioning.long_videos.cue_text import TITLE_CHARACTERS, chapter_title, one_line, plain_lines
from pipeline.captioning.long_videos.cues import FORMATS, SUFFIXES, cues_of, render
from pipeline.captioning.long_videos.document import Segment, VideoDescription
from tests.captioning.long_videos.parsed import chapters, subtitles
from tests.captioning.monitor.gallery.conftest import browser

__all__ = ["browser"]  # a fixture

ODD_TEXTS = [
    "A <b>dog</b> & a cat &amp; 3 < 5 > 2",
    "00:00:01.000 --> 00:00:02.000",
    "first\n\n\n  second\r\nWEBVTT\nNOTE a note\nSTYLE\nREGION\n7\n8",
    "42",
    "7\n00:00:01,000 --> 00:00:02,000\ntext",
    "{\\an8}C:\\New {y:i} \\h",
    "\x00nul \x07bell \x1b[31mred\x7f \u2028line\u2029paragraph \x85next\ttab",
    "一只狗在田野里奔跑。然后一只猫走过来。",
    "كلب يركض في الحقل. \u202bثم\u202c قطة؟",
    "👩\u200d👩\u200d👧\u200d👦 and 🏳️\u200d🌈 👍🏽 🇩🇪 e\u0301",
    "a lone \ud800 surrogate, no characters \ufffe \uffff",
    "; # = \\ [CHAPTER]",
    "ends in \\",
    "[CHAPTER]",
    "title=x\nSTART=7",
    "\ufeffbyte order mark",
    "word " * 3000,
    "长" * 9000,
]


def _description(texts: list[str], title: str = "", summary: str = "") -> VideoDescription:
    """One segment of 2.5 s for each text."""
    segments = [Segment(i, i * 2500, (i + 1) * 2500, 4, text, "captioned") for i, text in enumerate(texts)]
    return VideoDescription("a.mp4", 4, tuple(segments), title=title, summary=summary)


def _written(folder: Path, description: VideoDescription, format_name: str) -> Path:
    path = folder / f"video{SUFFIXES[format_name]}"
    path.write_bytes(render(description, format_name).encode())
    return path


def _widened(text: str) -> str:
    """A text as SRT has it: with the full-width forms of markup."""
    for narrow, wide in zip("<>{}\\", "＜＞｛｝＼", strict=True):  # noqa: RUF001
        text = text.replace(narrow, wide)
    return text


def test_odd_texts_in_webvtt(tmp_path: Path) -> None:
    description = _description(ODD_TEXTS, "Title --> \n\n <x>", "Line\n\n00:00:00.000 --> 00:00:09.000\nnot a cue")
    found = subtitles(_written(tmp_path, description, "vtt"))
    times = [(i * 2500, (i + 1) * 2500) for i in range(len(ODD_TEXTS))]
    assert found == [(*time, "\n".join(plain_lines(text))) for time, text in zip(times, ODD_TEXTS, strict=True)]
    assert found[2][2] == "first\nsecond\nWEBVTT\nNOTE a note\nSTYLE\nREGION\n7\n8"
    assert found[6][2] == "nul bell [31mred\nline\nparagraph\nnext tab"
    assert found[10][2] == "a lone \ufffd surrogate, no characters \ufffd \ufffd"
    header = (tmp_path / "video.vtt").read_text(encoding="utf-8").split("\n\n")[:3]
    assert header == [
        "WEBVTT",
        "NOTE\nTitle: Title --&gt; &lt;x&gt;",
        "NOTE\nSummary: Line 00:00:00.000 --&gt; 00:00:09.000 not a cue",
    ]


def test_odd_texts_in_srt(tmp_path: Path) -> None:
    path = _written(tmp_path, _description(ODD_TEXTS), "srt")
    found = subtitles(path)
    assert [(start, end) for start, end, _ in found] == [(i * 2500, (i + 1) * 2500) for i in range(len(ODD_TEXTS))]
    expected = [_widened("\n".join(plain_lines(text))) for text in ODD_TEXTS]
    assert [text for _, _, text in found[:-2]] == expected[:-2]
    assert found[-2][2].replace("\n", " ") == expected[-2] and max(map(len, found[-2][2].splitlines())) <= 1000
    assert found[-1][2].replace("\n", "") == expected[-1]
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [str(i + 1) for i in range(len(ODD_TEXTS))]
    assert blocks[1].split("\n")[1] == "00:00:02,500 --> 00:00:05,000"


def test_odd_texts_in_chapters(tmp_path: Path) -> None:
    description = _description(ODD_TEXTS, title="a=b; #c\\\nd", summary="[CHAPTER]\nSTART=0")
    metadata, found = chapters(_written(tmp_path, description, "chapters"))
    assert metadata == {"title": "a=b; #c\\ d", "description": "[CHAPTER] START=0"}
    titles = [chapter_title(plain_lines(text)[0]) for text in ODD_TEXTS]
    assert [title.rstrip(" ") for _, _, title in found] == titles
    assert [times for *times, _ in found] == [[i * 2500, (i + 1) * 2500] for i in range(len(ODD_TEXTS))]
    assert found[7][2] == "一只狗在田野里奔跑。" and found[11][2] == "; # = \\ [CHAPTER]" and found[2][2] == "first"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("A dog runs. A cat sits.", "A dog runs."),
        ("Mr. Smith pays 1.50, i.e. little! He goes.", "Mr. Smith pays 1.50, i.e. little!"),
        ('He says "Stop." Then he goes.', 'He says "Stop."'),
        ("كلب يركض؟ ثم قطة.", "كلب يركض؟"),
        ("एक कुत्ता दौड़ता है। फिर एक बिल्ली।", "एक कुत्ता दौड़ता है।"),
        ("no end", "no end"),
        ("long " * 30, "long " * 19 + "long…"),
        ("长" * 150, "长" * 99 + "…"),
        ("x" * 98 + "👩\u200d👧 family", "x" * 98 + "…"),
        ("x" * 98 + "e\u0301\u0301 accents", "x" * 98 + "…"),
    ],
)
def test_the_title_of_a_chapter_is_the_first_sentence(text: str, title: str) -> None:
    assert chapter_title(text) == title
    assert len(title) <= TITLE_CHARACTERS


def test_cues_are_in_order_and_do_not_overlap() -> None:
    segments = [
        Segment(3, 9000, 12_000, 1, "last", "kept"),
        Segment(0, 0, 5000, 1, "is clipped", "captioned"),
        Segment(1, 4000, 4500, 1, "is short", "truncated"),
        Segment(2, 4000, 6000, 1, "is the longest of two", "captioned"),
        Segment(4, 6000, 7000, 0, "", "failed"),
        Segment(5, 7000, 8000, 1, " \n\x00", "captioned"),
        Segment(6, 8000, 8000, 1, "has no length", "captioned"),
        Segment(7, 12_000, 13_000, 0, "", "pending"),
    ]
    cues = [(cue.number, cue.start_ms, cue.end_ms) for cue in cues_of(segments)]
    assert cues == [(0, 0, 4000), (2, 4000, 6000), (3, 9000, 12_000)]


def test_times_beyond_99_hours(tmp_path: Path) -> None:
    hour = 3_600_000
    segments = (Segment(0, 99 * hour + 1, 100 * hour, 1, "a", "captioned"), Segment(1, 100 * hour, 101 * hour, 1, "b"))
    description = VideoDescription("a.mp4", segments=segments)
    expected = [(99 * hour + 1, 100 * hour, "a"), (100 * hour, 101 * hour, "b")]
    assert subtitles(_written(tmp_path, description, "vtt")) == expected
    assert subtitles(_written(tmp_path, description, "srt")) == expected
    assert chapters(_written(tmp_path, description, "chapters"))[1] == expected
    assert "99:00:00.001 --> 100:00:00.000\n" in render(description, "vtt")


def test_json_lines_have_every_segment() -> None:
    segments = (
        Segment(0, 0, 1500, 4, "A\ndog", "captioned"),
        Segment(1, 1500, 2000, 0, outcome="failed", message="decode: damaged"),
    )
    lines = render(VideoDescription("d/\udcff.mp4", 4, segments, "Summary"), "jsonl").encode().decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"path": "d/\udcff.mp4", "start": 0.0, "end": 1.5, "text": "A\ndog", "outcome": "captioned"},
        {"path": "d/\udcff.mp4", "start": 1.5, "end": 2.0, "text": "", "outcome": "failed"},
    ]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_description_without_captions(format_name: str) -> None:
    content = render(VideoDescription("a.mp4", segments=(Segment(0, 0, 1000),)), format_name)
    assert "-->" not in content and "[CHAPTER]" not in content


def test_chromium_shows_the_cues_of_webvtt(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<video><track default></video>")
    found = page.evaluate(
        """content => new Promise((resolve, reject) => {
            const track = document.querySelector('track');
            track.onload = () => resolve([...track.track.cues].map(
                cue => [cue.startTime, cue.endTime, cue.getCueAsHTML().textContent]));
            track.onerror = () => reject(new Error('the track can not be read'));
            track.src = URL.createObjectURL(new Blob([content], {type: 'text/vtt'}));
            track.track.mode = 'hidden';
        })""",
        render(_description(ODD_TEXTS, "Title -->", "x\n\n00:00:00.000 --> 00:00:09.000\ny"), "vtt"),
    )
    page.close()
    expected = ["\n".join(plain_lines(text)) for text in ODD_TEXTS]
    assert found == [[i * 2.5, (i + 1) * 2.5, text] for i, text in enumerate(expected)]


_TEXTS = st.text(max_size=30) | st.text("ab1 \n<>-&;={}\\#:,.0", max_size=30) | st.sampled_from(ODD_TEXTS[:15])
_TIMES = st.integers(0, 20) | st.integers(0, 10**9)


@settings(deadline=None, max_examples=60)
@given(segments=st.lists(st.tuples(_TIMES, _TIMES, _TEXTS), max_size=8), title=_TEXTS)
def test_ffmpeg_reads_every_cue(segments: list[tuple[int, int, str]], title: str) -> None:
    numbered = [Segment(i, start, start + length, 1, text) for i, (start, length, text) in enumerate(segments)]
    description = VideoDescription("a.mp4", 1, tuple(numbered), title=title, summary=title)
    cues = cues_of(numbered)
    assert {cue.start_ms for cue in cues} == {start for start, length, text in segments if length and one_line(text)}
    for cue, following in itertools.pairwise(cues):
        assert cue.start_ms < cue.end_ms <= following.start_ms
    with tempfile.TemporaryDirectory() as folder:
        expected = [(cue.start_ms, cue.end_ms, "\n".join(cue.lines)) for cue in cues]
        if cues:
            assert subtitles(_written(Path(folder), description, "vtt")) == expected
            in_srt = [(start, end, _widened(text)) for start, end, text in expected]
            assert subtitles(_written(Path(folder), description, "srt")) == in_srt
        metadata, found = chapters(_written(Path(folder), description, "chapters"))
        assert [(start, end, text.rstrip(" ")) for start, end, text in found] == [
            (cue.start_ms, cue.end_ms, chapter_title(cue.lines[0])) for cue in cues
        ]
        assert metadata.get("title", "").rstrip(" ") == one_line(title)
