"""Rows captioned through the Batch API: results, second questions, limits of files, budget, kills."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, DefaultAioHttpClient

from pipeline.captioning.captioners.api.answer import Answer, AnsweredClip
from pipeline.captioning.captioners.api.asker import Attempt, StoredResult
from pipeline.captioning.captioners.api.batch.batch_service import BatchService
from pipeline.captioning.captioners.api.errors import ServiceStop
from pipeline.captioning.captioners.api.options import Generation, Prices, ServiceOptions
from pipeline.captioning.captioners.api.requests import ServiceRequest
from pipeline.captioning.captioners.api.usage import Usage
from pipeline.captioning.clips.clip import Clip, LoadFailure
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.meta.results import CaptionResult, ColumnResult, Failure, RowResult
from pipeline.captioning.process.signals import interruption
from pipeline.captioning.run.finished_rows import MassFailure
from pipeline.captioning.run.service import batch_worker
from pipeline.captioning.run.service.batch_worker import BatchWorker
from pipeline.captioning.workers.leases import RowTask
from tests.captioning.captioners.api.batch.answers import SqliteStore, problem_of, read_answer
from tests.fake_batch_service import CONTENT, CREATE, UPLOAD, Config, FakeBatchService, answer_to, serving
from tests.fakes import mean_colour, render_clip
from tests.runs import write_meta

POLL_SECONDS = 0.02
COLUMNS = ("text", "short")


@dataclass
class CountedUsage(Usage):
    """The counts that batches need."""

    affordable: int = 10**9

    def add(self, answer: Answer) -> None:
        self.answers += 1

    def may_send(self, in_flight: int) -> bool:
        return self.answers + in_flight < self.affordable

    def text(self) -> str:
        return "105 tokens"


@dataclass
class StoreAsker:
    """Judges the answers of a store: an empty text is asked once more."""

    store: SqliteStore
    usage: Usage

    def next(self, key: str) -> Attempt | StoredResult:
        answers = self.store.answers(key)
        if not answers:
            return Attempt(0)
        answer, clip = answers[-1]
        if answer.text:
            return StoredResult(CaptionResult(answer.text, 5), "success", clip)
        if len(answers) == 1:
            return Attempt(1, answer, "it was empty")
        return StoredResult(Failure("empty", ("empty twice",)), "empty", clip)

    def body(self, request: ServiceRequest, attempt: Attempt) -> dict[str, Any]:
        messages = [{"role": "user", "content": request.content()}]
        if attempt.note:
            messages.append({"role": "user", "content": attempt.note})
        return {"messages": messages}

    def count_stored(self, result: StoredResult) -> StoredResult:
        self.usage.stored += 1
        return result


@dataclass
class QuestionRows:
    """Rows whose cells are their questions, for COLUMNS; the question "video only" is refused for all clips."""

    loaded: list[int] = field(default_factory=list)

    def wanted(self, task: RowTask) -> tuple[int, ...]:
        return task.wanted or tuple(range(len(task.cells)))

    def keys(self, task: RowTask) -> dict[int, str]:
        identity = Path(task.path).read_bytes()
        return {
            number: hashlib.sha1(identity + task.cells[number].encode()).hexdigest() for number in self.wanted(task)
        }

    def request(self, clip: Clip, task: RowTask, number: int, key: str) -> ServiceRequest:
        self.loaded.append(task.row)
        text = f"{task.cells[number]} {clip.frames.tolist()}"
        return ServiceRequest(key, lambda: text, AnsweredClip(task.path, clip.partial, clip.is_image))

    def refused(self, task: RowTask, is_image: bool) -> dict[int, ColumnResult]:
        refused = [number for number in self.wanted(task) if task.cells[number] == "video only"]
        return dict.fromkeys(refused, Failure("prompt", ("not about this",)))

    def result(self, task: RowTask, results: Mapping[int, ColumnResult], clip: AnsweredClip) -> RowResult:
        columns = {COLUMNS[number]: results[number] for number in self.wanted(task)}
        return RowResult(task.row, columns, clip.partial, clip.is_image)

    def failed(self, task: RowTask, failure: LoadFailure) -> RowResult:
        columns = [COLUMNS[number] for number in self.wanted(task)]
        return RowResult.failed(task.row, columns, failure.stage, failure.messages)


def load(rows: Iterable[tuple[int, str]]) -> ClipLoader:
    preparation = FramePreparation(FrameSampling("segments", 2), mean_colour)
    return ClipLoader(rows, preparation, DecoderLimits(30), prefetch=4)


@dataclass
class BatchRun:
    """A run; its state is in `folder`. finished: by row, its result."""

    folder: Path
    url: str
    tasks: list[RowTask]
    settings: dict[str, Any] = field(default_factory=dict)
    affordable: int = 10**9
    prices: Prices | None = None
    fail_on: Callable[[RowResult], None] = lambda result: None
    finished: dict[int, RowResult] = field(default_factory=dict)
    rows: QuestionRows = field(default_factory=QuestionRows)
    progress: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.usage = CountedUsage(self.prices, affordable=self.affordable)

    def run(self) -> dict[int, dict[str, str]]:
        """Run, and return the captions and failures by row and column."""
        asyncio.run(self._run())
        return {
            row: {
                column: outcome.caption if isinstance(outcome, CaptionResult) else str(outcome)
                for column, outcome in result.results.items()
            }
            for row, result in sorted(self.finished.items())
        }

    async def _run(self) -> None:
        answers = self.folder / "answers.sqlite"
        store = SqliteStore(answers)
        service = ServiceOptions(
            self.url, Generation("model"), answers, prices=self.prices, batch=True, poll_seconds=POLL_SECONDS
        )
        async with DefaultAioHttpClient() as http:
            client = AsyncOpenAI(api_key="key", base_url=self.url, max_retries=0, http_client=http)
            worker = BatchWorker(
                write_meta(self.folder, []),
                service,
                load,
                self.rows,
                StoreAsker(store, self.usage),
                store,
                self.usage,
                self._finish,
                BatchService(client, problem_of, max_tries=2, patience=0.0),
                read_answer,
                partial(self.progress.append, 1),
                **self.settings,
            )
            await worker.run(self.tasks)

    def _finish(self, result: RowResult, path: str) -> None:
        assert result.row not in self.finished
        self.fail_on(result)
        self.finished[result.row] = result


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{number}.mp4", number)) for number in range(4)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeBatchService]:
    with serving(tmp_path / "service") as started:
        yield started


def run_of(service: FakeBatchService, tasks: list[RowTask], **changes: Any) -> BatchRun:
    return BatchRun(service.folder.parent / "run", service.url, tasks, **changes)


def rows_about(clips: list[str], count: int) -> list[RowTask]:
    return [RowTask(row, clips[row % len(clips)], (f"what is {row}?",)) for row in range(count)]


def right_answers(service: FakeBatchService) -> dict[str, str]:
    """The right answer to every uploaded request, by custom id."""
    lines = [
        json.loads(line)
        for call in service.calls(UPLOAD)
        for line in (service.folder / "files" / call["id"]).read_text().splitlines()
    ]
    return {line["custom_id"]: answer_to(line["body"]) for line in lines}


def test_rows_get_the_answers_to_their_own_questions(service: FakeBatchService, clips: list[str]) -> None:
    tasks = rows_about(clips, 6)
    tasks.append(RowTask(6, clips[0], ("what is 0?", "who?")))  # the first question is that of row 0
    tasks.append(RowTask(7, clips[1], ("what is 7?", "video only"), wanted=(1,)))
    tasks.append(RowTask(8, clips[1], ("what is 8?", "video only")))
    tasks.append(RowTask(9, clips[0] + ".missing", ("what?",)))
    run = run_of(service, tasks)
    captions = run.run()
    right = right_answers(service)
    for task in tasks[:6]:
        assert captions[task.row] == {"text": right[f"{run.rows.keys(task)[0]}-0"]}
    assert captions[6]["text"] == captions[0]["text"] != captions[6]["short"]
    assert captions[7] == {"short": "prompt: not about this"}
    assert captions[8]["short"] == "prompt: not about this" and captions[8]["text"].startswith("seen ")
    assert captions[9]["text"].startswith("path: ")
    assert len(service.paid()) == len(set(service.paid())) == 8
    assert run.usage.answers == run.usage.requests == 8 and run.usage.stored == 1
    assert run.progress, "waiting is no stall"
    assert not list(run.folder.glob("*batches*"))

    again = run_of(service, tasks)
    assert again.run() == captions
    assert len(service.paid()) == 8 and again.usage.stored == 9 and again.usage.answers == 0


def test_empty_answers_are_asked_once_more(service: FakeBatchService, clips: list[str]) -> None:
    service.configure(Config(empty_first=2))
    run = run_of(service, rows_about(clips, 8))
    captions = run.run()
    right = right_answers(service)
    assert captions == {task.row: {"text": right[f"{run.rows.keys(task)[0]}-0"]} for task in run.tasks}, (
        "the answer to the question, from the first or the second try"
    )
    second = [request for request in service.paid() if request.endswith("-1")]
    assert 0 < len(second) < 8 and len(service.calls(CREATE)) == 2, "all second questions are in one file"


def test_files_are_divided_by_requests_and_by_bytes(service: FakeBatchService, clips: list[str]) -> None:
    tasks = rows_about(clips, 7)
    run_of(service, tasks, settings={"max_requests": 3}).run()
    assert [len(call["requests"]) for call in service.calls(CREATE)] == [3, 3, 1]
    size = max(call["bytes"] for call in service.calls(UPLOAD)) // 3 * 2 + 50
    captions = BatchRun(service.folder.parent / "other", service.url, tasks, {"max_bytes": size}).run()
    assert len(captions) == 7 and all(call["bytes"] <= size for call in service.calls(UPLOAD)[3:])
    assert [len(call["requests"]) for call in service.calls(CREATE)[3:]] == [2, 2, 2, 1]


def test_request_larger_than_a_file_may_be(service: FakeBatchService, clips: list[str]) -> None:
    tasks = [RowTask(0, clips[0], ("x" * 2000,)), RowTask(1, clips[1], ("short",))]
    captions = run_of(service, tasks, settings={"max_bytes": 1000}).run()
    assert captions[0]["text"].startswith("prepare: the request has 0.0 MB")
    assert captions[1]["text"].startswith("seen")


def test_failed_requests_become_failures_that_the_next_run_tries_again(
    service: FakeBatchService, clips: list[str]
) -> None:
    service.configure(Config(ends={"0": "expired"}))
    tasks = rows_about(clips, 4)
    captions = (run := run_of(service, tasks)).run()
    failed = [row for row, columns in captions.items() if columns["text"].startswith("service: batch_expired")]
    assert len(failed) == 2 and run.usage.outcomes == {"service": 2, "success": 2}
    assert len(service.calls(CREATE)) == 1, "the run itself does not try again"
    service.configure(Config())
    captions = run_of(service, tasks).run()
    assert all(columns["text"].startswith("seen") for columns in captions.values())
    assert len(service.calls(CREATE)[1]["requests"]) == 2


def test_after_too_many_failures_the_next_run_tries_again(service: FakeBatchService, clips: list[str]) -> None:
    service.configure(Config(ends={"0": "failed:wrong_model"}))

    def stop(result: RowResult) -> None:
        raise MassFailure("too many")

    with pytest.raises(MassFailure):
        run_of(service, rows_about(clips, 3), fail_on=stop).run()
    captions = run_of(service, rows_about(clips, 3)).run()
    assert all(columns["text"].startswith("seen") for columns in captions.values())


def test_budget_ends_the_run_which_resumes_with_a_larger_one(
    service: FakeBatchService, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_worker, "FIRST_REQUESTS", 2)
    prices = Prices(1, 1, max_cost=5.0)
    run = run_of(service, rows_about(clips, 8), prices=prices, affordable=5)
    with pytest.raises(ServiceStop, match=r"--max_cost 5 is reached: 105 tokens"):
        run.run()
    assert [len(call["requests"]) for call in service.calls(CREATE)] == [2, 3], "the first file shows the price"
    assert len(run_of(service, rows_about(clips, 8)).run()) == 8
    assert len(service.paid()) == len(set(service.paid())) == 8


@pytest.mark.parametrize("hang", [(UPLOAD, "after"), (CREATE, "after"), (CONTENT, "before")])
def test_killed_and_resumed_with_the_same_output(
    service: FakeBatchService, clips: list[str], hang: tuple[str, str]
) -> None:
    tasks = rows_about(clips, 7)
    settings = {"max_requests": 3}
    service.configure(Config(hang=hang, ends={"1": "expired"}))
    process = multiprocessing.get_context("fork").Process(target=run_of(service, tasks, settings=settings).run)
    process.start()
    service.wait_until_it_hangs()
    process.kill()
    process.join()
    service.configure(Config(ends={"1": "expired"}))
    run = run_of(service, tasks, settings=settings)
    captions = run.run()
    assert len(service.paid()) == len(set(service.paid())) == 7
    assert [row for row, columns in captions.items() if not columns["text"].startswith("seen")] == [4]
    assert captions[6]["text"] == right_answers(service)[f"{run.rows.keys(tasks[6])[0]}-0"]


def test_interrupted_while_it_waits(
    service: FakeBatchService, clips: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service.configure(Config(polls=10**6))
    run = run_of(service, rows_about(clips, 3))

    class Progress(list[int]):
        def append(self, _: int) -> None:
            if service.calls("state"):
                monkeypatch.setattr(interruption, "requested", True)

    run.progress = Progress()
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert "3 requests are in open batches" in caplog.text
    monkeypatch.setattr(interruption, "requested", False)
    service.configure(Config())
    assert len(run_of(service, rows_about(clips, 3)).run()) == len(service.paid()) == 3
