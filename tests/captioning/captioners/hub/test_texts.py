"""Questions about text alone: each family's answers are those of transformers' `generate` on PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.asked import complete
from tests.tiny_families import Family
from tests.tiny_llava_qwen import NEW_TOKENS, PENALTY, Checkpoints

from . import reference_cases as cases

ON_BOTH = "qwen2_5_vl"  # runs on MindSpore too
FAMILIES = [pytest.param(name, marks=pytest.mark.model) if name == ON_BOTH else name for name in cases.text_cases()]
FIRST_ROW = 100


def _source(families: dict[str, Family], name: str, folder: Path, *flags: str) -> Any:
    stop_ids = cases.recorded()[name]["stop ids"]
    copy = folder / name
    if not copy.exists():
        cases.checkpoint(families[name].folder, name, copy, stop_ids)
    return cases.source(copy, name, *flags)


def _texts(captioner: Any, questions: tuple[str, ...] = cases.TEXTS, **how: Any) -> list[Any]:
    """A request for each question, each for a row of its own."""
    return [captioner.prepare_text((FIRST_ROW + row, 0), text, **how) for row, text in enumerate(questions)]


def _ids(captioner: Any, requests: list[Any], slots: int) -> list[list[int]]:
    """The answers of requests of one question each."""
    ends = complete(captioner.engine(slots), requests)
    return [ends[request.key, request.question].ids for request in requests]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_transformers(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path
) -> None:
    """Alone in one slot, and among clips in three; with the penalty of the checkpoint, which covers the prompt."""
    source, expected = _source(families, name, tmp_path), cases.recorded()[name]
    captioner, clips = source.load(backend), cases.clips(source)[:2]
    texts = _texts(captioner)
    first, second = captioner.prepare(clips)
    assert texts[2].length > first.length
    mixed = _ids(captioner, [texts[0], first, texts[2], second, texts[1], texts[3]], slots=3)
    assert [mixed[index] for index in (0, 4, 2, 5)] == expected["texts"]
    assert [mixed[1], mixed[3]] == expected["greedy"][:2]
    assert _ids(captioner, texts, slots=1) == expected["texts"]


@pytest.mark.model
def test_beams_are_those_of_transformers(families: dict[str, Family], backend: Backend, tmp_path: Path) -> None:
    flags = f"--num_beams={cases.BEAMS}", f"--max_new_tokens={cases.BEAM_TOKENS}"
    source, expected = _source(families, "qwen2_5_vl", tmp_path, *flags), cases.recorded()["qwen2_5_vl"]
    captioner = source.load(backend)
    texts = _texts(captioner)
    (clip,) = captioner.prepare(cases.clips(source)[1:2])
    assert _ids(captioner, [*texts, clip], slots=3) == [*expected["texts beams"], expected["beams"][0]]
    assert expected["texts beams"] != [ids[: cases.BEAM_TOKENS] for ids in expected["texts"]], "beams have no effect"


def test_llava_video_answers_as_transformers(llava_video: Checkpoints, backend: Backend) -> None:
    """The penalty covers new tokens only, as in the public program."""
    import torch
    from transformers import AutoTokenizer

    from pipeline.captioning.caption import make_parser, make_source

    folder = llava_video.folder / "checkpoint"
    arguments = ["meta.csv", f"--pretrained_model_name_or_path={folder}", f"--max_new_tokens={NEW_TOKENS}"]
    captioner: Any = make_source(
        make_parser().parse_args([*arguments, f"--vision_tower={llava_video.folder / 'siglip'}"])
    ).load(backend)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), captioner._model
    expected = []
    for question in cases.TEXTS:
        ids = tokenizer(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"{question}<|im_end|>\n<|im_start|>assistant\n",
            return_tensors="pt",
        ).input_ids
        stops = sorted(captioner._common.stop_ids)
        with torch.no_grad():
            answer = model.generate(
                inputs_embeds=model.get_input_embeddings()(ids), attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=NEW_TOKENS, repetition_penalty=PENALTY, eos_token_id=stops, pad_token_id=stops[0],
            )  # fmt: skip
        expected.append(answer[0].tolist())
    assert _ids(captioner, _texts(captioner), slots=2) == expected


def test_requests_with_several_prompts_and_texts_share_an_engine(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    source = _source(families, "llava", tmp_path)
    source._family.prompts_each_block = True
    captioner = source.load(backend)
    (clip,) = captioner.prepare(cases.clips(source)[:1])
    answers = _ids(captioner, [clip, *_texts(captioner)], slots=2)
    assert answers[1:] == cases.recorded()["llava"]["texts"]
    assert len(answers[0]) > cases.NEW_TOKENS, "the tokens of three answers"


def test_only_texts_that_begin_with_the_shared_prefix_use_it(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    """Those with a system prompt of their own do not; both are in one engine."""
    captioner = _source(families, "llava", tmp_path).load(backend)
    plain = _texts(captioner, cases.TEXTS[:2])
    own = [captioner.prepare_text((row, 1), text, system="Be brief.") for row, text in enumerate(cases.TEXTS[:2])]
    assert [request.has_prefix for request in [*plain, *own]] == [True, True, False, False]
    alone = [_ids(captioner, [request], slots=1)[0] for request in [*plain, *own]]
    assert _ids(captioner, [*plain, *own], slots=4) == alone
    assert alone[:2] == cases.recorded()["llava"]["texts"][:2] != alone[2:]
    whole = captioner._text_request((0, 0), captioner._prefix, captioner._common.generation)
    assert not whole.has_prefix and whole.length == len(captioner._prefix), "no prefill without a token"


def test_the_options_of_a_text_replace_those_of_the_run(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    """A longer answer than any of a clip; samples depend on the seed and the row alone."""
    source = _source(families, "qwen2_vl", tmp_path)
    captioner, greedy = source.load(backend), source.text_prompts().generation
    longer = dataclasses.replace(greedy, max_new_tokens=40)
    (clip,) = captioner.prepare(cases.clips(source)[:1])
    long, short = _texts(captioner, cases.TEXTS[1:2], options=longer)[0], _texts(captioner, cases.TEXTS[:1])[0]
    answers = _ids(captioner, [clip, long, dataclasses.replace(short, key=(7, 7))], slots=2)
    recorded = cases.recorded()["qwen2_vl"]
    assert answers[0] == recorded["greedy"][0] and answers[2] == recorded["texts"][0]
    assert len(answers[1]) > cases.NEW_TOKENS and answers[1][: cases.NEW_TOKENS] == recorded["texts"][1]
    sampled = dataclasses.replace(greedy, do_sample=True, seed=3)
    same, other = (_texts(captioner, (text,) * 2, options=sampled) for text in cases.TEXTS[:2])
    found = _ids(captioner, same, slots=2)
    assert found[0] != found[1]
    assert _ids(captioner, [dataclasses.replace(other[0], key=(1, 0)), *same[::-1]], slots=3)[:0:-1] == found


def test_the_key_is_row_and_number_of_the_question(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    captioner = _source(families, "llava", tmp_path).load(backend)
    request = captioner.prepare_text((5, 2), "Why?")
    assert (request.key, request.question, request.stream) == ((5, 2), 2, 5)


@pytest.mark.parametrize("name", ["blip2_opt", "blip2_t5"])
def test_blip_2_is_refused(families: dict[str, Family], backend: Backend, name: str, tmp_path: Path) -> None:
    source = _source(families, name, tmp_path)
    with pytest.raises(UsageError, match=r"blip-2 cannot answer questions about text: its text model .* an image, .*;"):
        source.text_prompts()
    with pytest.raises(UsageError, match="use a checkpoint of another family, for example qwen2_5_vl"):
        source.load(backend).prepare_text((0, 0), "What?")


def test_a_text_beyond_the_window_ends_with_an_error(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    source = _source(families, "internvl", tmp_path)
    captioner, prompts = source.load(backend), source.text_prompts()
    assert prompts.window == 2048
    one, two = (len(prompts.token_ids(text)) for text in ("a", "a a"))
    question = "a" + " a" * ((prompts.window - cases.NEW_TOKENS - one) // (two - one))
    fitting, too_long = _texts(captioner, (question, question + " a"))
    ends = complete(captioner.engine(1), [fitting, too_long])
    assert [ends[request.key, 0].is_error for request in (fitting, too_long)] == [False, True]
    assert "the model was made for 2048" in ends[too_long.key, 0].message


@pytest.mark.parametrize("beams", [1, 2])
def test_slots_have_room_for_the_longest_text_and_its_answer(
    families: dict[str, Family], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    from pipeline.captioning.generation import capacity
    from pipeline.captioning.generation.kv_cache import CacheShape, bytes_per_slot

    source = _source(families, "llava_onevision", tmp_path, f"--num_beams={beams}")
    captioner, tokens, answer = source.load(backend), 1500, 300
    estimates: list[Any] = []
    original = capacity.max_slots

    def max_slots(backend: Backend, estimate: Any, *rest: Any) -> int:
        estimates.append(estimate)
        return original(backend, estimate, *rest)

    monkeypatch.setattr(capacity, "max_slots", max_slots)
    captioner.max_slots()
    captioner.max_slots(tokens, answer)
    columns = CacheShape.for_lengths(1, 0, tokens, answer).columns
    needed = bytes_per_slot(captioner._text.config, columns, 4)
    assert estimates[0].slot < needed <= estimates[1].slot
    assert (estimates[1].work > estimates[0].work) == (beams == 1 and tokens > backend.prefill_tokens)


def test_the_rehearsal_prefills_texts(
    families: dict[str, Family], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = _source(families, "llava_onevision", tmp_path).load(backend)
    options = dataclasses.replace(captioner._common.generation, max_new_tokens=300)
    engines: list[Any] = []
    original = captioner.engine
    monkeypatch.setattr(captioner, "engine", lambda slots: engines.append(original(slots)) or engines[-1])
    captioner._planned_tokens = options.max_new_tokens
    captioner._rehearse(2, 1500, options)
    shapes = [engine._table.cache.shape for engine in engines]
    assert len(shapes) == 2 and shapes[0] == shapes[1], "the cache of the clips has room for the texts too"
    assert (shapes[0].slots, shapes[0].ring) == (2, 299) and shapes[0].prompt >= 1500
    assert captioner.stages()["prefill_tokens"] == 0


def test_the_fingerprint_of_texts_has_no_frames(families: dict[str, Family], tmp_path: Path) -> None:
    source = _source(families, "llava", tmp_path)
    prompts, of_clips = source.text_prompts(), source.fingerprint()
    found = prompts.fingerprint()
    assert list(found) == [
        "checkpoint", "tokenizer", "lora alpha", "text prompt", "text prompt tokens", "generation", "stop ids"
    ]  # fmt: skip
    assert {key: found[key] for key in set(found) & set(of_clips)}.items() <= of_clips.items()
    assert found["text prompt"] == "USER: {question} ASSISTANT:"
    assert _source(families, "llava", tmp_path, "--num_frames=5").text_prompts().fingerprint() == found
    other = source.text_prompts("Be brief.").fingerprint()
    assert {key for key in found if found[key] != other[key]} == {"text prompt", "text prompt tokens"}
    longer = dataclasses.replace(prompts.generation, max_new_tokens=99)
    assert prompts.fingerprint(longer)["generation"].startswith("max_new_tokens=99")
    prompt, window, penalty = _source(families, "llava_next", tmp_path).text_prompts().describe()
    assert prompt.startswith("prompt about text: published prompt chatml; the checkpoint has no chat template: '<|im_")
    assert window.startswith("window of the text model: 2048 tokens") and penalty.startswith("repetition penalty 1.2")
