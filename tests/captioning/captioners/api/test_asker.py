"""Questions are asked, asked once more, and never paid twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from pipeline.captioning.captioners.api.answer import NO_CLIP, Answer, AnsweredClip
from pipeline.captioning.captioners.api.asker import Asker, Attempt, StoredResult
from pipeline.captioning.captioners.api.errors import BLOCKED, RequestFailed, ServiceStop
from pipeline.captioning.captioners.api.options import VIDEO, Generation, Visuals
from pipeline.captioning.captioners.api.requests import LARGE_BYTES, ServiceRequest, clip_content
from pipeline.captioning.captioners.api.sender import Sender
from pipeline.captioning.captioners.api.store import AnswerStore
from pipeline.captioning.captioners.api.usage import Usage
from pipeline.captioning.meta.results import CaptionResult, Failure
from pipeline.captioning.process.errors import RunError

T = TypeVar("T")
GENERATION = Generation("m", schema=None)
CLIP = AnsweredClip("a.mp4", partial=True)
PARTS = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "What?"}]
QUESTION = ServiceRequest("key", lambda: PARTS, CLIP)


class FakeSender:
    """Gives the answers (or raises the errors) one after the other; keeps the messages that were sent."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[list[dict[str, Any]]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def send(self, make_body: Callable[[], dict[str, Any]]) -> Answer:
        self.sent.append(make_body()["messages"])
        answer = self.answers.pop(0)
        await self.may_answer.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeUsage:
    """Counts what `Usage` counts."""

    def __init__(self) -> None:
        self.answers = self.stored = 0
        self.outcomes: Counter[str] = Counter()

    def add(self, answer: Answer) -> None:
        self.answers += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    with closing(AnswerStore(tmp_path / "a.sqlite", tmp_path / "out.csv")) as store:
        yield store


def _asker(
    store: AnswerStore, sender: FakeSender | None, generation: Generation = GENERATION
) -> tuple[Asker, FakeUsage]:
    usage = FakeUsage()
    return Asker(store, cast("Sender | None", sender), generation, cast(Usage, usage)), usage


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(asyncio.wait_for(work(), 10))


def _ask(store: AnswerStore, *answers: Answer | Exception) -> tuple[StoredResult, FakeSender, FakeUsage]:
    async def work() -> tuple[StoredResult, FakeSender, FakeUsage]:
        sender = FakeSender(*answers)
        asker, usage = _asker(store, sender)
        return await asker.ask(QUESTION), sender, usage

    return _run(work)


def test_an_answer_is_paid_once(store: AnswerStore) -> None:
    result, sender, usage = _ask(store, Answer("A dog.", completion_tokens=3))
    assert result == StoredResult(CaptionResult("A dog.", 3), "success", CLIP)
    assert sender.sent == [[{"role": "user", "content": PARTS}]]
    assert (usage.answers, usage.stored, usage.outcomes) == (1, 0, {"success": 1})

    again, sender, usage = _ask(store)
    assert again == result
    assert sender.sent == []
    assert (usage.answers, usage.stored, usage.outcomes) == (0, 1, {"success": 1})


def test_an_answer_is_stored_before_it_is_judged(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("pipeline.captioning.captioners.api.asker.outcome_of", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        _ask(store, Answer("A dog."))
    assert store.answers("key") == [(Answer("A dog."), CLIP)]


def test_a_refused_question_is_asked_once_more(store: AnswerStore) -> None:
    result, sender, usage = _ask(store, Answer("", refusal="I can't."), Answer("A dog."))
    assert result.outcome == "success"
    assert len(sender.sent) == 2
    question, answer, note = sender.sent[1]
    assert question == {"role": "user", "content": PARTS}
    assert answer == {"role": "assistant", "content": "I can't."}
    assert note["role"] == "user" and "answer" in note["content"]
    assert (usage.answers, usage.outcomes) == (2, {"success": 1})

    again, sender, _ = _ask(store)
    assert again == result and sender.sent == []


def test_a_question_without_an_answer_is_asked_once_more(store: AnswerStore) -> None:
    """Services refuse empty messages, and two messages of the user one after the other."""
    _, sender, _ = _ask(store, Answer(""), Answer("A dog."))
    question, answer, note = sender.sent[1]
    assert [message["role"] for message in (question, answer, note)] == ["user", "assistant", "user"]
    assert question["content"] == PARTS and answer["content"] and "no text" in note["content"]


def test_two_bad_answers_are_a_failure_with_both_messages(store: AnswerStore) -> None:
    result, _, usage = _ask(store, Answer("", refusal="I can't."), Answer(""))
    assert isinstance(result.result, Failure)
    assert result.result.stage == result.outcome == "empty"
    first, second = result.result.messages
    assert "I can't." in first and "no text" in second and "once more" in second
    assert usage.outcomes == {"empty": 1}
    assert _ask(store)[0] == result, "and a later run does not pay again"


def test_a_blocked_answer_is_not_asked_again(store: AnswerStore) -> None:
    result, sender, _ = _ask(store, Answer("A", "content_filter"))
    assert result.outcome == BLOCKED and len(sender.sent) == 1
    assert _ask(store)[0] == result


def test_the_second_attempt_of_an_interrupted_run(store: AnswerStore) -> None:
    """Killed between the two answers: only the second one is asked."""
    store.add("key", 0, Answer(""), CLIP).result()
    result, sender, usage = _ask(store, Answer("A dog."))
    assert result.outcome == "success"
    assert len(sender.sent) == 1 and "no text" in str(sender.sent[0])
    assert (usage.answers, usage.stored) == (1, 0)


def test_what_is_next(store: AnswerStore) -> None:
    asker, _ = _asker(store, None, Generation("m", schema={"type": "object"}))
    assert asker.next("key") == Attempt(0)
    store.add("key", 0, Answer("A dog."), NO_CLIP).result()
    attempt = asker.next("key")
    assert isinstance(attempt, Attempt)
    assert (attempt.number, attempt.previous) == (1, Answer("A dog.")) and "not JSON" in attempt.note
    store.add("key", 1, Answer("{}"), CLIP).result()
    assert asker.next("key") == StoredResult(CaptionResult("{}", 0), "success", CLIP)


def test_a_request_that_failed_is_asked_again_by_the_next_run(store: AnswerStore) -> None:
    result, _, usage = _ask(store, RequestFailed("the prompt is too long"))
    assert result == StoredResult(Failure("rejected", ("the prompt is too long",)), "rejected", CLIP)
    assert (usage.answers, usage.stored, usage.outcomes) == (0, 0, {"rejected": 1})
    assert _ask(store, Answer("A dog."))[0].outcome == "success"


def test_a_second_attempt_that_failed(store: AnswerStore) -> None:
    result, _, usage = _ask(store, Answer("", refusal="I can't."), RequestFailed("blocked by the service", BLOCKED))
    assert isinstance(result.result, Failure) and result.result.stage == BLOCKED
    assert "I can't." in result.result.messages[0] and "blocked by the service" in result.result.messages[1]
    assert (usage.answers, usage.outcomes) == (1, {BLOCKED: 1})
    assert _ask(store, Answer("A dog."))[0].outcome == "success"


def test_two_rows_with_one_question_pay_once(store: AnswerStore) -> None:
    async def work() -> None:
        sender = FakeSender(Answer("A dog."))
        asker, usage = _asker(store, sender)
        results = await asyncio.gather(*(asker.ask(QUESTION) for _ in range(3)))
        assert results == [results[0]] * 3 and results[0].outcome == "success"
        assert len(sender.sent) == 1
        assert (usage.answers, usage.stored, usage.outcomes) == (1, 2, {"success": 3})

    _run(work)


def test_two_rows_with_one_question_that_fails(store: AnswerStore) -> None:
    async def work() -> None:
        sender = FakeSender(RequestFailed("too long"))
        asker, usage = _asker(store, sender)
        results = await asyncio.gather(asker.ask(QUESTION), asker.ask(QUESTION))
        assert [result.outcome for result in results] == ["rejected", "rejected"]
        assert (len(sender.sent), usage.stored, usage.outcomes) == (1, 0, {"rejected": 2})

    _run(work)


def test_the_store_is_not_read_again_for_what_is_known(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems without a write-ahead log, who reads waits for who writes."""

    async def work() -> None:
        asker, _ = _asker(store, FakeSender(Answer(""), Answer("A dog.")))
        step = asker.next("key")
        with monkeypatch.context() as patch:
            patch.setattr(store, "answers", None)
            assert (await asker.ask(QUESTION, step)).outcome == "success"
        assert [answer.text for answer, _ in store.answers("key")] == ["", "A dog."]

    _run(work)


def test_a_row_that_was_looked_up_before_another_one_asked_the_same_question(store: AnswerStore) -> None:
    async def work() -> None:
        sender = FakeSender(Answer("A dog."))
        asker, usage = _asker(store, sender)
        step = asker.next("key")
        first = await asker.ask(QUESTION, step)
        await asyncio.sleep(0)  # the first question is not in flight any more
        assert await asker.ask(QUESTION, step) == first
        assert (len(sender.sent), usage.answers, usage.stored) == (1, 1, 1)

    _run(work)


def test_the_body_for_a_request_file_is_plain_json(store: AnswerStore) -> None:
    large = ServiceRequest("key", lambda: clip_content("What?", [bytes(LARGE_BYTES + 1)], Visuals(VIDEO), "video/mp4"))
    made = _asker(store, None)[0].body(large, Attempt(0))
    assert len(json.dumps(made)) > LARGE_BYTES


@pytest.mark.parametrize("cancelled", [0, 1])
def test_cancelling_one_row_does_not_cancel_the_other(store: AnswerStore, cancelled: int) -> None:
    async def work() -> None:
        sender = FakeSender(Answer("A dog."))
        sender.may_answer.clear()
        asker, _ = _asker(store, sender)
        tasks = [asyncio.create_task(asker.ask(QUESTION)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[cancelled].cancel()
        await asyncio.sleep(0)
        sender.may_answer.set()
        assert (await tasks[1 - cancelled]).outcome == "success"
        assert tasks[cancelled].cancelled() and len(sender.sent) == 1

    _run(work)


def test_a_paid_answer_is_stored_although_its_row_is_cancelled(store: AnswerStore) -> None:
    async def work() -> None:
        sender = FakeSender(Answer("A dog."))
        sender.may_answer.clear()
        asker, _ = _asker(store, sender)
        task = asyncio.create_task(asker.ask(QUESTION))
        while not sender.sent:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sender.may_answer.set()
        while isinstance(asker.next("key"), Attempt):
            await asyncio.sleep(0.001)

    _run(work)


def test_the_end_of_the_run_reaches_every_row(store: AnswerStore) -> None:
    async def work() -> None:
        asker, usage = _asker(store, FakeSender(ServiceStop("the key is wrong")))
        results = await asyncio.gather(asker.ask(QUESTION), asker.ask(QUESTION), return_exceptions=True)
        assert [type(result) for result in results] == [ServiceStop, ServiceStop]
        assert usage.outcomes == {}

    _run(work)


def test_an_answer_that_cannot_be_stored_ends_the_run(store: AnswerStore) -> None:
    store.path.unlink()
    with pytest.raises(RunError, match="A dog"):
        _ask(store, Answer("A dog."))
