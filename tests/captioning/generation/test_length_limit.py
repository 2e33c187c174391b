"""The longest sequence of a text model: its positions or its sliding window, by configuration and by config.json."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.length_limit import LengthLimit
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Engine, Request

SIZES = {"num_hidden_layers": 4, "max_position_embeddings": 100}
WINDOW = {**SIZES, "sliding_window": 40}
SOME = ["full_attention", "sliding_attention"] * 2
# Type of the text model, entries of config.json, longest sequence, whether a window is the limit.
CASES: list[tuple[str, dict[str, Any], int | None, bool]] = [
    ("mistral", WINDOW, 40, True),
    ("mistral", {**SIZES, "sliding_window": 100}, 100, False),
    ("mistral", {**SIZES, "sliding_window": None}, 100, False),
    ("mistral", {}, 4096, True),
    ("qwen2", {}, 32768, False),
    ("qwen2", WINDOW, 100, False),
    ("qwen2", {**WINDOW, "use_sliding_window": False, "max_window_layers": 0}, 100, False),
    ("qwen2", {**WINDOW, "use_sliding_window": True}, 100, False),
    ("qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 2}, 40, True),
    ("qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 4}, 100, False),
    ("qwen2", {**WINDOW, "use_sliding_window": True, "layer_types": SOME, "max_window_layers": 4}, 40, True),
    ("qwen2", {**WINDOW, "use_sliding_window": True, "layer_types": ["full_attention"] * 4}, 100, False),
    ("qwen2", {"use_sliding_window": True, "num_hidden_layers": 29}, 4096, True),
    ("qwen2", {"use_sliding_window": True, "num_hidden_layers": 28}, 32768, False),
    ("qwen2_vl_text", {**WINDOW, "use_sliding_window": True, "max_window_layers": 3}, 40, True),
    ("qwen2_vl_text", {**WINDOW, "use_sliding_window": True}, 100, False),
    ("qwen2_5_vl_text", {**WINDOW, "use_sliding_window": True, "max_window_layers": 3}, 40, True),
    ("qwen2_5_vl_text", {**WINDOW, "use_sliding_window": False, "max_window_layers": 3}, 100, False),
    ("llama", {}, 2048, False),
    ("opt", {"max_position_embeddings": 144}, 144, False),
    ("t5", {}, None, False),
]


@pytest.mark.parametrize(("kind", "entries", "tokens", "is_window"), CASES, ids=str)
def test_the_limit_of_a_configuration(
    backend: Backend, kind: str, entries: dict[str, Any], tokens: int | None, is_window: bool
) -> None:
    from transformers import CONFIG_MAPPING

    expected = LengthLimit(tokens, is_window)
    assert LengthLimit.of(CONFIG_MAPPING[kind](**entries)) == expected
    assert LengthLimit.from_settings({"model_type": kind, **entries}) == expected
    # A layout with all entries of the text model at the top, as Qwen2-VL has it.
    assert LengthLimit.from_settings({"model_type": kind.removesuffix("_text"), **entries}) == expected


def test_messages_name_the_limit_and_the_numbers() -> None:
    assert LengthLimit(None).problem(10**9, 1) is None
    assert LengthLimit(40).problem(30, 10) is None and LengthLimit(40, is_window=True).problem(30, 10) is None
    assert LengthLimit(40).problem(30, 11) == (
        "30 prompt tokens and 11 new tokens make 41; the model was made for 40: use fewer or smaller frames, a shorter "
        "question, or fewer new tokens"
    )
    assert LengthLimit(40, is_window=True).problem(30, 11) == (
        "30 prompt tokens and 11 new tokens make 41; the model's sliding window has 40 tokens; beyond it the result "
        "would be wrong: use fewer or smaller frames, a shorter question, or fewer new tokens"
    )
    assert LengthLimit(None).prompt_problem(10**9) is None and LengthLimit(40).prompt_problem(39) is None
    assert LengthLimit(40).prompt_problem(40) == (
        "the prompt has 40 tokens; the model was made for 40: use fewer or smaller frames, or a shorter question"
    )
    assert str(LengthLimit(40).prompt_problem(50, is_part=True)).startswith("the prompt has more than 50 tokens; the ")


@pytest.mark.parametrize("in_batches", [True, False])
def test_both_engines_refuse_requests_beyond_the_window(backend: Backend, in_batches: bool) -> None:
    """Mistral with a window of 12: up to 12 tokens the answer is that of transformers' attention, which has windows."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from pipeline.captioning.generation.attention import set_attention
    from pipeline.captioning.generation.engine import EngineSettings, SlotEngine
    from pipeline.captioning.generation.text_model import TextModel
    from pipeline.captioning.generation.whole_batch import BatchEngine

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 12}
    torch.manual_seed(0)
    reference = MistralForCausalLM(MistralConfig(**sizes, initializer_range=0.3, attn_implementation="eager")).eval()
    config = MistralConfig(**sizes)
    set_attention(config)
    model = MistralForCausalLM(config).eval()
    model.load_state_dict(reference.state_dict())
    engine: Engine = BatchEngine(model, 2)
    if not in_batches:
        engine = SlotEngine(TextModel.of(model), backend, EngineSettings(2))
    embeddings = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (7, 32)).astype(np.float32))
    fits = Request("fits", embeddings, np.arange(7), 7, GenerationOptions(max_new_tokens=5), frozenset())
    engine.add(fits)
    engine.add(replace(fits, key="long", options=GenerationOptions(max_new_tokens=6)))
    ends: dict[Any, End] = {}
    while engine.active:
        ends |= {event.key: event for event in engine.step() if isinstance(event, End)}
    inputs = {"inputs_embeds": embeddings[None], "attention_mask": torch.ones(1, 7).long()}
    output = reference.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=64, pad_token_id=0)
    assert ends["fits"].ids == output[0].tolist()
    assert ends["long"].reason is EndReason.TOO_LONG
    assert "7 prompt tokens and 6 new tokens make 13; the model's sliding window has 12" in ends["long"].message
