"""A service with files and batches, in a process of its own: its files and batches survive the death of a client.

    python -m tests.fake_batch_service ROOT

prints its URL. It has any number of separate accounts: `URL/NAME/v1` is the base URL of the one whose folder is
`ROOT/NAME/service`. There `config.json` is read again at every call, see `Config`, and `calls.jsonl` has a
line for every call that took effect. Use `serving` in tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

UPLOAD, CREATE, STATE, CONTENT, LIST = "upload", "create", "state", "content", "list"
BEFORE, AFTER = "before", "after"
MAX_UPLOAD = 300 * 10**6
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Config:
    """What the service does wrong.

    polls: calls for the state of a batch before it has ended.
    hang: (call, BEFORE or AFTER it takes effect): such calls are not answered, and `FOLDER/hangs` is created.
    fail: for a call, statuses of its next answers; the first is taken away at each. 200 is a page in HTML. 0 cuts the
        connection instead, after the call has taken effect; for CONTENT in the middle of the file.
    ends: how each batch ends, by its number from 0: `completed` if there is none.
    token_limit: a batch fails if more requests than this would be open.
    error_share: every n-th request has an error; 0 for none. unanswered: so many requests have no result at all.
    damaged: so many lines of an output file are damaged, in addition to the right ones.
    empty_first: every n-th question is answered with an empty text until it is asked once more.
    key: the only key that is accepted; empty for any.
    """

    polls: int = 1
    hang: tuple[str, str] | None = None
    fail: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    token_limit: int = 10**9
    error_share: int = 0
    unanswered: int = 0
    damaged: int = 0
    empty_first: int = 0
    key: str = ""


def answer_to(body: dict[str, Any]) -> str:
    """The right answer to a question; it depends on the question only, and not on earlier answers."""
    return "seen " + _digest(body["messages"][0]["content"])[:12]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class _Account:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def config(self) -> Config:
        return Config(**json.loads((self._folder / "config.json").read_text()))

    async def _before(self, request: web.Request, call: str) -> None:
        config = self.config
        if config.key and request.headers.get("authorization") != f"Bearer {config.key}":
            raise _error(401, "wrong key " + request.headers.get("authorization", ""))
        statuses = config.fail.get(call, [])
        if statuses and statuses[0]:
            self._used_status(call)
            raise _error(statuses[0], f"failing {call} on purpose")
        await self._hang(call, BEFORE)

    async def _after(self, request: web.Request, call: str, **what: object) -> None:
        with (self._folder / "calls.jsonl").open("a") as file:
            print(json.dumps({"call": call, **what}), file=file)
        await self._hang(call, AFTER)
        if self.config.fail.get(call, [1])[:1] == [0]:
            self._used_status(call)
            _cut(request)

    def _used_status(self, call: str) -> None:
        config = self.config
        config.fail[call] = config.fail[call][1:]
        (self._folder / "config.json").write_text(json.dumps(asdict(config)))

    async def _hang(self, call: str, when: str) -> None:
        hang = self.config.hang
        if hang is not None and tuple(hang) == (call, when):
            (self._folder / "hangs").touch()
            await asyncio.sleep(3600)

    def _batches(self) -> list[dict[str, Any]]:
        path = self._folder / "batches.json"
        return json.loads(path.read_text()) if path.exists() else []

    def _save(self, batches: list[dict[str, Any]]) -> None:
        (self._folder / "batches.json").write_text(json.dumps(batches))

    async def upload(self, request: web.Request) -> web.Response:
        await self._before(request, UPLOAD)
        form = await request.post()
        assert form["purpose"] == "batch"
        uploaded = form["file"]
        assert isinstance(uploaded, web.FileField)
        content = uploaded.file.read()
        file_id = f"file-{len(list((self._folder / 'files').iterdir()))}"
        (self._folder / "files" / file_id).write_bytes(content)
        await self._after(request, UPLOAD, id=file_id, bytes=len(content))
        about = {"bytes": len(content), "created_at": 1, "filename": uploaded.filename, "purpose": "batch"}
        return web.json_response({"id": file_id, "object": "file", "status": "processed", **about})

    async def create(self, request: web.Request) -> web.Response:
        await self._before(request, CREATE)
        wanted = await request.json()
        batches = self._batches()
        lines = (self._folder / "files" / wanted["input_file_id"]).read_bytes().splitlines()
        is_open = sum(batch["lines"] for batch in batches if batch["status"] in ("validating", "in_progress"))
        batch = {
            "id": f"batch-{len(batches)}",
            "object": "batch",
            "completion_window": wanted["completion_window"],
            "created_at": int(time.time()),
            "endpoint": wanted["endpoint"],
            "input_file_id": wanted["input_file_id"],
            "metadata": wanted["metadata"],
            "status": "validating",
            "polls": 0,
            "lines": len(lines),
            "over": is_open + len(lines) > self.config.token_limit,
        }
        self._save([*batches, batch])
        ids = [json.loads(line)["custom_id"] for line in lines]
        await self._after(request, CREATE, id=batch["id"], requests=ids, over=batch["over"])
        return web.json_response(batch)

    async def list(self, request: web.Request) -> web.Response:
        await self._before(request, LIST)
        await self._after(request, LIST)
        batches = self._batches()[::-1]
        after = request.query.get("after")
        if after:
            batches = batches[[batch["id"] for batch in batches].index(after) + 1 :]
        page = batches[:2]  # small, so that clients have to ask for the next one
        last = page[-1]["id"] if page else None
        has_more = len(batches) > len(page)
        return web.json_response({"object": "list", "data": page, "has_more": has_more, "last_id": last})

    async def state(self, request: web.Request) -> web.Response:
        await self._before(request, STATE)
        batches = self._batches()
        batch = next((batch for batch in batches if batch["id"] == request.match_info["id"]), None)
        if batch is None:
            raise _error(404, "no such batch")
        batch["polls"] += 1
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        if batch["polls"] > self.config.polls and batch["status"] == "in_progress":
            self._end(batch)
        self._save(batches)
        await self._after(request, STATE, id=batch["id"], status=batch["status"])
        return web.json_response(batch)

    def _end(self, batch: dict[str, Any]) -> None:
        config = self.config
        end = config.ends.get(batch["id"].split("-")[1], "completed")
        if batch["over"]:
            end = "failed:token_limit_exceeded"
        batch["status"], _, code = end.partition(":")
        if code:
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": f"because of {code}"}]}
            return
        lines = (self._folder / "files" / batch["input_file_id"]).read_bytes().splitlines()
        results: dict[str, list[str]] = {"output": [], "error": []}
        for number, line in enumerate(lines):
            request = json.loads(line)
            if number < config.unanswered:
                continue
            if end != "completed" and number % 2:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                record = {"custom_id": request["custom_id"], "response": None, "error": error}
                results["error"].append(json.dumps(record))
            elif config.error_share and int(_digest(request["body"]), 16) % config.error_share == 0:
                error = {"error": {"code": "invalid_image", "message": "bad\nimage\ud800"}}
                response = {"status_code": 400, "request_id": "r", "body": error}
                record = {"custom_id": request["custom_id"], "response": response, "error": None}
                results["error"].append(json.dumps(record))
            else:
                body = _completion(request["body"], config)
                response = {"status_code": 200, "request_id": "r", "body": body}
                record = {"custom_id": request["custom_id"], "response": response, "error": None}
                results["output"].append(json.dumps(record))
        results["output"] += ["{not json", "[]", '{"custom_id": "nobody-0"}', '{"custom_id": 3}'][: config.damaged]
        for kind, texts in results.items():
            random.Random(1).shuffle(texts)
            if texts:
                file_id = f"{batch['id']}-{kind}"
                (self._folder / "files" / file_id).write_text("\n".join(texts) + "\n")
                batch[f"{kind}_file_id"] = file_id

    async def content(self, request: web.Request) -> web.StreamResponse:
        await self._before(request, CONTENT)
        path = self._folder / "files" / request.match_info["id"]
        if not path.exists():
            raise _error(404, "no such file")
        content = path.read_bytes()
        if self.config.fail.get(CONTENT, [1])[:1] == [0]:
            self._used_status(CONTENT)
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            _cut(request)
            return response
        await self._after(request, CONTENT, id=path.name)
        return web.Response(body=content)


def _app(root: Path) -> web.Application:
    def of_account(handle: Callable[[_Account, web.Request], Awaitable[web.StreamResponse]]) -> Handler:
        async def handled(request: web.Request) -> web.StreamResponse:
            return await handle(_Account(root / request.match_info["account"] / "service"), request)

        return handled

    app = web.Application(client_max_size=MAX_UPLOAD)
    app.add_routes(
        [
            web.post("/{account}/v1/files", of_account(_Account.upload)),
            web.get("/{account}/v1/files/{id}/content", of_account(_Account.content)),
            web.post("/{account}/v1/batches", of_account(_Account.create)),
            web.get("/{account}/v1/batches", of_account(_Account.list)),
            web.get("/{account}/v1/batches/{id}", of_account(_Account.state)),
        ]
    )
    return app


def _completion(body: dict[str, Any], config: Config) -> dict[str, Any]:
    text = answer_to(body)
    is_first = len(body["messages"]) == 1
    if is_first and config.empty_first and int(_digest(body["messages"][0]), 16) % config.empty_first == 0:
        text = ""
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
    }


def _error(status: int, message: str) -> web.HTTPException:
    class Error(web.HTTPException):
        status_code = status

    if status == 200:
        return Error(text="<html>a page of a proxy</html>", content_type="text/html")
    return Error(text=json.dumps({"error": {"message": message}}), content_type="application/json")


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


@dataclass(frozen=True)
class FakeBatchService:
    """An account of the service from a test's side. url: its base URL. folder: other files may be beside it."""

    folder: Path
    url: str

    def configure(self, config: Config) -> None:
        (self.folder / "hangs").unlink(missing_ok=True)
        (self.folder / "config.json").write_text(json.dumps(asdict(config)))

    def wait_until_it_hangs(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not (self.folder / "hangs").exists():
            assert time.monotonic() < deadline, "the client has not made the call"
            time.sleep(0.01)

    def calls(self, call: str) -> list[dict[str, Any]]:
        """The calls of a kind that took effect."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if record["call"] == call]

    def uploaded(self, file_id: str) -> list[bytes]:
        """The lines of a file."""
        return (self.folder / "files" / file_id).read_bytes().splitlines()

    def paid(self) -> list[str]:
        """The custom ids of all requests of batches that the service accepted."""
        return [request for call in self.calls(CREATE) if not call["over"] for request in call["requests"]]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Callable[[], FakeBatchService]]:
    """A service in a process of its own; gives a function that makes a new account."""
    command = [sys.executable, "-m", "tests.fake_batch_service", str(root)]
    names = itertools.count()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the test service has not started"

        def new_account() -> FakeBatchService:
            name = str(next(names))
            folder = root / name / "service"
            (folder / "files").mkdir(parents=True)
            account = FakeBatchService(folder, f"{url}/{name}/v1")
            account.configure(Config())
            return account

        try:
            yield new_account
        finally:
            process.kill()


async def _main(root: Path) -> None:
    runner = web.AppRunner(_app(root), handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
