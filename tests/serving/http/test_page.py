"""The page in headless Chromium, against a stub of `POST /caption` whose answers the test releases piece by piece."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import pipeline.serving.http
from tests.captioning.monitor.gallery.conftest import PHONE, browser
from tests.client.stub_server import refusal, serving

__all__ = ["browser"]  # a fixture

FOLDER = Path(pipeline.serving.http.__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PIECES = ["A red ", "square, ", 'called "it", moves\n', "to the <b>left</b>."]
CAPTION = "".join(PIECES)


class WithPolicy:
    """Adds the content security policy to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        await self.app(scope, receive, with_header)


@dataclass
class Stub:
    """The server. Answers to files whose name is in `held` stop after the first piece until `release`.

    refusals: responses to the next requests about a file, by its name. key: that is asked for; empty for none.
    """

    key: str = ""
    held: set[str] = field(default_factory=set)
    refusals: dict[str, list[Response]] = field(default_factory=lambda: defaultdict(list))
    asked: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        routes = [
            Route("/", lambda request: FileResponse(FOLDER / "index.html")),
            Route("/v1/models", self._models),
            Route("/caption", self._caption, methods=["POST"]),
            Mount("/page", StaticFiles(directory=FOLDER)),
        ]
        return Starlette(routes=routes, middleware=[Middleware(WithPolicy)])

    def release(self, *names: str) -> None:
        self.held -= set(names)

    async def _models(self, request: Request) -> Response:
        return self._without_key(request) or JSONResponse({"data": [{"id": "pllava-tiny"}]})

    def _without_key(self, request: Request) -> Response | None:
        is_right = not self.key or request.headers.get("authorization") == f"Bearer {self.key}"
        return None if is_right else refusal(401, "wrong key")

    async def _caption(self, request: Request) -> Response:
        form: FormData = await request.form()
        name = form["file"].filename or ""  # type: ignore[union-attr]
        refused = self._without_key(request)
        if refused is None and self.refusals[name]:
            refused = self.refusals[name].pop(0)
        if refused is not None:
            return refused
        data = await form["file"].read()  # type: ignore[union-attr]
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        self.asked.append({"name": name, "bytes": str(len(data)), **fields})
        return StreamingResponse(self._events(name), media_type="text/event-stream")

    async def _events(self, name: str) -> AsyncIterator[str]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield ": heartbeat\n\n"
            for piece in PIECES:
                event = f"data: {json.dumps({'text': piece})}\r\n\r\n"
                yield event[:9]  # an event may arrive in parts
                yield event[9:]
                while name in self.held:
                    await asyncio.sleep(0.01)
            if name.startswith("broken"):
                yield f"data: {json.dumps({'error': {'message': 'the model failed'}})}\n\n"
            elif not name.startswith("lost"):
                usage = {"prompt_tokens": 80, "completion_tokens": 12, "total_tokens": 92}
                final = {"file": name, "caption": CAPTION, "finish_reason": "stop", "usage": usage}
                yield f"data: {json.dumps(final)}\n\n"
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.in_flight -= 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip.webm` and `still.png`."""
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
def page(stub: Stub, browser: Browser) -> Iterator[Page]:
    """The page. At the end it must have logged no error but refused requests, and fetched nothing from elsewhere."""
    troubles: list[str] = []
    with serving(stub.app()) as url:
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
    assert [trouble for trouble in troubles if not re.search("status of (401|413|503)", trouble)] == []


def _is_foreign(url: str, own: str) -> bool:
    return not url.startswith((f"{own}/", f"blob:{own}/"))


def _card(page: Page, name: str) -> Any:
    return page.locator(".card").filter(has=page.locator(".name", has_text=re.compile(f"^{re.escape(name)}$")))


def _picture(name: str) -> Any:
    """A file for `set_input_files`."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def test_a_caption_appears_while_it_is_generated(stub: Stub, page: Page, files: Path) -> None:
    expect(page.locator("#model")).to_have_text("pllava-tiny")
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
    asked = {item["name"]: item for item in stub.asked}
    size = str((files / "clip.webm").stat().st_size)
    assert asked["clip.webm"] == {"name": "clip.webm", "bytes": size, "question": "What moves?", "stream": "true"}
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
    stub.refusals["large.png"] = [refusal(413, "the file is larger than 1 MiB")]
    page.set_input_files("#files", [_picture(name) for name in ("large.png", "broken.png", "lost.png")])
    expect(page.locator("#summary")).to_have_text("0 of 3 captioned · 3 failed")
    expect(_card(page, "large.png").locator(".message")).to_have_text("the file is larger than 1 MiB")
    expect(_card(page, "broken.png").locator(".message")).to_have_text("the model failed")
    expect(_card(page, "lost.png").locator(".message")).to_contain_text("before the caption was complete")
    expect(page.locator("#download")).to_be_disabled()
    _card(page, "large.png").get_by_role("button", name="Ask again").click()
    expect(page.locator("#summary")).to_have_text("1 of 3 captioned · 2 failed")
    page.click("#again")
    expect(page.locator("#summary")).to_have_text("1 of 3 captioned · 2 failed")
    assert [item["name"] for item in stub.asked].count("broken.png") == 2
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


def test_a_full_server_is_asked_again_after_the_time_that_it_names(stub: Stub, page: Page) -> None:
    stub.refusals["a.png"] = [refusal(503, "the queue is full", **{"Retry-After": "1"})]
    stub.refusals["b.png"] = [refusal(503, "the queue is full", **{"Retry-After": "100"})]
    page.set_input_files("#files", [_picture("a.png"), _picture("b.png")])
    expect(_card(page, "a.png")).to_have_attribute("data-state", "done")
    expect(_card(page, "b.png").locator(".about")).to_have_text("the server is busy; next try in 100 s")
    _card(page, "b.png").get_by_role("button", name="Cancel").click()
    expect(page.locator("#summary")).to_have_text("1 of 1 captioned")


class TestWithKey:
    @pytest.fixture
    def stub(self) -> Stub:
        return Stub(key="right")

    def test_the_key_is_asked_for_and_kept_in_memory_only(self, stub: Stub, page: Page) -> None:
        expect(page.locator("#key")).to_be_focused()
        page.set_input_files("#files", [_picture("a.png")])
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-label")).to_have_text("The server does not accept this key.")
        assert stub.asked == []
        page.fill("#key", "right")
        page.keyboard.press("Enter")
        expect(_card(page, "a.png")).to_have_attribute("data-state", "done")
        expect(page.locator("#model")).to_have_text("pllava-tiny")
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
    assert [item["bytes"] for item in stub.asked] == [str(len("no picture"))]


def test_the_page_by_keyboard_and_on_a_phone(stub: Stub, browser: Browser) -> None:
    with serving(stub.app()) as url:
        page = browser.new_page(**PHONE)
        page.goto(url)
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
