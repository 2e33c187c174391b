"""The gallery's page in headless Chromium: segments grouped by video, with a time bar."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from pipeline.captioning.meta.names import failures_path
from pipeline.captioning.monitor.gallery.entries import read_entries
from pipeline.captioning.monitor.gallery.filmstrips import Filmstrip
from pipeline.captioning.monitor.gallery.page import write_page
from tests.captioning.monitor.gallery.conftest import PHONE, Opener

LONG_VIDEO = 150
"""Segments of the second video: more than the page makes cards for at first."""
ROWS = [
    # path, start, end, caption
    ("clips/a b.mp4", 40, 100, "A red circle grows until it is <b>very</b> large, and then it becomes small again."),
    ("clips/a b.mp4", 0, 10, "A blue square moves."),
    ("clips/a b.mp4", 10, 40, ""),
    ("clips/w.mp4", "", "", "This is a file as a whole."),
    *(("clips/long.mp4", 4 * i, 4 * i + 4, f"Part {i} is of a long video.") for i in range(LONG_VIDEO)),
    ("clips/o.mp4", 0, 6, "One of two that overlap."),
    ("clips/o.mp4", 4, 10, "Two of two that overlap, in parts."),
    ("clips/o.mp4", 3600, 3601.5, "It is an hour later."),
]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segments")
    table, summaries = folder / "meta_caption.csv", folder / "summaries.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end", "text"), *ROWS])
    with failures_path(table).open("w", newline="") as file:
        header = ("row", "path", "start", "end", "column", "stage", "message")
        csv.writer(file).writerows([header, (2, ROWS[2][0], "10", "40", "text", "decode", "no frames in the range")])
    with summaries.open("w", newline="") as file:
        texts = [("clips/a b.mp4", "A circle & a <i>square</i>", "First a square moves. Then a circle grows.")]
        csv.writer(file).writerows([("path", "title", "summary"), *texts])
    entries = read_entries(table, [], 1000, 0, 5, summaries=summaries)
    picture = io.BytesIO()
    Image.new("RGB", (64, 18), "red").save(picture, "WEBP")
    strips = {entry.clip: Filmstrip(picture.getvalue(), 2, 32, 18) for entry in entries.entries if entry.row != 2}
    write_page(folder / "page.html", table, entries, strips, {}, {})
    return folder / "page.html"


def _parts(page: Page, video: int) -> Locator:
    return page.locator(".timebar").nth(video).locator(".part")


def _times(page: Page, count: int) -> list[str]:
    return page.locator(".card .time").all_inner_texts()[:count]


def test_each_video_is_a_block_with_its_segments_in_order_of_time(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    expect(page.locator("#summary")).to_have_text(f"{len(ROWS)} rows · {len(ROWS) - 1} captioned, 1 failed")
    head = page.locator("section.video").first
    assert head.locator("h2").inner_text() == "A circle & a <i>square</i>"
    assert head.locator(".about").inner_text() == "a b.mp4 · 3 segments"
    assert head.locator(".summary").inner_text() == "First a square moves. Then a circle grows."
    assert page.locator("section.video h2").nth(1).inner_text() == "long.mp4"
    expected = ["0:00.000 - 0:10.000", "0:10.000 - 0:40.000", "0:40.000 - 1:40.000", "0:00.000 - 0:04.000"]
    assert _times(page, 4) == expected
    about = page.locator(".card .about").all_inner_texts()[:5]
    assert [text.split(" · ")[0] for text in about] == ["row 1", "row 2", "row 0", "row 3", "row 4"]
    page.locator(".card").nth(2).click()
    expect(page.locator("#dialog-title")).to_have_text("row 0 · 0:40.000 - 1:40.000 · clips/a b.mp4")
    expect(page.locator("#facts a")).to_have_attribute("href", re.compile(r"a%20b\.mp4#t=40\.000,100\.000$"))


def test_the_parts_of_the_bar_are_as_wide_as_their_segments_are_long(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    bar = page.locator(".timebar").first.bounding_box()
    assert bar is not None and bar["width"] > 1000
    boxes = [part.bounding_box() for part in _parts(page, 0).all()]
    for box, (start, end) in zip(boxes, ((0, 10), (10, 40), (40, 100)), strict=True):
        assert box is not None
        assert box["x"] - bar["x"] == pytest.approx(bar["width"] * start / 100, abs=1)
        assert box["width"] == pytest.approx(bar["width"] * (end - start) / 100, abs=1)
        assert box["height"] == pytest.approx(bar["height"], abs=1)
    assert page.locator(".scale").first.inner_text().split() == ["0:00", "1:40.000"]
    titles = [part.get_attribute("title") for part in _parts(page, 0).all()]
    assert titles == [
        "0:00.000 - 0:10.000 · short · A blue square moves.",
        "0:10.000 - 0:40.000 · failed · no frames in the range",
        "0:40.000 - 1:40.000 · A red circle grows until it is <b>very</b> large, and then it …",
    ]
    colours = [part.evaluate("part => getComputedStyle(part).backgroundColor") for part in _parts(page, 0).all()]
    names = ("short", "failed")
    marks = [page.locator(f"#marks .{name}").evaluate("button => getComputedStyle(button).color") for name in names]
    assert colours[:2] == marks and len(set(colours)) == 3


def test_a_click_shows_the_segment(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    card = page.locator(".card", has_text="Part 120 is")
    assert card.count() == 0  # cards are added when the page is scrolled
    part = _parts(page, 1).nth(120)
    assert (part.get_attribute("title") or "").startswith("8:00.000 - 8:04.000 · Part 120 is")
    part.click()
    expect(card).to_be_focused()
    expect(card).to_be_in_viewport(ratio=0.9)


def test_the_bar_by_keyboard(page_path: Path, open_page: Opener) -> None:
    """One stop of the tab key for each bar; arrow keys within it do not move from card to card."""
    page = open_page(page_path)
    parts = _parts(page, 0)
    parts.first.focus()
    for key, focused in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowRight", 2),
        ("Home", 0),
        ("End", 2),
        ("ArrowLeft", 1),
    ):
        page.keyboard.press(key)
        expect(parts.nth(focused)).to_be_focused()
    assert [part.get_attribute("tabindex") for part in parts.all()] == ["-1", "0", "-1"]
    page.keyboard.press("Enter")
    expect(page.locator(".card").nth(1)).to_be_focused()
    expect(page.locator("#dialog")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".card").nth(3)).to_be_focused()  # the row of cards below is that of the next block
    page.keyboard.press("ArrowUp")
    expect(page.locator(".card").first).to_be_focused()


def test_filters_and_order(page_path: Path, open_page: Opener) -> None:
    """A block has the segments that match; the bar shows where they are."""
    page = open_page(page_path)
    page.fill("#search", "square moves blue")
    expect(page.locator(".card")).to_have_count(1)
    assert page.locator("section.video .about").all_inner_texts() == ["a b.mp4 · 1 of 3 segments"]
    assert [part.is_enabled() for part in _parts(page, 0).all()] == [True, False, False]
    page.fill("#search", "then a circle grows")  # words of the summary
    expect(page.locator(".card")).to_have_count(3)
    page.fill("#search", "")
    page.click("#marks [data-mark=failed]")
    expect(page.locator(".card")).to_have_count(1)
    _parts(page, 0).nth(1).click()
    expect(page.locator(".card")).to_be_focused()
    page.keyboard.press("0")
    page.click("#direction")
    assert _times(page, 3) == ["1:00:00.000 - 1:00:01.500", "0:04.000 - 0:10.000", "0:00.000 - 0:06.000"]
    page.click("#direction")
    page.select_option("#sort", label="words")  # the user's order, also within a block
    about = page.locator(".card .about").all_inner_texts()
    assert [text.split(" · ")[0] for text in about[:3]] == ["row 2", "row 1", "row 0"]


def test_overlapping_segments_are_both_visible(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    page.fill("#search", "o.mp4")
    expect(page.locator(".card")).to_have_count(3)
    one, two, three = (part.bounding_box() for part in _parts(page, 0).all())
    assert one is not None and two is not None and three is not None
    assert two["y"] >= one["y"] + one["height"] - 1 and three["y"] == one["y"]
    assert three["width"] >= 2  # although it is half a pixel long


def test_a_table_of_segments_only(tmp_path: Path, open_page: Opener) -> None:
    """Without pictures and with a segment that has no end: it ends with the video as far as that is known."""
    table = tmp_path / "meta_caption.csv"
    rows = [("a.mp4", 0, 4, "A dog."), ("a.mp4", 4, "", "A cat."), ("b.mp4", 2, "", "A bird."), ("a.mp4", 6, 8, "")]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end", "text"), *rows])
    write_page(tmp_path / "page.html", table, read_entries(table, [], 3, 1, 1), {}, {}, {})
    page = open_page(tmp_path / "page.html")
    expect(page.locator("#summary")).to_contain_text("3 rows of 2 videos, drawn at random from 4 · 3 captioned")
    assert "0:04.000 - end" in page.locator(".card .time").all_inner_texts()
    assert "a.mp4" in page.inner_text("main") and "2 of 3 segments" in page.inner_text("main")
    bar, last = page.locator(".timebar").first.bounding_box(), _parts(page, 0).last.bounding_box()
    assert bar is not None and last is not None
    assert last["x"] + last["width"] == pytest.approx(bar["x"] + bar["width"], abs=1)


def test_videos_of_one_name_are_told_apart(tmp_path: Path, open_page: Opener) -> None:
    table, summaries = tmp_path / "meta_caption.csv", tmp_path / "meta_caption_summary.csv"
    paths = ["/d/x/1/a.mp4", "/d/y/1/a.mp4", "/d/x/b.mp4", "/d/z/c.mp4", "z/c.mp4", "a.mp4"]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end", "text"), *((path, 0, 4, "A dog.") for path in paths)])
    with summaries.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "title"), (paths[0], "A title")])
    write_page(tmp_path / "page.html", table, read_entries(table, [], 9, 0, 1), {}, {}, {})
    page = open_page(tmp_path / "page.html")
    heads = page.locator("section.video h2").all_inner_texts()
    assert heads == ["A title", "y/1/a.mp4", "b.mp4", "d/z/c.mp4", "z/c.mp4", "a.mp4"]
    assert page.locator("section.video .about").first.inner_text() == "x/1/a.mp4 · 1 segment"


def test_the_bar_on_a_phone(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".timebar").first.bounding_box()
    assert box is not None and 340 < box["width"] <= 390
    _parts(page, 0).nth(2).tap()
    expect(page.locator(".card").nth(2)).to_be_in_viewport(ratio=0.5)
