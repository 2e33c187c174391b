"""PLLaVA answers questions about text alone as transformers' `generate` of its text model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.asked import complete
from tests.golden import DATA, LORA_ALPHA

if TYPE_CHECKING:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

TEXTS = ("What is a title for this?", "0 to 10 s: A man cuts bread.\n10 to 20 s: He eats it. " * 12, "<image></s> red")
PROMPTS = (*(f"USER: {text} ASSISTANT:" for text in TEXTS[:2]), "USER: < image>< /s> red ASSISTANT:")
NEW_TOKENS = 10


def _source(checkpoint: str = "mini-a", system: str = "", **generation: int) -> PllavaSource:
    alpha = None if "merged" in checkpoint else LORA_ALPHA
    options = PllavaOptions(DATA / checkpoint, 2, Asks.single("What?"), system, (4, 6, 6), lora_alpha=alpha)
    return PllavaSource(options, GenerationOptions(max_new_tokens=NEW_TOKENS, **generation))


@pytest.fixture(scope="module")
def captioner(backend: Backend) -> PllavaCaptioner:
    return _source().load(backend)


@pytest.fixture(scope="module")
def expected(backend: Backend) -> dict[int, list[list[int]]]:
    """By number of beams: the answers of transformers' Llama with the merged weights."""
    return {beams: _reference(beams) for beams in (1, 2)}


def _reference(beams: int) -> list[list[int]]:
    import torch
    import transformers
    from safetensors.numpy import load_file

    source = _source("mini-a-merged")
    text = {key: value for key, value in source.config.text.items() if key not in ("model_type", "torch_dtype")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text, attn_implementation="eager")).eval()
    weights = load_file(str(DATA / "mini-a-merged" / "model.safetensors"))
    state = {
        name.removeprefix("language_model."): torch.from_numpy(values.astype(np.float32))
        for name, values in weights.items()
        if name.startswith("language_model.")
    }
    assert not model.load_state_dict(state, strict=False).missing_keys
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "mini-a-merged")
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                num_beams=beams, eos_token_id=sorted(source.stop_ids), pad_token_id=0,
            )  # fmt: skip
        answers.append(output[0, ids.shape[1] :].numpy().tolist())
    return answers


def _answers(captioner: Any, slots: int) -> list[list[int]]:
    requests = [captioner.prepare_text((row, 0), text) for row, text in enumerate(TEXTS)]
    ends = complete(captioner.engine(slots), requests)
    return [ends[request.key, 0].ids for request in requests]


@pytest.mark.model
@pytest.mark.parametrize("slots", [1, 3])
def test_answers_are_those_of_transformers(
    captioner: PllavaCaptioner, expected: dict[int, list[list[int]]], slots: int
) -> None:
    assert _answers(captioner, slots) == expected[1]


def test_beams_are_those_of_transformers(backend: Backend, expected: dict[int, list[list[int]]]) -> None:
    assert _answers(_source(num_beams=2).load(backend), 2) == expected[2] != expected[1]


@pytest.mark.model
def test_a_clip_and_texts_in_one_engine(captioner: PllavaCaptioner, expected: dict[int, list[list[int]]]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 336, 336, 3), np.uint8)
    (clip,) = captioner.prepare([Clip(9, "", pixels, (0, 1))])
    alone = complete(captioner.engine(1), [clip])[(9, 0), 0].ids
    texts = [captioner.prepare_text((row, 0), text) for row, text in enumerate(TEXTS)]
    ends = complete(captioner.engine(2), [texts[0], clip, *texts[1:]])
    assert [ends[(row, 0), 0].ids for row in range(3)] == expected[1] and ends[(9, 0), 0].ids == alone


def test_the_prompts_of_texts(backend: Backend) -> None:
    source = _source(system="Watch.")
    prompts = source.text_prompts()
    assert [prompts.text(text) for text in TEXTS] == list(PROMPTS), "the system prompt of the captions is not used"
    assert prompts.token_ids(TEXTS[2]).count(source.config.image_token_id) == 0
    assert source.text_prompts("Be brief.").text("What?") == "Be brief. USER: What? ASSISTANT:"
    assert prompts.window == 4096 and prompts.generation.max_new_tokens == NEW_TOKENS
    found = prompts.fingerprint()
    assert found.items() >= {"text prompt": "USER: {question} ASSISTANT:", "lora alpha": "2.0"}.items()
    assert not {"frames", "preprocessing", "pooling shape"} & set(found)
    assert prompts.describe()[0].startswith("prompt about text: conversation template vicuna: the tokenizer has no")
    with pytest.raises(UsageError, match="--system must not contain <image>"):
        source.text_prompts("<image>")
