"""Rows captioned through the Batch API: results, second questions, limits of files, budget, an interruption."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.api.asker import Asker
from pipeline.captioning.captioners.api.batch.batch_service import BatchService
from pipeline.captioning.captioners.api.errors import ServiceStop
from pipeline.captioning.captioners.api.options import VIDEO, Generation, Prices, ServiceOptions, Visuals
from pipeline.captioning.captioners.api.service import Service
from pipeline.captioning.captioners.api.source import ServiceSource
from pipeline.captioning.captioners.api.store import AnswerStore
from pipeline.captioning.captioners.api.usage import Usage
from pipeline.captioning.clips.clip import ClipTask
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.process.signals import interruption
from pipeline.captioning.run.finished_rows import MassFailure
from pipeline.captioning.run.service import batch_worker
from pipeline.captioning.run.service.batch_worker import BatchWorker
from pipeline.captioning.run.service.rows import ServiceRows
from pipeline.captioning.workers.leases import RowTask
from tests.fake_batch_service import CREATE, UPLOAD, Config, FakeBatchService, answer_to, serving
from tests.fakes import render_clip
from tests.runs import write_meta

POLL_SECONDS = 0.02


def source_of(url: str, answers: Path, prices: Prices | None, visuals: Visuals) -> ServiceSource:
    """The first cell of a row is its question for the column `text`, the second one that for `short`."""
    options = ServiceOptions(
        url, Generation("model"), answers, visuals=visuals, prices=prices, batch=True, poll_seconds=POLL_SECONDS
    )
    asks = Asks((Ask("text", Question("{first}")), Ask("short", Question("{second}"))))
    return ServiceSource(options, asks, FrameSampling("segments", 2), 0)


@dataclass
class BatchRun:
    """A run; its state is in `folder`. finished: by row, its result."""

    folder: Path
    url: str
    tasks: list[RowTask]
    settings: dict[str, Any] = field(default_factory=dict)
    prices: Prices | None = None
    visuals: Visuals = field(default_factory=Visuals)
    fail_on: Callable[[RowResult], None] = lambda result: None
    finished: dict[int, RowResult] = field(default_factory=dict)
    progress: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.source = source_of(self.url, self.folder / "answers.sqlite", self.prices, self.visuals)
        self.rows = ServiceRows(self.source)
        self.usage = Usage(self.prices)

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
        options, job = self.source.options, write_meta(self.folder, [])
        service = Service(self.url, "key", 60, 4)
        with closing(AnswerStore(options.answers, job.output)) as store:
            worker = BatchWorker(
                job,
                options,
                self._loader,
                self.rows,
                Asker(store, None, options.generation, self.usage),
                store,
                self.usage,
                self._finish,
                BatchService(service, "model", max_tries=2, patience=0.0),
                partial(self.progress.append, 1),
                **self.settings,
            )
            try:
                await worker.run(self.tasks)
            finally:
                await service.close()

    def _loader(self, rows: Iterable[ClipTask]) -> ClipLoader:
        return ClipLoader(rows, self.source.preparation, DecoderLimits(30), prefetch=4)

    def _finish(self, result: RowResult, path: str, part: TimeRange | None) -> None:
        assert result.row not in self.finished
        self.fail_on(result)
        self.finished[result.row] = result


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{number}.mp4", number)) for number in range(4)]


@pytest.fixture(scope="module")
def new_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], FakeBatchService]]:
    with serving(tmp_path_factory.mktemp("services")) as new_account:
        yield new_account


@pytest.fixture
def service(new_account: Callable[[], FakeBatchService]) -> FakeBatchService:
    return new_account()


def run_of(service: FakeBatchService, tasks: list[RowTask], **changes: Any) -> BatchRun:
    return BatchRun(service.folder.parent / "run", service.url, tasks, **changes)


def rows_about(clips: list[str], count: int) -> list[RowTask]:
    return [RowTask(row, clips[row % len(clips)], (f"what is {row}?", ""), (0,)) for row in range(count)]


def right_answers(service: FakeBatchService) -> dict[str, str]:
    """The right answer to every uploaded request, by custom id."""
    requests = [json.loads(line) for call in service.calls(UPLOAD) for line in service.uploaded(call["id"])]
    return {request["custom_id"]: answer_to(request["body"]) for request in requests}


def test_rows_get_the_answers_to_their_own_questions(service: FakeBatchService, clips: list[str]) -> None:
    tasks = rows_about(clips, 6)
    tasks.append(RowTask(6, clips[0], ("what is 0?", "who?")))  # the first question is that of row 0
    tasks.append(RowTask(7, clips[1], ("what is 7?", " "), wanted=(1,)))
    tasks.append(RowTask(8, clips[1], ("what is 8?", " ")))
    tasks.append(RowTask(9, clips[0] + ".missing", ("what?", ""), wanted=(0,)))
    run = run_of(service, tasks)
    captions = run.run()
    right = right_answers(service)
    for task in tasks[:6]:
        assert captions[task.row] == {"text": right[f"{run.rows.keys(task)[0]}-0"]}
    assert captions[6]["text"] == captions[0]["text"] != captions[6]["short"]
    assert captions[7]["short"] == captions[8]["short"] == "prompt: the question is blank, because its cells are"
    assert captions[8]["text"].startswith("seen ")
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


def test_files_are_divided_by_requests_and_by_bytes(
    service: FakeBatchService, clips: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tasks = rows_about(clips, 7)
    run_of(service, tasks, settings={"max_requests": 3}, prices=Prices(10_000, 0)).run()
    (estimate,) = [message for message in caplog.messages if "estimate" in message]
    assert estimate == "estimate for the whole run: about 700 tokens in, 35 out, cost 7.00", "after the first three"
    assert [len(call["requests"]) for call in service.calls(CREATE)] == [3, 3, 1]
    lines = [line for call in service.calls(UPLOAD) for line in service.uploaded(call["id"])]
    size = 2 * max(map(len, lines)) + 2  # room for two, but not for three
    captions = BatchRun(service.folder.parent / "other", service.url, tasks, {"max_bytes": size}).run()
    assert len(captions) == 7 and all(call["bytes"] <= size for call in service.calls(UPLOAD)[3:])
    assert [len(call["requests"]) for call in service.calls(CREATE)[3:]] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("visuals", "advice"),
    [(Visuals(), "send fewer or smaller frames"), (Visuals(VIDEO), "use --send images")],
    ids=["frames", "video"],
)
def test_request_larger_than_a_file_may_be(
    service: FakeBatchService, clips: list[str], visuals: Visuals, advice: str
) -> None:
    tasks = [RowTask(0, clips[0], ("x" * 40_000, ""), (0,)), RowTask(1, clips[1], ("short", ""), (0,))]
    captions = run_of(service, tasks, visuals=visuals, settings={"max_bytes": 40_000}).run()
    message = rf"prepare: the request has 4\d,\d{{3}} bytes, but a request file .* may have 40,000: {advice}"
    assert re.fullmatch(message, captions[0]["text"])
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
    monkeypatch.setattr(batch_worker, "rough_tokens", lambda body, most: (0.0, 0))
    prices = Prices(10_000, 0, max_cost=5.0)  # an answer costs 1
    run = run_of(service, rows_about(clips, 8), prices=prices)
    with pytest.raises(ServiceStop, match=r"--max_cost 5 is reached: 5\.00 is spent"):
        run.run()
    assert [len(call["requests"]) for call in service.calls(CREATE)] == [2, 3], "the first file shows the price"
    assert len(run_of(service, rows_about(clips, 8)).run()) == 8
    assert len(service.paid()) == len(set(service.paid())) == 8


def test_first_file_is_roughly_within_the_budget(service: FakeBatchService, clips: list[str]) -> None:
    """Each request has 2 frames, counted as 52,000 tokens, and 200 new tokens: 0.522 by the rough rule."""
    prices = Prices(10, 10, max_cost=2.0)
    assert len(run_of(service, rows_about(clips, 8), prices=prices).run()) == 8
    assert [len(call["requests"]) for call in service.calls(CREATE)] == [3, 5]
    tiny = Prices(10, 10, max_cost=0.002)  # an answer costs 0.00105
    with pytest.raises(ServiceStop, match=r"--max_cost 0\.002 is reached"):
        BatchRun(service.folder.parent / "other", service.url, rows_about(clips, 8), prices=tiny).run()
    assert [len(call["requests"]) for call in service.calls(CREATE)[2:]] == [1]


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
