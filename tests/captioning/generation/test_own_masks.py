"""BatchEngine runs OPT and T5: the answers of transformers' `generate` for each prompt alone, and samples by stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Request
from tests.npu_emulation import emulated_npu

from .text_models import BATCH_MODELS, MAX_POSITIONS, VOCABULARY, WIDTH, build

LENGTHS = (7, 5, 7, 7)
# What `generate` returns on PyTorch without stop ids, without the decoder's start token. The first and the second score
# of each step differ by 0.04 or more. Id 1 is the models' own stop id.
GREEDY = {
    "opt": [[31, 31, 31, 31, 31], [4, 31, 4, 31, 31], [4, 18, 18, 18, 18], [31, 18, 18, 18, 18]],
    "t5": [[10, 41, 41, 41, 41], [2, 2, 2, 2, 2], [10, 25, 8, 15, 15], [58, 58, 58, 58, 58, 1, 1, 30]],
}
STOPS = {"opt": frozenset({18}), "t5": frozenset({8, 41})}


@pytest.fixture(scope="module", params=BATCH_MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(backend: Backend, name: str) -> Any:
    return build(name, "eager")


def _request(key: int, stop_ids: frozenset[int] = frozenset(), new_tokens: int = 8, **changes: Any) -> Request:
    import torch

    length = LENGTHS[key % len(LENGTHS)]
    embeddings = np.random.default_rng(key).normal(0, 1, (length, WIDTH)).astype(np.float32)
    fields = {name: changes.pop(name) for name in ("history_ids", "stream") if name in changes}
    options = GenerationOptions(max_new_tokens=new_tokens, **changes)
    return Request(key, torch.from_numpy(embeddings), np.arange(length), length, options, stop_ids, **fields)


def _answers(model: Any, requests: list[Request], slots: int = 4) -> dict[Any, End]:
    from pipeline.captioning.generation.whole_batch import BatchEngine

    engine = BatchEngine(model, slots)
    for request in requests:
        engine.add(request)
    ends = {}
    while engine.active:
        ends |= {event.key: event for event in engine.step() if isinstance(event, End)}
    return ends


def _generated(model: Any, request: Request) -> list[int]:
    """The new tokens of `generate` for one prompt, up to the first stop id."""
    import torch

    inputs = {"inputs_embeds": request.embeddings[None], "attention_mask": torch.ones((1, request.length)).long()}
    if request.history_ids:
        inputs["input_ids"] = torch.tensor([request.history_ids])
    options = request.options
    output = model.generate(
        **inputs,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        repetition_penalty=options.penalty,
        no_repeat_ngram_size=options.ngram_size,
        do_sample=False,
        eos_token_id=sorted(request.stop_ids) or [VOCABULARY],
        pad_token_id=0,
    )
    ids: list[int] = output[0, len(request.history_ids) + int(model.config.is_encoder_decoder) :].tolist()
    ends = [position for position, token in enumerate(ids) if token in request.stop_ids]
    return ids[: ends[0] + 1] if ends else ids


@pytest.mark.model
def test_greedy_answers_are_those_of_pytorch(model: Any, name: str) -> None:
    """Three prompts share a batch and end at different steps."""
    ends = _answers(model, [_request(key, STOPS[name], new_tokens=5) for key in range(4)])
    for key, tokens in enumerate(GREEDY[name]):
        stops = [position for position, token in enumerate(tokens) if token in STOPS[name]]
        expected = tokens[: stops[0] + 1] if stops else tokens[:5]
        assert ends[key].ids == expected
        assert ends[key].reason is (EndReason.STOP if stops else EndReason.LENGTH)
    assert any(end.reason is EndReason.STOP for end in ends.values())


def test_a_request_without_stop_ids_reaches_its_length(model: Any, name: str) -> None:
    """The model's own stop id does not end an answer: the request has all stop ids."""
    ends = _answers(model, [_request(key) for key in range(4)])
    for key, tokens in enumerate(GREEDY[name]):
        assert ends[key].ids[: len(tokens)] == tokens and len(ends[key].ids) == 8


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "num_beams": 2},
    ],
    ids=str,
)
def test_beams_and_rules_are_those_of_generate(model: Any, name: str, options: dict[str, Any]) -> None:
    requests = [_request(key, STOPS[name], **options) for key in range(4)]
    ends = _answers(model, requests)
    for request in requests:
        assert ends[request.key].ids == _generated(model, request), request.key
    if "num_beams" not in options and options.get("repetition_penalty") != 0.7:
        plain = _answers(model, [_request(key, STOPS[name]) for key in range(4)])
        assert any(ends[key].ids != plain[key].ids for key in ends)


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2, "num_beams": 3}], ids=str)
def test_rules_apply_to_the_history_of_each_prompt(backend: Backend, options: dict[str, Any]) -> None:
    """As `generate` with embeddings and ids, which is how transformers' BLIP-2 calls OPT."""
    model = build("opt", "eager")
    histories = [(31, 4, 31, 18, 4, 4, 5), (1, 31, 31, 4, 31), (4, 18, 18, 4, 4, 2, 3), (60, 61, 62, 60, 61, 62, 60)]
    requests = [_request(key, history_ids=history, **options) for key, history in enumerate(histories)]
    ends = _answers(model, requests)
    for request in requests:
        assert ends[request.key].ids == _generated(model, request), request.key
    without = _answers(model, [_request(key, **options) for key in range(4)])
    assert any(ends[key].ids != without[key].ids for key in ends)


def test_history_ids_beyond_the_vocabulary_change_nothing(backend: Backend) -> None:
    model = build("opt", "eager")
    options: dict[str, Any] = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    ends = _answers(model, [_request(0, history_ids=(VOCABULARY, VOCABULARY, VOCABULARY + 3), **options)])
    assert ends[0].ids == _answers(model, [_request(0, **options)])[0].ids


SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_p": 0.9}


def test_samples_depend_on_seed_and_stream_but_not_on_the_batch(model: Any) -> None:
    rules = {**SAMPLING, "repetition_penalty": 1.2}
    requests = [_request(key, seed=5, stream=10 + key, **rules) for key in range(8)]
    together = _answers(model, requests, slots=6)
    for request in reversed(requests):
        assert _answers(model, [request])[request.key].ids == together[request.key].ids
    again = _answers(model, [_request(key, seed=5, stream=10 + key, **rules) for key in range(8)], slots=2)
    other_seed = _answers(model, [_request(key, seed=6, stream=10 + key, **rules) for key in range(8)])
    other_stream = _answers(model, [_request(key, seed=5, stream=20 + key, **rules) for key in range(8)])
    assert all(again[key].ids == together[key].ids for key in range(8))
    assert sum(other_seed[key].ids != together[key].ids for key in range(8)) >= 6
    assert sum(other_stream[key].ids != together[key].ids for key in range(8)) >= 6


def test_samples_are_those_of_the_engine_of_slots(backend: Backend) -> None:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION
    from pipeline.captioning.generation.engine import EngineSettings, SlotEngine
    from pipeline.captioning.generation.text_model import TextModel

    llama = build("llama", UNMASKED_ATTENTION)
    rules = {**SAMPLING, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "seed": 3}
    requests = [_request(key, stream=key, history_ids=tuple(range(key, 40, 4)), **rules) for key in range(6)]
    engine = SlotEngine(TextModel.of(llama), backend, EngineSettings(3))
    for request in requests:
        engine.add(request)
    slots: dict[Any, list[int]] = {}
    while engine.active:
        slots |= {event.key: event.ids for event in engine.step() if isinstance(event, End)}
    assert {key: end.ids for key, end in _answers(llama, requests).items()} == slots


def test_nan_costs_its_own_prompt_only_when_sampling(model: Any) -> None:
    good, bad = _request(0, **SAMPLING), _request(2, **SAMPLING)
    expected = _answers(model, [_request(0, **SAMPLING)])[0].ids
    bad.embeddings[2, 3] = float("nan")
    ends = _answers(model, [bad, good])
    assert ends[2].reason is EndReason.NOT_A_NUMBER and ends[0].ids == expected


def test_opt_has_a_limit_and_t5_has_none(model: Any, name: str) -> None:
    import torch

    length = MAX_POSITIONS - 1
    long = Request(
        "long", torch.zeros(length, WIDTH), np.arange(length), length, GenerationOptions(max_new_tokens=2), frozenset()
    )
    end = _answers(model, [long])["long"]
    if name == "t5":
        assert len(end.ids) == 2
    else:
        assert end.reason is EndReason.TOO_LONG and f"made for {MAX_POSITIONS}: use fewer" in end.message


def test_attention_of_each_part(backend: Backend) -> None:
    from transformers import Blip2Config, LlamaConfig, LlavaConfig

    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION, makes_own_masks, set_attention
    from pipeline.captioning.generation.whole_batch import BatchEngine

    for kind in BATCH_MODELS:
        blip = Blip2Config(text_config={"model_type": kind})
        set_attention(blip)
        assert blip.vision_config._attn_implementation == UNMASKED_ATTENTION
        assert blip.text_config._attn_implementation == "eager" and makes_own_masks(blip.text_config)
        with pytest.raises(ValueError, match=r"makes its own masks; use `attention\.set_attention`"):
            BatchEngine(build(kind, UNMASKED_ATTENTION), 2)
    llava = LlavaConfig(text_config=LlamaConfig())
    set_attention(llava)
    assert llava.text_config._attn_implementation == llava.vision_config._attn_implementation == UNMASKED_ATTENTION
    assert not makes_own_masks(llava.text_config)


@pytest.mark.model
@pytest.mark.mindspore_only
@pytest.mark.parametrize(
    "options",
    [{}, {**SAMPLING, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}, {"num_beams": 2}],
    ids=["greedy", "sampled", "beams"],
)
def test_ascend_has_every_operator_and_no_devices_are_mixed(
    backend: Backend, name: str, model: Any, options: dict[str, Any]
) -> None:
    keys, new_tokens = (0, 2), 3
    requests = [_request(key, STOPS[name], new_tokens, history_ids=(4, 31), stream=key, **options) for key in keys]
    expected = _answers(model, requests)
    with emulated_npu() as npu:
        on_npu = build(name, "eager").to(npu.device)
        moved = [replace(request, embeddings=request.embeddings.to(npu.device)) for request in requests]
        found = _answers(on_npu, moved)
    assert {key: end.ids for key, end in found.items()} == {key: end.ids for key, end in expected.items()}
