"""BatchEngine: the same answers as transformers' beam search, with the same interface as SlotEngine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, FollowUp, Request, Token

from .text_models import MAX_POSITIONS, WIDTH, build

pytestmark = pytest.mark.model

STOPS = frozenset({3, 9, 27})


@pytest.fixture(scope="module")
def model(backend: Backend) -> Any:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

    return build("llama", UNMASKED_ATTENTION)


def _request(key: int, length: int, max_tokens: int = 6, **changes: Any) -> Request:
    import torch

    embeddings = np.random.default_rng(key).normal(0, 1, (length, WIDTH)).astype(np.float32)
    options = GenerationOptions(max_new_tokens=max_tokens, num_beams=3)
    fields = {"positions": np.arange(length), "next_position": length, "stop_ids": STOPS, **changes}
    return Request(key, torch.from_numpy(embeddings), options=options, **fields)


def _expected(model: Any, request: Request) -> list[int]:
    import torch

    with torch.no_grad():
        output = model.generate(
            inputs_embeds=request.embeddings[None],
            attention_mask=torch.ones((1, request.length), dtype=torch.int64),
            max_new_tokens=request.options.max_new_tokens,
            num_beams=3,
            do_sample=False,
            eos_token_id=sorted(STOPS),
            pad_token_id=0,
        )
    ids = output[0].numpy().tolist()
    ends = [position for position, token in enumerate(ids) if token in STOPS]
    return ids[: ends[0] + 1] if ends else ids


def test_prompts_of_several_lengths_in_batches(model: Any) -> None:
    """More requests than slots: requests with the same length and options share a batch; the oldest comes first."""
    from pipeline.captioning.generation.whole_batch import BatchEngine

    engine = BatchEngine(model, 2)
    requests = [_request(0, 7), _request(1, 5), _request(2, 7), _request(3, 7), _request(4, 5, max_tokens=3)]
    for request in requests[:4]:
        engine.add(request)
    assert (engine.active, engine.free, engine.requests_needed) == (4, 0, 0)
    batches, answers = [], {}
    while engine.active:
        events = engine.step()
        ends = [event for event in events if isinstance(event, End)]
        batches.append([end.key for end in ends])
        for end in ends:
            assert end.ids == [event.id for event in events if isinstance(event, Token) and event.key == end.key]
            answers[end.key] = end
        if len(batches) == 1:
            engine.add(requests[4])
    assert batches == [[0, 2], [1], [3], [4]]
    for request in requests:
        end = answers[request.key]
        assert end.ids == _expected(model, request), request.key
        assert end.reason is (EndReason.STOP if end.ids[-1] in STOPS else EndReason.LENGTH)
    assert engine.step() == [] and engine.requests_needed == engine.free == 2
    assert engine.stats.decode_tokens == sum(len(end.ids) for end in answers.values())


def test_batches_become_smaller_when_they_are_out_of_memory(
    model: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.captioning.generation.whole_batch import BatchEngine

    batches: list[int] = []
    original = model.generate

    def generate(**arguments: Any) -> Any:
        batches.append(len(arguments["inputs_embeds"]))
        if batches[-1] > 2:
            raise RuntimeError("CUDA out of memory")
        return original(**arguments)

    requests = [_request(key, 5) for key in range(7)]
    expected = [_expected(model, request) for request in requests]
    monkeypatch.setattr(model, "generate", generate)
    engine = BatchEngine(model, 7, smaller_batches=backend)
    for request in requests:
        engine.add(request)
    steps = [engine.step() for _ in range(7)]
    ends = [[event for event in events if isinstance(event, End)] for events in steps]
    assert [len(of_step) for of_step in ends] == [1] * 7 and batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert [end.ids for of_step in ends for end in of_step] == expected
    assert engine.active == 0 and engine.free == 7
    unchanged = BatchEngine(model, 3)
    for request in requests[:3]:
        unchanged.add(request)
    with pytest.raises(RuntimeError, match="out of memory"):
        unchanged.step()


def test_cancelled_duplicate_unsupported_and_too_long_requests(model: Any) -> None:
    from pipeline.captioning.generation.whole_batch import BatchEngine

    engine = BatchEngine(model, 3)
    engine.add(_request(0, 5))
    engine.add(_request(1, MAX_POSITIONS - 5, max_tokens=6))
    with pytest.raises(ValueError, match="already has a request 1"):
        engine.add(_request(1, 5))
    for change in ({"has_prefix": True}, {"next_position": 9}, {"positions": np.arange(1, 6)}):
        with pytest.raises(ValueError, match="needs SlotEngine"):
            engine.add(_request(2, 5, **change))
    assert engine.cancel(0) and not engine.cancel(0)
    (end,) = engine.step()
    assert isinstance(end, End) and end.reason is EndReason.TOO_LONG and "6 new tokens" in end.message
    assert engine.active == 0 and engine.step() == []


def test_only_the_prompt_with_nan_scores_fails(model: Any) -> None:
    from pipeline.captioning.generation.whole_batch import BatchEngine

    engine = BatchEngine(model, 3)
    good, bad = _request(0, 5), _request(1, 5)
    bad.embeddings[2, 3] = float("nan")
    steps: list[int] = []
    engine.on_token = lambda: steps.append(len(steps))
    for request in (bad, good):
        engine.add(request)
    ends = {event.key: event for event in engine.step() if isinstance(event, End)}
    assert ends[1].reason is EndReason.NOT_A_NUMBER and "--dtype" in ends[1].message and not ends[1].ids
    assert ends[0].ids == _expected(model, good)
    assert len(steps) >= 2, "no call of `on_token` during a long batch"


def test_events_carry_the_question_and_follow_ups_are_refused(model: Any) -> None:
    from pipeline.captioning.generation.whole_batch import BatchEngine

    engine = BatchEngine(model, 2)
    request = _request(0, 7, question=3)
    text = FollowUp(4, request.embeddings[5:], request.positions[5:], 7)
    with pytest.raises(ValueError, match="SlotEngine"):
        engine.add(dataclasses.replace(request, shared=5, follow_ups=(text,)))
    for one in (request, _request(1, MAX_POSITIONS, question=5)):
        engine.add(one)
    events = engine.step()
    assert {(event.key, event.question) for event in events} == {(0, 3), (1, 5)}
    assert {type(event) for event in events if event.key == 0} == {Token, End} and engine.active == 0
