"""Batches against a service in another process: killed at every step, and with everything that services do wrong."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.api.answer import NO_CLIP, AnsweredClip
from pipeline.captioning.captioners.api.batch import queue_limit
from pipeline.captioning.captioners.api.batch.batch_service import BatchService
from pipeline.captioning.captioners.api.batch.request_files import RequestFile, line_of
from pipeline.captioning.captioners.api.errors import ServiceStop
from pipeline.captioning.captioners.api.service import Service
from tests.fake_batch_service import (
    AFTER,
    BEFORE,
    CONTENT,
    CREATE,
    LIST,
    STATE,
    UPLOAD,
    Config,
    FakeBatchService,
    answer_to,
    serving,
)

from .client import Client, key_of


@pytest.fixture(scope="module")
def new_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], FakeBatchService]]:
    with serving(tmp_path_factory.mktemp("services")) as new_account:
        yield new_account


@pytest.fixture
def service(new_account: Callable[[], FakeBatchService]) -> FakeBatchService:
    return new_account()


def client_of(service: FakeBatchService) -> Client:
    return Client(service.folder.parent / "client", service.url)


def right_texts(numbers: range | list[int]) -> list[tuple[str, int, str]]:
    bodies = {number: {"messages": [{"role": "user", "content": f"question {number}"}]} for number in numbers}
    return [(key_of(number), 0, answer_to(body)) for number, body in bodies.items()]


def test_every_question_is_answered_once_and_no_file_is_left(service: FakeBatchService) -> None:
    client = client_of(service)
    client.run()
    assert client.texts() == right_texts(range(5))
    assert sorted(client.counted) == [key_of(number) for number in range(5)]
    assert len(service.paid()) == 5 and len(service.calls(CREATE)) == 3, "at most two requests in a file"
    assert not client.requests_folder.exists()
    assert client.fetched == [2, 4, 5]
    with closing(client.store()) as store:
        (one,), (other,) = store.answers(key_of(1)), store.answers(key_of(2))
    assert one[0].prompt_tokens == 100 and one[1] == AnsweredClip("1.mp4", partial=True)
    assert other[1] == AnsweredClip("2.mp4", is_image=True)


@pytest.mark.parametrize(
    "steps",
    [
        [(UPLOAD, BEFORE), (CREATE, BEFORE), (STATE, BEFORE), (CONTENT, BEFORE)],
        [(CREATE, AFTER), (CREATE, AFTER), (CREATE, AFTER), (CONTENT, AFTER)],
    ],
    ids=["every step", "every create"],
)
def test_killed_at_steps(service: FakeBatchService, steps: list[tuple[str, str]]) -> None:
    client = client_of(service)
    for hang in steps:
        service.configure(Config(hang=hang))
        process = client.start()
        service.wait_until_it_hangs()
        process.kill()
        process.join()
    service.configure(Config())
    client.run()
    assert client.texts() == right_texts(range(5))
    assert len(service.paid()) == len(set(service.paid())) == 5, "nothing is submitted twice"
    assert not client.requests_folder.exists()


def test_killed_while_a_file_is_written(service: FakeBatchService) -> None:
    client = client_of(service)
    file = RequestFile(client.requests_folder, client.job)
    file.add("x-0", line_of("x-0", {}), NO_CLIP)
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5
    assert not client.requests_folder.exists()


def test_killed_between_fetching_and_the_note_about_it(service: FakeBatchService) -> None:
    client = client_of(service)
    client.run()
    with closing(client.store()) as store:
        # As if the last steps of the first batch had not been noted.
        store.write("UPDATE batches SET state = 'submitted' WHERE rowid = 1")
        for number in (0, 1):
            store.write(
                "INSERT INTO batch_requests SELECT job, ?, name, '', 0, 0 FROM batches WHERE rowid = 1",
                (f"{key_of(number)}-0",),
            )
    client.counted.clear()
    client.run()
    assert client.texts() == right_texts(range(5)), "an answer that is stored is not stored twice"
    assert client.counted == [] and len(service.paid()) == 5


def test_calls_that_fail_or_take_effect_without_an_answer(service: FakeBatchService) -> None:
    fail = {UPLOAD: [500, 200, 0], CREATE: [503, 0, 0, 200], LIST: [200], STATE: [0, 200], CONTENT: [0, 502]}
    service.configure(Config(fail=fail))
    client = replace(client_of(service), max_tries=4)
    client.run()
    assert client.texts() == right_texts(range(5))
    assert len(service.paid()) == 5, "a batch whose creation was not answered is found, and not created again"


def test_service_that_fails_always_stops_the_run_which_resumes(service: FakeBatchService) -> None:
    service.configure(Config(fail={STATE: [500] * 9}))
    client = client_of(service)
    with pytest.raises(ServiceStop, match=r"no answer in 3 tries: .*500.*\(3 times\)"):
        client.run()
    service.configure(Config())
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5


def test_key_that_stops_working(service: FakeBatchService) -> None:
    service.configure(Config(key="other-key"))
    client = client_of(service)
    with pytest.raises(ServiceStop) as raised:
        client.run()
    assert "secret-key" not in str(raised.value)
    client.key = "other-key"
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5


def test_damaged_and_unknown_lines_are_skipped_and_counted(
    service: FakeBatchService, caplog: pytest.LogCaptureFixture
) -> None:
    service.configure(Config(damaged=4))
    client = client_of(service)
    client.run()
    assert client.texts() == right_texts(range(5))
    assert "3 lines of its results are damaged" in caplog.text


def test_errors_of_requests_and_missing_results_are_noted(service: FakeBatchService) -> None:
    service.configure(Config(unanswered=1, ends={"1": "expired"}))
    client = client_of(service)
    client.run()
    # Batch 0: questions 0 and 1; batch 1 has expired and an error for its second request; batch 2 has one request.
    assert client.texts() == right_texts([1])
    failures = client.failures()
    assert failures[0] == failures[4].replace("batch-2", "batch-0") == "batch batch-0 has no result for the request"
    assert failures[2] == "batch batch-1 expired: the service did not process the request in time"
    assert failures[3] == "batch_expired: This request could not be executed in time."


def test_error_of_a_request(service: FakeBatchService) -> None:
    service.configure(Config(error_share=1))
    client = client_of(service)
    client.run()
    assert client.texts() == []
    assert client.failures() == dict.fromkeys(range(5), "status 400: invalid_image: bad image\ufffd")


@pytest.mark.parametrize("end", ["failed:invalid_json_line", "cancelled"])
def test_batch_that_fails_or_is_cancelled(service: FakeBatchService, end: str) -> None:
    service.configure(Config(ends={"0": end}, unanswered=0))
    client = client_of(service)
    client.run()
    failures = client.failures()
    assert 1 in failures and set(failures) <= {0, 1}
    if end.startswith("failed"):
        assert failures[0] == "batch batch-0 failed: invalid_json_line: because of invalid_json_line"
    assert {key for key, _, _ in client.texts()} >= {key_of(number) for number in (2, 3, 4)}


def test_key_that_the_service_repeats_is_not_stored(service: FakeBatchService) -> None:
    service.configure(Config(ends={"0": "failed:wrong-secret-key"}))
    client = client_of(service)
    client.run()
    assert client.failures()[0].startswith("batch batch-0 failed: wrong-[key]")
    assert all(b"secret-key" not in path.read_bytes() for path in client.folder.iterdir())


def test_token_limit_batches_wait_for_each_other(service: FakeBatchService) -> None:
    service.configure(Config(token_limit=2))
    client = client_of(service)
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5


def test_token_limit_smaller_than_a_file_makes_smaller_files(
    service: FakeBatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_limit, "LONGEST_PAUSE", 0.0)
    service.configure(Config(token_limit=1))
    client = client_of(service)
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5
    service.configure(Config(token_limit=0))
    client = replace(client, folder=client.folder.parent / "other")
    client.run()
    assert set(client.failures()) == set(range(5)), "one request is over the limit: that is a failure"


def test_at_most_so_many_batches_are_open(service: FakeBatchService) -> None:
    client = replace(client_of(service), max_open=1)
    client.run()
    assert client.texts() == right_texts(range(5))
    calls = (service.folder / "calls.jsonl").read_text().splitlines()
    created = [number for number, line in enumerate(calls) if re.search('"create"', line)]
    for earlier, later in pairwise(created):
        assert any('"completed"' in line for line in calls[earlier:later]), "the next one begins after an end"


def test_unknown_batch_stops_the_run_until_restart(service: FakeBatchService) -> None:
    service.configure(Config(hang=(STATE, BEFORE)))
    client = client_of(service)
    process = client.start()
    service.wait_until_it_hangs()
    process.kill()
    process.join()
    service.configure(Config())
    (service.folder / "batches.json").write_text("[]")
    with pytest.raises(ServiceStop, match=r"does not know the batch batch-0.*--restart"):
        client.run()
    replace(client, restart=True).run()
    assert client.texts() == right_texts(range(5))


def interrupted(service: FakeBatchService, call: str, when: str, **config: Any) -> Client:
    """A client of a run that was killed during a call."""
    service.configure(Config(hang=(call, when)))
    client = client_of(service)
    process = client.start()
    service.wait_until_it_hangs()
    process.kill()
    process.join()
    service.configure(Config(**config))
    return client


@pytest.mark.parametrize("call", [UPLOAD, CREATE])
def test_restart_submits_nothing_of_the_interrupted_run(service: FakeBatchService, call: str) -> None:
    replace(interrupted(service, call, BEFORE), questions=0, restart=True).run()
    assert service.calls(CREATE) == [], "nobody asks these questions any more"


def test_restart_stores_paid_answers_and_does_not_wait_for_others(
    service: FakeBatchService, caplog: pytest.LogCaptureFixture
) -> None:
    client = interrupted(service, CREATE, AFTER, polls=10**6)
    replace(client, questions=0, restart=True).run()
    assert "batch-0: still open" in caplog.text and client.texts() == []
    service.configure(Config(polls=0))
    replace(client, questions=0, restart=True).run()
    assert client.texts() == right_texts(range(2)), "the batch was created although the call was not answered"
    assert len(service.paid()) == 2


def test_service_that_does_not_list_batches(service: FakeBatchService) -> None:
    client = interrupted(service, CREATE, AFTER, fail={LIST: [404, 405, 404]})
    for _ in range(2):
        with pytest.raises(ServiceStop, match=r"not known whether the 2 requests of file-0 .*status 40[45].*--restart"):
            client.run()
    assert len(service.paid()) == len(set(service.paid())) == 5, "the other questions are asked, and none twice"
    assert client.texts() == right_texts(range(2, 5))
    replace(client, restart=True).run()
    assert client.texts() == right_texts(range(5))


def test_old_batches_are_not_looked_through(service: FakeBatchService) -> None:
    client = interrupted(service, CREATE, BEFORE)
    old = {"object": "batch", "input_file_id": "x", "metadata": None, "status": "completed", "created_at": 10**9}
    batches = [{"id": f"old-{number}", "lines": 0, **old} for number in range(300)]
    (service.folder / "batches.json").write_text(json.dumps(batches))
    client.run()
    assert client.texts() == right_texts(range(5)) and len(service.paid()) == 5
    assert len(service.calls(LIST)) == 50, "pages of two batches"


def test_full_disk_is_an_error_and_no_reason_to_try_again(service: FakeBatchService, tmp_path: Path) -> None:
    (service.folder / "files" / "results").write_bytes(b"x" * 10**6)
    full = tmp_path / "full"
    full.symlink_to("/dev/full")

    async def download() -> None:
        client = Service(service.url, "key", 60, 4)
        try:
            await BatchService(client, "model").download("results", full)
        finally:
            await client.close()

    with pytest.raises(OSError):
        asyncio.run(download())
