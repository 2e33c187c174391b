"""The command with `--batch`: several rounds, failures and the run after them, and kills at every step of a batch."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.captioning.captioners.api.service import Service
from pipeline.captioning.run.service.batch_worker import BatchWorker
from scripts import service_runs
from scripts.service_runs import COMMAND, FRAMES_FLAGS, KEY_VARIABLE, OUTPUT, Done, RunningService
from tests.captioning.run import forked
from tests.fake_batch_service import (
    AFTER,
    CONTENT,
    CREATE,
    STATE,
    UPLOAD,
    Config,
    FakeBatchService,
    answer_to,
    serving,
)

ROWS = 12
KEY = "sk-the-key-of-the-test"
FLAGS = ("--model", "fake-vl", "--question", "{ask}", "--batch", "--poll_seconds", "0.05", "--max_failure_rate", "1")
FLAGS += ("--decode_workers", "1")  # the order of requests, and so which of them expire, is that of the rows
WRONG = Config(empty_first=3, error_share=7, ends={"0": "expired"}, key=KEY)
"""Empty answers, which are asked once more in a second batch; errors; an expired batch with half of the results."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that was not killed. folder: of its table and output; done: how it ended."""

    service: FakeBatchService
    folder: Path
    done: Done


@pytest.fixture(scope="module")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        with forked.serve(COMMAND, "openai", BatchWorker.__module__, Service.__module__) as server:
            yield server


@dataclass
class Command:
    """The command in forks, on the table of a folder. outputs: an empty folder."""

    server: subprocess.Popen[str]
    service: FakeBatchService
    folder: Path
    outputs: Path

    def run(self, *flags: str, until: Callable[[], None] | None = None) -> int:
        """The exit code. until: see `forked.run`."""
        output = self.outputs / str(len(list(self.outputs.iterdir())))
        output.mkdir()
        base = ["meta.csv", "--base_url", self.service.url, "--api_key_env", KEY_VARIABLE, *FRAMES_FLAGS]
        return forked.run(self.server, [*base, *FLAGS, *flags], self.folder, output, until)


@pytest.fixture(scope="module")
def new_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], FakeBatchService]]:
    with serving(tmp_path_factory.mktemp("services")) as new_account:
        yield new_account


@pytest.fixture(scope="module")
def undisturbed(new_account: Callable[[], FakeBatchService], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    service, folder = new_account(), tmp_path_factory.mktemp("undisturbed") / "run"
    service_runs.make_table(folder, ROWS, 3)
    service.configure(WRONG)
    flags = (*FLAGS, "--price_in", "10", "--price_out", "100")
    done = service_runs.caption(RunningService(service.url, service.folder / "calls.jsonl"), folder, *flags, key=KEY)
    assert done.exit_code == 0, done.stderr
    return Undisturbed(service, folder, done)


def _stages(folder: Path) -> dict[int, tuple[str, str]]:
    """Stage and message of each failure."""
    found = service_runs.failures(folder)
    return {row: (failure["stage"], failure["message"]) for row, failure in found.items()}


def test_killed_at_every_step(
    undisturbed: Undisturbed,
    new_account: Callable[[], FakeBatchService],
    fork_server: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    """The file is uploaded, or the batch created, and no id is noted; while it is polled; while it is downloaded."""
    service, folder = new_account(), tmp_path / "run"
    for new in (folder, tmp_path / "outputs"):
        new.mkdir()
    (folder / "meta.csv").write_bytes((undisturbed.folder / "meta.csv").read_bytes())
    command = Command(fork_server, service, folder, tmp_path / "outputs")
    for call in (UPLOAD, CREATE, STATE, CONTENT):
        service.configure(replace(WRONG, hang=(call, AFTER)))
        assert command.run(until=service.wait_until_it_hangs) == -signal.SIGKILL
        assert not (folder / OUTPUT).exists()
    service.configure(WRONG)
    assert command.run() == 0
    assert (folder / OUTPUT).read_bytes() == (undisturbed.folder / OUTPUT).read_bytes()
    assert _stages(folder) == _stages(undisturbed.folder)
    assert sorted(service.paid()) == sorted(undisturbed.service.paid()), "nothing is submitted twice"
    assert len(service.paid()) == len(set(service.paid()))
    assert not list(folder.glob("*batches*")), "no request file and no results are left"


def test_open_batches_of_another_run(
    new_account: Callable[[], FakeBatchService],
    undisturbed: Undisturbed,
    fork_server: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    """Without `--batch` they are a usage error; `--restart` asks only what is not in a paid batch."""
    service, folder = new_account(), tmp_path / "run"
    for new in (folder, tmp_path / "outputs"):
        new.mkdir()
    (folder / "meta.csv").write_bytes((undisturbed.folder / "meta.csv").read_bytes())
    command = Command(fork_server, service, folder, tmp_path / "outputs")
    service.configure(Config(key=KEY, hang=(STATE, AFTER)))
    assert command.run(until=service.wait_until_it_hangs) == -signal.SIGKILL
    service.configure(Config(key=KEY))
    without = [flag for flag in FLAGS if flag not in ("--batch", "--poll_seconds", "0.05")]
    base = [str(folder / "meta.csv"), "--base_url", service.url, "--api_key_env", KEY_VARIABLE, *FRAMES_FLAGS]
    (tmp_path / "usage").mkdir()
    message = f"{ROWS} requests are in open batches of an interrupted run; give --batch"
    assert forked.run(fork_server, [*base, *without], folder, tmp_path / "usage") == 2
    assert message in (tmp_path / "usage" / "stderr").read_text()
    assert command.run("--restart") == 0
    assert len(service.paid()) == ROWS, "the same questions are not paid twice"


def test_a_whole_run_and_one_that_asks_only_the_failures_again(
    undisturbed: Undisturbed, fork_server: subprocess.Popen[str], tmp_path: Path
) -> None:
    service, folder, first = undisturbed.service, undisturbed.folder, undisturbed.done
    captions = [row["text"] for row in service_runs.read_table(folder / OUTPUT)]
    requests = [json.loads(line) for call in service.calls(UPLOAD) for line in service.uploaded(call["id"])]
    answers = {answer_to(request["body"]) for request in requests}
    failed = _stages(folder)
    messages = " ".join(message for _, message in failed.values())
    assert "batch_expired" in messages and "status 400: invalid_image" in messages
    assert {stage for stage, _ in failed.values()} == {"service", "rejected"}
    assert {row for row, text in enumerate(captions) if not text} == set(failed)
    assert {text for text in captions if text} <= answers and 0 < len(failed) < ROWS
    second = [request for request in service.paid() if request.endswith("-1")]
    assert second and [len(call["requests"]) for call in service.calls(CREATE)] == [ROWS, len(second)]
    assert re.search(r"estimate for the whole run: about [\d,]+ tokens in, \d+ out, cost 0\.\d+", first.stderr)
    report = service_runs.service_report(folder)
    paid = len([text for text in captions if text]) + len(second)
    assert report["requests"] == len(service.paid()) and report["outcomes"]["success"] == ROWS - len(failed)
    assert report["answers_paid"] == paid and report["prompt_tokens"] == 100 * paid

    service.configure(Config(key=KEY))
    assert Command(fork_server, service, folder, tmp_path).run("--skip_if_existing") == 0
    assert len(service.calls(CREATE)) == 3 and len(service.calls(CREATE)[2]["requests"]) == len(failed)
    again = [row["text"] for row in service_runs.read_table(folder / OUTPUT)]
    assert all(again) and all(new == old for new, old in zip(again, captions, strict=True) if old)
    assert not service_runs.failures(folder)
    for path in (*folder.rglob("*"), *tmp_path.rglob("*")):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
