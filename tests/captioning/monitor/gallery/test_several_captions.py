"""The gallery's page in headless Chromium: several captions for each clip, still images and videos in one table."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from pipeline.captioning.meta.names import failures_path
from pipeline.captioning.monitor.gallery import command as gallery
from tests.captioning.monitor.gallery.conftest import PHONE, Opener
from tests.fakes import render_clip

SHORT = ["A square moves.", "A square moves.", "", "It is red and"]
LONG = ["A blue square moves to the left.", "", "", "The whole picture is of a plain red colour."]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, a missing file and a still image; two captions for each."""
    folder = tmp_path_factory.mktemp("several")
    paths = [str(render_clip(folder / f"{i}.mp4", i)) for i in range(2)] + ["/nowhere.mp4", str(folder / "red.png")]
    Image.new("RGB", (64, 48), "red").save(paths[3])
    table = folder / "meta_caption.csv"
    cells = {"path": paths, "text": ["earlier words"] * 4, "words (short)": range(4), "short": SHORT, "long": LONG}
    pd.DataFrame(cells).to_csv(table, index=False)
    failures = [[1, paths[1], "long", "prompt", "the prompt is too long"]]
    failures += [[2, paths[2], column, "path", "no such file"] for column in ("short", "long")]
    with failures_path(table).open("w", newline="") as file:
        csv.writer(file).writerows([["row", "path", "column", "stage", "message"], *failures])
    flags = ["--column", "short", "--column", "long", "--output", str(folder / "page.html"), "--short_words", "3"]
    assert gallery.main([str(table), *flags]) == 0
    return folder / "page.html"


def test_each_caption_has_its_name_marks_and_failure(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    expect(page.locator("#summary")).to_have_text("4 rows · short: 3 captioned, 1 failed; long: 2 captioned, 2 failed")
    cards = page.locator(".card")
    assert cards.nth(0).locator("h3").all_inner_texts() == ["short", "long"]
    assert cards.nth(0).locator(".caption").all_inner_texts() == [SHORT[0], LONG[0]]
    assert cards.nth(1).locator(".caption").all_inner_texts() == [SHORT[1], "the prompt is too long"]
    assert cards.nth(1).locator(".badge").all_inner_texts() == ["2 times", "failed at prompt"]
    assert cards.nth(2).locator(".badge").all_inner_texts() == ["failed at path"] * 2
    assert cards.nth(3).locator(".badge").all_inner_texts() == ["unfinished"]
    assert [cards.nth(i).locator(".thumb").count() for i in range(4)] == [4, 4, 0, 0]  # one frame of the still image
    expect(cards.nth(3).locator(".screen .frame")).to_have_count(1)


def test_a_row_is_found_by_any_of_its_captions(page_path: Path, open_page: Opener) -> None:
    page = open_page(page_path)
    rows = page.locator(".card .about")
    for mark, found in (("failed", [1, 2]), ("repeated", [0, 1]), ("unfinished", [3])):
        button = page.locator(f"#marks [data-mark={mark}]")
        expect(button).to_have_text(f"{mark} {len(found)}")
        button.click()
        expect(rows).to_have_text([re.compile(f"^row {row} ") for row in found])
        page.keyboard.press("0")
    for words, found in (("left", [0]), ("plain", [3]), ("square left", [0]), ('"too long"', [1]), ("earlier", [])):
        page.fill("#search", words)
        expect(rows).to_have_text([re.compile(f"^row {row} ") for row in found])


def test_columns_of_captions_are_fields(page_path: Path, open_page: Opener) -> None:
    """They sort and filter; an ordinary column with the name of such a field stays another field."""
    page = open_page(page_path)
    names = page.locator("#sort option").all_inner_texts()
    assert names[2:6] == ["short", "words (short)", "times repeated (short)", "failed at (short)"]
    assert names[-2:] == ["text", "words (short) (column)"]
    page.select_option("#sort", label="words (long)")
    page.click("#direction")
    page.reload()
    about = page.locator(".card .about")
    assert [text.split(" · ")[0] for text in about.all_inner_texts()] == ["row 3", "row 0", "row 1", "row 2"]
    page.select_option("#column", label="failed at (long)")
    page.select_option("#operator", label="is")
    page.fill("#value", "prompt")
    expect(page.locator(".card")).to_have_count(1)


@pytest.mark.parametrize("screen", [PHONE, {}], ids=["phone", "desktop"])
def test_the_dialog_shows_all_captions(page_path: Path, open_page: Opener, screen: dict) -> None:
    page = open_page(page_path, **screen)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    page.locator(".card").nth(1).click()
    captions = page.locator("#dialog-captions")
    assert captions.locator("h3").all_inner_texts() == ["short", "long"]
    assert captions.locator(".full").all_inner_texts() == [SHORT[1], "the prompt is too long"]
    assert captions.locator(".badge").all_inner_texts() == ["2 times", "failed at prompt"]
    facts = page.locator("#facts")
    expect(facts).to_contain_text("words (long)")
    expect(facts).to_contain_text("earlier words")
    page.click("#next")
    expect(captions.locator(".badge")).to_have_count(2)
