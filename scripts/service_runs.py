"""Starts the test service and the command that captions through it, and reads what the service has logged.

For tests and scripts. Knows nothing about what goes wrong in the service: see `tests/service_faults.py`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.coded_clips import code_of, render_coded_clip

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ROOT / "pipeline" / "captioning" / "caption_api.py"
OUTPUT, FAILURES, REPORT = "meta_caption.csv", "meta_caption_failures.csv", "meta_caption_report.json"
KEY_VARIABLE = "SERVICE_TEST_KEY"
FRAMES_FLAGS = ("--sampling", "points", "--num_frames", "2", "--decode_workers", "1")
SHOWN = (2, 6)
"""The frames that FRAMES_FLAGS sample from a clip of eight."""
start: Any = subprocess.Popen
"""Starts the command; tests replace it by one that forks, because imports take most of a short run."""


@dataclass(frozen=True)
class Row:
    """A row of a table: which coded clip, and what is asked about it."""

    clip: int
    question: str

    @property
    def codes(self) -> list[int]:
        """What the sampled frames show."""
        return [code_of(self.clip, frame) for frame in SHOWN]


def make_table(folder: Path, rows: int, clips: int) -> list[Row]:
    """Write `meta.csv` with the columns `path` and `ask`, and its clips; each row has another clip or question."""
    (folder / "clips").mkdir(parents=True)
    for clip in range(clips):
        render_coded_clip(folder / "clips" / f"{clip}.mp4", clip)
    table = [Row(number % clips, f"What is number {number // clips}?") for number in range(rows)]
    write_table(folder / "meta.csv", [(f"clips/{row.clip}.mp4", row.question) for row in table])
    return table


def write_table(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write a table with the columns `path` and `ask`. Paths are relative to its folder."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "ask"])
        writer.writerows((str(path.parent / clip), ask) for clip, ask in rows)


@dataclass(frozen=True)
class Log:
    """What the service was asked.

    requests: the lines of its log, in order; of answers that were not delivered, the status is `undelivered`.
    """

    requests: Sequence[Mapping[str, Any]]

    def by_status(self) -> Counter[str]:
        """Number of requests of each status."""
        return Counter(request["status"] for request in self.requests)

    def answered(self) -> list[Mapping[str, Any]]:
        """The requests whose answers were delivered."""
        return [request for request in self.requests if request["status"] == "answered"]

    def answered_twice(self) -> int:
        """Answers to questions that had been answered before."""
        return _repeated(self.answered())

    def paid_twice(self) -> int:
        """As `answered_twice`, with answers that the client did not wait for: a service may charge for them."""
        return _repeated([one for one in self.requests if one["status"] in ("answered", "undelivered", "gone")])


def _repeated(requests: Sequence[Mapping[str, Any]]) -> int:
    asked = Counter((request["key"], request["attempt"]) for request in requests if "key" in request)
    return asked.total() - len(asked)


@dataclass
class RunningService:
    """A test service. url: its base URL. log_path: its log."""

    url: str
    log_path: Path

    def log(self, begin: int = 0) -> Log:
        """Its log, without the first `begin` requests."""
        lines = [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").split("\n")[:-1]]
        lost = {line["undelivered"] for line in lines if "undelivered" in line}
        requests = [line for line in lines if "undelivered" not in line][begin:]
        return Log([{**one, "status": "undelivered"} if one["id"] in lost else one for one in requests])

    def stats(self) -> dict[str, Any]:
        """Its figures: requests (for completions), in_flight, max_in_flight, model_lists (sent), statuses."""
        address = self.url.removesuffix("/v1") + "/stats"
        with urllib.request.urlopen(address, timeout=30) as answer:
            figures: dict[str, Any] = json.load(answer)
        return figures

    def wait(self, count: int, process: subprocess.Popen[bytes], patience: float = 120) -> None:
        """Return when `count` answers were given, or `process` has ended."""
        deadline = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < deadline:
            if self.stats()["statuses"].get("answered", 0) >= count:
                return
            time.sleep(0.02)


@contextlib.contextmanager
def running_service(folder: Path, **config: Any) -> Iterator[RunningService]:
    """The test service, as a process. folder: of its log; config: fields of `Faults`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "requests.jsonl"
    log.touch()
    flags = ["--config", json.dumps(config), "--log", str(log), "--parent", str(os.getpid())]
    command = [sys.executable, "-m", "tests.fake_service", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the test service has not started"
            yield RunningService(url, log)
        finally:
            process.kill()


@dataclass(frozen=True)
class Done:
    """A command that has ended. stdout, stderr: what it printed."""

    exit_code: int
    stdout: str
    stderr: str


def caption(
    service: RunningService,
    folder: Path,
    *flags: str,
    key: str = "",
    table: str = "meta.csv",
    until: Callable[[subprocess.Popen[bytes]], None] | None = None,
    timeout: float = 300,
    frames: Sequence[str] = FRAMES_FLAGS,
) -> Done:
    """Caption a table of `folder` through the service.

    key: the API key; empty for none.
    until: returns when the command is to be killed; None to wait for its end.
    frames: the flags of the sampled frames.
    """
    command = [sys.executable, str(COMMAND), table, "--base_url", service.url, *frames, *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    if key:
        command += ["--api_key_env", KEY_VARIABLE]
        environment[KEY_VARIABLE] = key
    logs = [folder / f"{table}.stdout", folder / f"{table}.stderr"]
    with logs[0].open("wb") as out, logs[1].open("wb") as err:
        process = start(command, cwd=folder, stdout=out, stderr=err, env=environment)
        try:
            if until is not None:
                until(process)
                process.kill()
            exit_code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
    return Done(exit_code, *(log.read_text(encoding="utf-8", errors="replace") for log in logs))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def failures(folder: Path, name: str = FAILURES) -> dict[int, dict[str, str]]:
    """The failures of a run with one column, by row."""
    path = folder / name
    return {int(failure["row"]): failure for failure in read_table(path)} if path.exists() else {}


def service_report(folder: Path, name: str = REPORT) -> dict[str, Any]:
    """The section `service` of the report."""
    report: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    section: dict[str, Any] = report["service"]
    return section
