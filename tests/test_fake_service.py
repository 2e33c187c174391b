"""The test service does what its configuration says, seen through the `openai` library."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from scripts import service_runs
from scripts.coded_clips import code_of, coded_image
from tests.service_faults import REFUSAL, TRANSIENT, Faults, expected_caption


def _body(codes: list[int], text: str, *more: dict[str, str], model: str = "fake-vl") -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for code in codes:
        file = io.BytesIO()
        coded_image(code).save(file, "JPEG", quality=60)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    parts.append({"type": "text", "text": text})
    return {"model": model, "messages": [{"role": "user", "content": parts}, *more]}


def _with_client(
    service: service_runs.RunningService, use: Callable[[openai.AsyncOpenAI], Any], key: str = "k", timeout: float = 20
) -> Any:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=service.url, api_key=key, max_retries=0, timeout=timeout) as client:
            return await use(client)

    return asyncio.run(run())


async def _failure(client: openai.AsyncOpenAI, body: dict[str, Any]) -> Any:
    """The error of a request, or its answer."""
    try:
        return await client.chat.completions.create(**body)
    except (openai.OpenAIError, ValueError) as error:
        return error


def test_captions_state_the_frames_and_the_question(tmp_path: Path) -> None:
    codes = [code_of(7, 2), code_of(7, 6)]
    asks = [f"What? {number}" for number in range(20)]
    with service_runs.running_service(tmp_path, latency=0.2, latency_spread=1) as service:

        async def use(client: openai.AsyncOpenAI) -> list[Any]:
            assert [model.id async for model in client.models.list()] == ["fake-vl"]
            return await asyncio.gather(*(client.chat.completions.create(**_body(codes, ask)) for ask in asks))

        answers = _with_client(service, use)
        assert [answer.choices[0].message.content for answer in answers] == [
            expected_caption(codes, ask) for ask in asks
        ]
        assert len({answer.choices[0].message.content for answer in answers}) == 20
        swapped = _with_client(service, lambda client: _failure(client, _body(codes[::-1], asks[0])))
        assert swapped.choices[0].message.content != expected_caption(codes, asks[0])
        log = service.log()
        assert log.by_status() == {"answered": 21} and log.answered_twice() == 0
        assert service.stats()["max_in_flight"] == 20 and service.stats()["in_flight"] == 0
        assert sum(one["prompt_tokens"] for one in log.answered()[:20]) == sum(
            one.usage.prompt_tokens for one in answers
        )
        _with_client(service, lambda client: _failure(client, _body(codes, asks[3])))
        assert service.log().answered_twice() == service.log().paid_twice() == 1


def test_each_transient_fault_is_followed_by_the_answer(tmp_path: Path) -> None:
    schedule = {str(2 * number + 1): fault for number, fault in enumerate(TRANSIENT)}
    with service_runs.running_service(tmp_path, schedule=schedule, retry_after=3) as service:

        async def use(client: openai.AsyncOpenAI) -> list[tuple[Any, Any]]:
            bodies = [_body([number], "What?") for number in range(len(TRANSIENT))]
            return [(await _failure(client, body), await _failure(client, body)) for body in bodies]

        started = time.time()
        found = dict(zip(TRANSIENT, _with_client(service, use, timeout=2), strict=True))
        log = service.log()
    for number, (_, answer) in enumerate(found.values()):
        assert answer.choices[0].message.content == expected_caption([number], "What?")
    assert [one["status"] for one in log.requests[::2]] == list(TRANSIENT)
    errors = {name: error for name, (error, _) in found.items()}
    for name in ("429", "408", "409", "500", "502", "503"):
        assert errors[name].status_code == int(name) and "retry-after" not in errors[name].response.headers
    assert errors["429_seconds"].response.headers["retry-after"] == "3"
    date = email.utils.parsedate_to_datetime(errors["429_date"].response.headers["retry-after"])
    assert started + 3 <= date.timestamp() <= time.time() + 4  # the answers before and after may have taken long
    assert isinstance(errors["hang"], openai.APITimeoutError)
    for name in ("cut_before", "cut_body"):
        assert isinstance(errors[name], openai.APIConnectionError), name
    for name in ("invalid_json", "html", "no_choices"):  # the library lets some of them pass: nothing can be read
        assert isinstance(errors[name], Exception | str) or errors[name].choices is None, name


def test_bad_answers_remain_bad_or_become_good_with_a_note(tmp_path: Path) -> None:
    found: dict[str, list[Any]] = {}
    kinds = ("empty", "refusal", "refusal_always", "length", "filter", "filter_400", "bad_request")
    note = {"role": "user", "content": "There was no text."}
    with service_runs.running_service(tmp_path, answers=dict.fromkeys(kinds, 1 / len(kinds))) as service:
        faults = Faults(answers=dict.fromkeys(kinds, 1 / len(kinds)))
        for number in range(60):
            kind = faults.kind(expected_caption([number], "What?"))
            if kind not in found:
                bodies = [_body([number], "What?"), _body([number], "What?", note)]

                async def use(client: openai.AsyncOpenAI, bodies: list[dict[str, Any]] = bodies) -> list[Any]:
                    return [await _failure(client, body) for body in bodies]

                found[kind] = [expected_caption([number], "What?"), *_with_client(service, use)]
    assert found.keys() == set(kinds)
    for kind in ("empty", "refusal"):
        caption, first, second = found[kind]
        assert not first.choices[0].message.content and second.choices[0].message.content == caption
    assert found["refusal_always"][2].choices[0].message.refusal == REFUSAL
    caption, answer, _ = found["length"]
    assert caption.startswith(answer.choices[0].message.content) and answer.choices[0].finish_reason == "length"
    assert found["filter"][1].choices[0].finish_reason == "content_filter"
    assert found["filter_400"][1].code == "content_filter" and found["bad_request"][1].status_code == 400


def test_keys_stop_and_quotas_end(tmp_path: Path) -> None:
    config = {"key_stops_after": {"a": 2}, "quota_after": {"b": 1}, "echoes_key": True}
    with service_runs.running_service(tmp_path, **config) as service:
        for key, answers, kind, code in (("a", 2, 401, "invalid_api_key"), ("b", 1, 429, "insufficient_quota")):
            for number in range(answers):
                answer = _with_client(service, lambda client, n=number: _failure(client, _body([n], "?")), key)
                assert answer.choices
            error = _with_client(service, lambda client: _failure(client, _body([9], "?")), key)
            assert (error.status_code, error.code) == (kind, code) and f"key {key}" in str(error)
        assert service.log().by_status() == {"answered": 3, "key": 1, "quota": 1}
        assert '"a"' not in service.log_path.read_text(), "the log does not contain keys"
        unknown = _with_client(service, lambda client: _failure(client, _body([1], "?", model="other")), "c")
        assert unknown.status_code == 404 and unknown.code == "model_not_found"


def test_an_answer_for_which_nobody_waits_is_not_delivered(tmp_path: Path) -> None:
    with service_runs.running_service(tmp_path, latency=1.5) as service:
        error = _with_client(service, lambda client: _failure(client, _body([1], "?")), timeout=0.5)
        assert isinstance(error, openai.APITimeoutError)
        deadline = time.monotonic() + 60
        while not service.log().requests and time.monotonic() < deadline:
            time.sleep(0.02)
        log = service.log()
    assert log.by_status() == {"gone": 1} and not log.answered() and log.paid_twice() == 0


@pytest.mark.parametrize("config", [{"transient": {"499": 1.0}}, {"answers": {"empty": 0.8, "length": 0.3}}])
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        Faults(**config)
