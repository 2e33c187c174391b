"""The gallery's page in headless Chromium: the clips of the demo, 2,000 rows, and table cells that contain markup."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline.captioning.monitor.gallery import command as gallery
from pipeline.captioning.monitor.gallery.entries import read_entries
from pipeline.captioning.monitor.gallery.filmstrips import ClipKey, Filmstrip, FilmstripEncoder
from pipeline.captioning.monitor.gallery.page import write_page
from pipeline.captioning.monitor.gallery.pictured import PICTURES_BYTES
from scripts import launched
from tests.captioning.monitor.gallery.conftest import PHONE, Opener
from tests.fakes import render_clip

ROOT = Path(__file__).parents[4]
TINY = ROOT / "pretrained_models" / "pllava-tiny"
ROWS = 2000
MARKUP = [
    "<script>document.title = 'taken'</script>",
    "\"quotes\" 'single' & <img src=x onerror=\"document.title = 'taken'\">",
    "</script></body><h1>out</h1>",
    "${document.title} {title} \\u003cb\\u003e <!-- ]]>",
]


def _until(page: Page, expression: str) -> None:
    """Wait until the expression is true. Playwright's own wait is forbidden by the page's security policy."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def _cards(page: Page) -> int:
    """The number of cards on the page."""
    return page.locator(".card").count()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of eight rendered clips, captioned by the real command."""
    folder = tmp_path_factory.mktemp("demo")
    world = ["-m", "scripts.clip_world", str(folder / "clips"), "--clips", "8", "--seed", "2026"]
    subprocess.run([sys.executable, *world], cwd=ROOT, check=True)
    shutil.move(folder / "clips" / "meta.csv", folder / "meta.csv")
    command = launched.plain("--pretrained_model_name_or_path", str(TINY), "--bs", "8")
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    assert gallery.main([str(folder / "meta_caption.csv"), "--output", str(folder / "gallery.html")]) == 0
    return folder / "gallery.html"


def test_the_demo(demo: Path, open_page: Opener) -> None:
    table = pd.read_csv(demo.with_name("meta_caption.csv"))
    page = open_page(demo)
    expect(page.locator("#summary")).to_have_text("8 rows · 8 captioned, 0 failed")
    assert page.locator(".caption").all_inner_texts() == table["text"].tolist()
    for text in ("square", "red circle"):
        page.fill("#search", f'"{text}"')
        expected = table["text"].str.contains(text).sum()
        expect(page.locator("#summary")).to_contain_text(f"showing {expected} of 8 rows")
        assert _cards(page) == expected and {hit.lower() for hit in page.locator("mark").all_inner_texts()} == {text}
    page.fill("#search", "")
    page.select_option("#sort", label="words")
    page.click("#direction")
    page.reload()
    expect(page.locator("#sort")).to_have_value("3")
    counts = [text.count(" ") for text in page.locator(".caption").all_inner_texts()]
    assert counts == sorted(counts, reverse=True) and len(counts) == 8
    page.locator("#run summary").click()
    expect(page.locator("#run")).to_contain_text("pooling shape")


def test_thumbnails_show_the_frames_of_the_clip(demo: Path, open_page: Opener) -> None:
    """Each thumbnail shows its own part of a picture that the browser can decode."""
    page = open_page(demo)
    card = page.locator(".card").first
    expect(card.locator(".thumb .frame")).to_have_count(4)
    expect(card.locator(".thumb .frame").first).to_have_css("background-image", re.compile("blob:"))
    decoded = page.evaluate(
        """async () => {
            const box = document.querySelector(".card .screen .frame");
            const image = new Image();
            image.src = box.style.backgroundImage.slice(5, -2);
            await image.decode();
            return [image.naturalWidth, image.naturalHeight, box.clientWidth / box.clientHeight];
        }"""
    )
    width, height, ratio = decoded
    assert abs(width / 4 / height - ratio) < 0.05
    places = [box.evaluate("box => box.style.backgroundPosition") for box in card.locator(".thumb .frame").all()]
    assert len(set(places)) == 4
    before = card.locator(".screen .frame").get_attribute("data-frame")
    page.click("#play")
    _until(page, f"document.querySelector('.card .screen .frame').dataset.frame !== '{before}'")


def test_keys(demo: Path, open_page: Opener) -> None:
    page = open_page(demo)
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    title = page.locator("#dialog-title")
    expect(title).to_contain_text("row 1 ·")
    expect(page.locator("#facts")).to_contain_text("truth")
    expect(page.locator("#frames .frame")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    expect(title).to_contain_text("row 2 ·")
    page.keyboard.press("k")
    page.keyboard.press("k")
    expect(title).to_contain_text("row 0 ·")
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("nothing like it")
    expect(page.locator("#nothing")).to_be_visible()
    page.click("#reset")
    expect(page.locator(".card")).to_have_count(8)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


def test_markup_in_a_table_is_text(tmp_path: Path, open_page: Opener) -> None:
    clip = render_clip(tmp_path / "<b>'clip' & \"one\".mp4", 1)
    rows = [[str(clip), markup, markup] for markup in MARKUP] + [["javascript:alert(1)", "", MARKUP[0]]]
    pd.DataFrame(rows, columns=["path", "text", MARKUP[0]]).to_csv(tmp_path / "<i>t.csv", index=False)
    failure = [[4, rows[4][0], "decode", MARKUP[1]]]
    frame = pd.DataFrame(failure, columns=["row", "path", "stage", "message"])
    frame.to_csv(tmp_path / "<i>t_failures.csv", index=False)
    assert gallery.main([str(tmp_path / "<i>t.csv"), "--output", str(tmp_path / "page.html")]) == 0
    page = open_page(tmp_path / "page.html")
    assert page.title() == "<i>t.csv" == page.inner_text("h1")
    assert page.locator(".caption").all_text_contents() == [*MARKUP, MARKUP[1]]
    for selector in ("h1 i", "main h1", "img", "b", ".card script"):
        assert page.locator(selector).count() == 0, selector
    page.locator("#shown summary").click()
    page.locator("#shown input").check()
    expect(page.locator(".about").first).to_contain_text(f"{MARKUP[0]}: {MARKUP[0]}")
    page.locator(".card").first.click()
    assert page.locator("#facts dt").last.text_content() == MARKUP[0] == page.locator("#facts dd").last.text_content()
    assert page.locator("#facts a").get_attribute("href") == "./%3Cb%3E%27clip%27%20%26%20%22one%22.mp4"
    page.keyboard.press("End")
    page.keyboard.press("Escape")
    page.fill("#search", "<script>")
    expect(page.locator(".card")).to_have_count(1)
    assert page.title() == "<i>t.csv"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of 2,000 rows whose pictures have the largest total size allowed."""
    folder = tmp_path_factory.mktemp("large")
    rows = [[f"clips/{i:04}.mp4", _caption(i), str(i % 17), f"{'x' * 900} {i}"] for i in range(ROWS)]
    table = folder / "meta_caption.csv"
    pd.DataFrame(rows, columns=["path", "text", "score", "notes"]).to_csv(table, index=False)
    most_bytes = PICTURES_BYTES // ROWS
    noise = np.random.default_rng(0).integers(0, 256, (8, 4, 360, 640, 3), np.uint8)
    pictures = [FilmstripEncoder(most_bytes)([Image.fromarray(frame) for frame in clip]).tobytes() for clip in noise]
    strips: dict[ClipKey, Filmstrip] = {}
    for i, row in enumerate(rows):
        data = pictures[i % 8].ljust(most_bytes, b"\0")
        width, height = Image.open(io.BytesIO(data)).size
        strips[row[0], None] = Filmstrip(data, 4, width // 4, height)
    entries = read_entries(table, [], ROWS, 0, 5)
    write_page(folder / "gallery.html", table, entries, strips, {}, {})
    return folder / "gallery.html"


def _caption(row: int) -> str:
    if row % 100 == 3:
        return ""
    if row % 50 == 7:
        return "A dog runs over the meadow, and that is all."
    if row % 100 == 11:
        return f"On {row} and on and on and on and on and on and on."
    return f"Clip number {row} shows a {'red' if row % 2 else 'green'} thing that moves."


def test_two_thousand_rows(large: Path, open_page: Opener) -> None:
    assert 70 * 10**6 < large.stat().st_size < 100 * 10**6
    page = open_page(large)
    expect(page.locator("#summary")).to_have_text("2,000 rows · 1,980 captioned, 20 failed")
    assert _cards(page) < 300  # the others are added when the page is scrolled
    counts = {"failed": 20, "repeated": 40, "looping": 20, "short": 0, "unfinished": 0}
    for mark, count in counts.items():
        expect(page.locator(f"#marks [data-mark={mark}]")).to_have_text(f"{mark} {count}")
    page.click("#marks [data-mark=repeated]")
    expect(page.locator(".card")).to_have_count(40)
    assert set(page.locator(".badge").all_inner_texts()) == {"40 times"}
    page.click("#marks [data-mark=looping]")  # rows with either mark
    expect(page.locator(".card")).to_have_count(60)
    page.keyboard.press("0")
    page.select_option("#column", label="score")
    page.select_option("#operator", label="at least")
    page.fill("#value", "16")
    expected = sum(i % 17 == 16 for i in range(ROWS))
    expect(page.locator("#summary")).to_contain_text(f"showing {expected} of 2,000 rows")
    page.fill("#search", "GREEN")
    greens = sum(i % 17 == 16 and "green" in _caption(i) for i in range(ROWS))
    expect(page.locator("#summary")).to_contain_text(f"showing {greens} of 2,000 rows")
    page.reload()  # the filters are in the address
    expect(page.locator("#summary")).to_contain_text(f"showing {greens} of 2,000 rows")
    page.fill("#search", "")
    page.fill("#value", "")
    page.select_option("#sort", label="score")
    page.click("#direction")
    expect(page.locator(".about").first).to_contain_text("row 16 ")


def test_pictures_are_decoded_when_they_come_into_view(large: Path, open_page: Opener) -> None:
    page = open_page(large)
    painted = "[...document.querySelectorAll('.screen .frame')].filter(box => box.style.backgroundImage).length"
    _until(page, f"{painted} > 0")
    assert page.evaluate(painted) < 60
    assert page.evaluate("document.querySelectorAll('script.strip').length") > ROWS - 60
    for shown in range(60, 420, 60):
        page.mouse.wheel(0, 30_000)
        _until(page, f"document.querySelectorAll('.card').length > {shown}")
    _until(
        page,
        "[...document.querySelectorAll('.card')].filter(card => card.inView).every(card => card.painted)",
    )
    assert page.evaluate("document.querySelectorAll('script.strip').length") > ROWS / 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_light_and_dark(demo: Path, open_page: Opener, scheme: str) -> None:
    page = open_page(demo, color_scheme=scheme, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    brightness = "element => getComputedStyle(element).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (page.locator(".card").first.evaluate(brightness) > 128) == (scheme == "light")
    page.click("#theme")
    assert (page.locator(".card").first.evaluate(brightness) > 128) != (scheme == "light")
    page.locator(".card").nth(2).tap()
    expect(page.locator("#dialog-title")).to_contain_text("row 2 ·")
    assert page.locator("#dialog").bounding_box()["width"] <= 390  # type: ignore[index]
    page.tap("#next")
    expect(page.locator("#dialog-title")).to_contain_text("row 3 ·")


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a long name, long columns, and paths of 5,000 characters, some without places for a line break."""
    folder = tmp_path_factory.mktemp("long")
    table = folder / f"{'long_name' * 24}.csv"
    paths = ["short.mp4", "/data/" + "p" * 4994, "x/" * 2497 + "a b.mp4", "w " * 2500]
    rows = [[path, "A dog runs over the meadow.", "n" * 900] for path in paths]
    pd.DataFrame(rows, columns=["path", "text", "notes"]).to_csv(table, index=False)
    write_page(folder / "page.html", table, read_entries(table, [], 10, 0, 5), {}, {}, {})
    return folder / "page.html"


@pytest.mark.parametrize("screen", [PHONE, {}], ids=["phone", "desktop"])
def test_long_paths_do_not_stretch_the_page(long_names: Path, open_page: Opener, screen: dict) -> None:
    page = open_page(long_names, **screen)
    width, height = page.viewport_size["width"], page.viewport_size["height"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = [card.bounding_box()["height"] for card in page.locator(".card").all()]  # type: ignore[index]
    assert len(heights) == 4 and max(heights) < heights[0] + 50 < height / 2
    assert page.locator("header").bounding_box()["height"] < 120  # type: ignore[index]
    assert len(page.locator("h1").get_attribute("title") or "") > 200  # the tooltip has the full name
    page.locator(".card").nth(1).click()
    assert page.locator("#dialog .bar").bounding_box()["height"] < 80  # type: ignore[index]
    assert page.locator("#close").bounding_box()["y"] < height / 4  # type: ignore[index]
    assert "p" * 4994 in page.inner_text("#facts")
    page.click("#close")
    page.evaluate("document.querySelector('#shown input').click()")
    expect(page.locator(".about").first).to_contain_text("notes: nnn")
    heights = [card.bounding_box()["height"] for card in page.locator(".card").all()]  # type: ignore[index]
    assert max(heights) < height / 2


def test_the_header_can_be_folded_on_a_phone(demo: Path, open_page: Opener) -> None:
    page = open_page(demo, **PHONE)
    assert page.locator(".card").first.bounding_box()["y"] < 200  # type: ignore[index]
    expect(page.locator("#sort")).to_be_hidden()
    expect(page.locator("#search")).to_be_visible()
    page.tap("#fold")
    expect(page.locator("#fold")).to_have_attribute("aria-expanded", "true")
    page.select_option("#sort", label="words")
    page.reload()  # the header stays open if the order is not the default
    expect(page.locator("#sort")).to_be_visible()
    page.tap("#fold")
    expect(page.locator("#sort")).to_be_hidden()
    wide = open_page(demo)
    expect(wide.locator("#fold")).to_be_hidden()
    expect(wide.locator("#sort")).to_be_visible()
