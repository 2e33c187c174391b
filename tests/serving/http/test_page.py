"""The page in headless Chromium, in front of the application with answers that the test releases piece by piece."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from pipeline.serving.messages import Answer, Ask, Done, Failed, FinishReason, Problem, Text
from pipeline.serving.questions import QueueFull
from pipeline.serving.settings import RequestLimits
from tests.captioning.monitor.gallery.conftest import PHONE, browser
from tests.serving.http.running import MODEL, FakeAnswering, running

__all__ = ["browser"]  # a fixture

PIECES = ["A red ", "square, ", 'called "it", moves\n', "to the <b>left</b>."]
CAPTION = "".join(PIECES)
KEY = "right"
MARK = b"-- the name of this file is "


@dataclass
class ScriptedQuestion:
    """Answers piece by piece. A file's name, which is at its end, says what becomes of it."""

    ask: Ask
    name: str
    stub: Stub

    async def answers(self) -> AsyncIterator[Answer]:
        failures = self.stub.failures[self.name]
        if failures:
            yield Failed(self.ask.id, *failures.pop(0))
            return
        begin = 0
        for piece in PIECES:
            yield Text(self.ask.id, begin, piece)
            begin += len(piece)
            while self.name in self.stub.held:
                await asyncio.sleep(0.01)
        if self.name.startswith("broken"):
            yield Failed(self.ask.id, Problem.MODEL, "the model failed")
        else:
            self.stub.open.discard(self.ask.id)
            yield Done(self.ask.id, CAPTION, FinishReason.STOP, 80, 12)

    def cancel(self) -> None:
        if self.ask.id in self.stub.open and self.name in self.stub.held:
            self.stub.cancelled.append(self.name)
        self.stub.open.discard(self.ask.id)


class Stub(FakeAnswering):
    """The answers of the server. Those to files whose name is in `held` stop after the first piece until `release`.

    refusals: of the next questions about a file, by its name; `failures`: their problems and messages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.refusals: dict[str, list[QueueFull]] = defaultdict(list)
        self.failures: dict[str, list[tuple[Problem, str]]] = defaultdict(list)
        self.seen: list[tuple[str, int, Ask]] = []
        self.open: set[int] = set()
        self.most_in_flight = 0
        self.cancelled: list[str] = []

    def release(self, *names: str) -> None:
        self.held -= set(names)

    def ask(self, question: Ask) -> Any:
        data = Path(question.media[0]).read_bytes()
        name = data.rpartition(MARK)[2].decode() if MARK in data else ""
        if self.refusals[name]:
            raise self.refusals[name].pop(0)
        self.seen.append((name, len(data), question))
        self.open.add(question.id)
        self.most_in_flight = max(self.most_in_flight, len(self.open))
        return ScriptedQuestion(question, name, self)


class LosesConnections:
    """Cuts the connection within the answers to files whose name begins with `lost`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_lost = is_cut = False

        async def watched_receive() -> Any:
            nonlocal is_lost
            message = await receive()
            is_lost = is_lost or MARK + b"lost" in message.get("body", b"")
            return message

        async def cutting_send(message: Any) -> None:
            nonlocal is_cut
            is_cut = is_cut or (is_lost and b'"caption"' in message.get("body", b""))
            if is_cut:
                raise ConnectionError("cut by the test")
            await send(message)

        await self.app(scope, watched_receive, cutting_send)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.webm` and `still.png`, with their names behind their content."""
    folder = tmp_path_factory.mktemp("files")
    Image.new("RGB", (320, 240), (200, 60, 40)).save(folder / "still.png")
    with av.open(str(folder / "clip.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for t in range(8):
            picture = np.full((96, 160, 3), 60, np.uint8)
            picture[30:60, 10 * t : 10 * t + 30] = (220, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + MARK + path.name.encode())
    return folder


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A busy machine may take long."""
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)  # Playwright's default


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def key() -> str:
    return ""


@pytest.fixture
def page(stub: Stub, browser: Browser, key: str) -> Iterator[Page]:
    """The page. At the end it must have logged no error but refused requests, and fetched nothing from elsewhere."""
    troubles: list[str] = []
    limits = RequestLimits(body_bytes=2**20)
    with running(limits, api_key=key, answering=stub, around=LosesConnections) as server:
        url = server.url
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda request: troubles.append(request.url) if _is_foreign(request.url, url) else None)
        page.goto(url)
        yield page
        stub.held.clear()
        context.close()
    expected = re.compile(r"status of (401|413|503)|net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    assert [trouble for trouble in troubles if not expected.search(trouble)] == []


def _is_foreign(url: str, own: str) -> bool:
    return not url.startswith((f"{own}/", f"blob:{own}/"))


def _card(page: Page, name: str) -> Any:
    return page.locator(".card").filter(has=page.locator(".name", has_text=re.compile(f"^{re.escape(name)}$")))


def _picture(name: str) -> Any:
    """A file for `set_input_files`, with its name behind its content."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(data, "PNG")
    size = 2**21 if name.startswith("large") else 0
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue() + bytes(size) + MARK + name.encode()}


def test_a_caption_appears_while_it_is_generated(stub: Stub, page: Page, files: Path) -> None:
    expect(page.locator("#model")).to_have_text(MODEL.name)
    stub.held = {"clip.webm"}
    page.fill("#question", " What moves? ")
    page.set_input_files("#files", [files / "clip.webm", files / "still.png"])
    clip, still = _card(page, "clip.webm"), _card(page, "still.png")
    expect(still.locator(".caption")).to_have_text(CAPTION)  # the text with its markup, as text
    expect(clip.locator(".caption")).to_have_text(PIECES[0].strip())
    expect(clip).to_have_attribute("data-state", "captioning")
    expect(page.locator("#summary")).to_have_text("1 of 2 captioned · 1 in work, 0 waiting")
    stub.release("clip.webm")
    expect(clip.locator(".caption")).to_have_text(CAPTION)
    expect(clip.locator(".about")).to_contain_text("12 tokens")
    assert page.locator(".card b").count() == 0
    asked = {name: (size, ask.question, ask.streams) for name, size, ask in stub.seen}
    assert asked["clip.webm"] == ((files / "clip.webm").stat().st_size, "What moves?", True)
    # Both previews show their file.
    assert still.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    video = clip.locator("video")
    video.evaluate("video => video.readyState || new Promise(done => video.onloadedmetadata = done)")
    assert video.evaluate("video => [video.videoWidth, video.controls]") == [160, False]
    video.focus()
    assert video.evaluate("video => video.controls")  # by keyboard, too


def test_the_table_of_all_captions_and_copying(stub: Stub, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", [_picture('a "b", c.png'), _picture("broken.png"), _picture("d.png")])
    expect(page.locator("#summary")).to_have_text("2 of 3 captioned · 1 failed")
    with page.expect_download() as downloading:
        page.click("#download")
    assert downloading.value.suggested_filename == "captions.csv"
    data = Path(downloading.value.path()).read_bytes()
    assert data.startswith(b"file,text\r\n") and data.count(b"\r\n") == data.count(b"\n") == 3
    text = CAPTION.replace("\n", " ")
    assert list(csv.reader(io.StringIO(data.decode(), newline="")))[1:] == [['a "b", c.png', text], ["d.png", text]]
    _card(page, "d.png").locator(".copy").click()
    expect(_card(page, "d.png").locator(".copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == CAPTION


def test_four_are_in_flight_and_a_removed_one_is_cancelled(stub: Stub, page: Page) -> None:
    names = [f"{number}.png" for number in range(6)]
    stub.held = set(names)
    page.set_input_files("#files", [_picture(name) for name in names])
    expect(page.locator('[data-state="captioning"]')).to_have_count(4)
    expect(page.locator("#summary")).to_have_text("0 of 6 captioned · 4 in work, 2 waiting")
    _card(page, "1.png").get_by_role("button", name="Cancel 1.png").click()
    expect(page.locator(".card")).to_have_count(5)
    expect(_card(page, "4.png")).to_have_attribute("data-state", "captioning")
    expect(_card(page, "5.png")).to_have_attribute("data-state", "waiting")
    stub.release(*names)
    expect(page.locator("#summary")).to_have_text("5 of 5 captioned")
    assert stub.cancelled == ["1.png"] and stub.most_in_flight <= 5  # the cancelled one may end a little later


def test_failures_and_asking_again(stub: Stub, page: Page) -> None:
    stub.failures["killer.png"] = [(Problem.DEVICE, "the device process died twice")]
    names = ("large.png", "broken.png", "lost.png", "killer.png")
    page.set_input_files("#files", [_picture(name) for name in names])
    expect(page.locator("#summary")).to_have_text("0 of 4 captioned · 4 failed")
    expect(_card(page, "large.png").locator(".message")).to_contain_text("the server takes at most 1048576")
    expect(_card(page, "killer.png").locator(".message")).to_have_text("the device process died twice")
    expect(_card(page, "broken.png").locator(".message")).to_have_text("the model failed")
    expect(_card(page, "lost.png").locator(".message")).to_contain_text("before the caption was complete")
    expect(page.locator("#download")).to_be_disabled()
    assert [name for name, *_ in stub.seen].count("killer.png") == 1
    _card(page, "killer.png").get_by_role("button", name="Ask again").click()
    expect(page.locator("#summary")).to_have_text("1 of 4 captioned · 3 failed")
    page.click("#again")
    expect(page.locator("#summary")).to_have_text("1 of 4 captioned · 3 failed")
    assert [name for name, *_ in stub.seen].count("broken.png") == 2
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


def test_a_full_server_is_asked_again_after_the_time_that_it_names(stub: Stub, page: Page) -> None:
    stub.refusals["a.png"] = [QueueFull("the queue is full", 1)]
    stub.refusals["b.png"] = [QueueFull("the queue is full", 100)]
    page.set_input_files("#files", [_picture("a.png"), _picture("b.png")])
    expect(_card(page, "a.png")).to_have_attribute("data-state", "done")
    expect(_card(page, "b.png").locator(".about")).to_have_text("the server is busy; next try in 100 s")
    _card(page, "b.png").get_by_role("button", name="Cancel").click()
    expect(page.locator("#summary")).to_have_text("1 of 1 captioned")


class TestWithKey:
    @pytest.fixture
    def key(self) -> str:
        return KEY

    def test_the_key_is_asked_for_and_kept_in_memory_only(self, stub: Stub, page: Page) -> None:
        expect(page.locator("#key")).to_be_focused()
        page.set_input_files("#files", [_picture("a.png")])
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-label")).to_have_text("The server does not accept this key.")
        assert stub.seen == []
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(_card(page, "a.png")).to_have_attribute("data-state", "done")
        expect(page.locator("#model")).to_have_text(MODEL.name)
        expect(page.locator("#key-form")).to_be_hidden()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        page.reload()
        expect(page.locator("#key")).to_have_value("")


def test_files_are_dropped(stub: Stub, page: Page) -> None:
    transfer = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["no picture"], "strange.bin"));
            transfer.items.add("a text", "text/plain");
            return transfer;
        }"""
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("body")).to_have_class("dragging")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(_card(page, "strange.bin")).to_have_attribute("data-state", "done")
    expect(page.locator(".screen .none")).to_contain_text("can't show the file")
    expect(page.locator("body")).not_to_have_class("dragging")
    assert [size for _, size, _ in stub.seen] == [len("no picture")]


def test_the_page_by_keyboard_and_on_a_phone(stub: Stub, browser: Browser) -> None:
    with running(answering=stub) as server:
        page = browser.new_page(**PHONE)
        page.goto(server.url)
        # Without the dialog of the system, which headless Chromium does not always open on a busy machine.
        page.locator("#files").evaluate(
            """input => input.addEventListener("click", (event) => {
                event.preventDefault();
                input.dataset.opened = "yes";
            })"""
        )
        page.locator("#choose").press("Enter")
        expect(page.locator("#files")).to_have_attribute("data-opened", "yes")
        page.set_input_files("#files", [_picture("a" * 80 + ".png")])
        expect(page.locator("#summary")).to_have_text("1 of 1 captioned")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()
