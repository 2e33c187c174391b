"""Several questions about a clip: families of transformers answer them as if each were asked alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Refused
from pipeline.captioning.captioners.hub import build
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.asked import alone, answers, count_vision
from tests.tiny_families import Family

from . import reference_cases as cases

WHAT, HOW, WHO = "What moves here?", "How does it move, and what is behind it?", "Who is in the video?"
QUESTIONS = ([WHAT, HOW, WHO], [HOW], [WHO, "What moves here, and why?"], [WHAT, HOW, WHO], [HOW, WHAT, "Is it red?"])
QUESTION_FIRST = (
    "USER: {% for part in messages[0]['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% for part in messages[0]['content'] if part['type'] == 'image' %}<image>{% endfor %} ASSISTANT:"
)


def _source(families: dict[str, Family], name: str, folder: Path, *flags: str, template: str = "") -> Any:
    stop_ids = cases.recorded()[name]["stop ids"]
    checkpoint = cases.checkpoint(families[cases.checkpoint_of(name)].folder, name, folder / name, stop_ids)
    if template:
        (checkpoint / "chat_template.jinja").write_text(template, encoding="utf-8")
    return cases.source(checkpoint, name, *flags)


@pytest.mark.model
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next"])
def test_questions_that_differ_from_row_to_row(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the penalty of the checkpoint, which covers the prompt of each question alone."""
    source = _source(families, name, tmp_path)
    captioner, clips = source.load(backend), cases.clips(source)[:5]
    expected = alone(captioner, clips, QUESTIONS, slots=3)
    assert len({tuple(ids) for ids in expected.values()}) > 6, "the questions have no effect"
    rows, before = count_vision(captioner, monkeypatch), captioner.stages()["prefill_tokens"]
    assert answers(captioner, clips, QUESTIONS, slots=3) == expected
    assert rows == [0, 1, 2, 3, 4]
    visual = sum(sum(source._family.block_lengths(clip)) for clip in clips)
    prefilled = captioner.stages()["prefill_tokens"] - before
    assert visual < prefilled < visual + sum(map(len, QUESTIONS)) * 60 < 2 * visual + 900


def test_the_questions_of_the_reference_have_the_recorded_answers(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    """As second question too the answer is that of transformers' `generate`."""
    source = _source(families, "qwen2_5_vl", tmp_path)
    clips = cases.clips(source)
    found = answers(source.load(backend), clips, [[HOW, cases.QUESTION, WHO]] * len(clips), cases.SLOTS)
    assert [found[clip.row, 1] for clip in clips] == cases.recorded()["qwen2_5_vl"]["greedy"]


def test_a_template_that_changes_during_a_run_changes_no_prompt(families: dict[str, Family], tmp_path: Path) -> None:
    source = _source(families, "llava_next", tmp_path, template=QUESTION_FIRST.replace("USER", "HUMAN"))
    clip = cases.clips(source)[0]
    before = source.prompts.text(clip, WHAT)
    assert before.startswith(f"HUMAN: {WHAT}")
    (source.folder / "chat_template.jinja").write_text(QUESTION_FIRST, encoding="utf-8")
    assert source.prompts.text(clip, HOW) == before.replace(WHAT, HOW)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("qwen2_5_vl", ("--num_beams=2",)),
        pytest.param("blip2_opt", (), marks=pytest.mark.model),
        ("blip2_t5", ()),
    ],
)
def test_whole_batches_share_the_vision_stage(
    families: dict[str, Family],
    backend: Backend,
    name: str,
    flags: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = _source(families, name, tmp_path, "--max_new_tokens=5", *flags)
    captioner, clips = source.load(backend), cases.clips(source)[:3]
    expected = alone(captioner, clips, QUESTIONS[:3])
    assert len(expected) == 6
    rows = count_vision(captioner, monkeypatch)
    assert answers(captioner, clips, QUESTIONS[:3]) == expected
    assert rows == [0, 1, 2]


def test_questions_before_the_visual_tokens_are_requests_of_their_own(
    families: dict[str, Family], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(families, "llava", tmp_path, template=QUESTION_FIRST)
    captioner, clips = source.load(backend), cases.clips(source)[:3]
    requests = captioner.prepare(clips[:1], [[WHAT, HOW, WHAT]])
    assert [request.key for request in requests] == [(0, 0), (0, 1)]
    assert [[one.question for one in request.follow_ups] for request in requests] == [[2], []]
    assert [request.has_prefix for request in requests] == [True, False], "the prefix contains the run's only question"
    expected = alone(captioner, clips, QUESTIONS[:3])
    rows = count_vision(captioner, monkeypatch)
    assert answers(captioner, clips, QUESTIONS[:3]) == expected
    assert rows == [0, 1, 2]


@pytest.mark.model
def test_a_prompt_for_each_frame_with_several_questions(
    families: dict[str, Family], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(families, "llava", tmp_path, "--max_new_tokens=6")
    source._family.prompts_each_block = True
    captioner, clips = source.load(backend), cases.clips(source)[:3]
    (request,) = captioner.prepare(clips[:1], [[WHAT, HOW]])
    assert len(request.embeddings) == 3 and len(request.follow_ups) == 1
    expected = alone(captioner, clips, QUESTIONS[:3])
    assert len(expected[0, 0]) > 6, "the tokens of three answers"
    rows = count_vision(captioner, monkeypatch)
    assert answers(captioner, clips, QUESTIONS[:3]) == expected
    assert rows == [0, 1, 2]


def test_samples_are_those_of_asking_alone(families: dict[str, Family], backend: Backend, tmp_path: Path) -> None:
    source = _source(families, "qwen2_5_vl", tmp_path, "--do_sample", "--max_new_tokens=6", "--seed=4")
    captioner, clips = source.load(backend), cases.clips(source)[:3]
    assert answers(captioner, clips, QUESTIONS[:3]) == alone(captioner, clips, QUESTIONS[:3])


def test_a_placeholder_in_the_question_of_a_row_refuses_this_question(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    source = _source(families, "qwen2_5_vl", tmp_path)
    clips = cases.clips(source)[:2]
    refused, *requests = source.load(backend).prepare(clips, [[WHAT, "<|image_pad|>?"], [WHO]])
    assert isinstance(refused, Refused) and (refused.row, refused.question) == (0, 1)
    assert refused.message == "the question must not contain <|image_pad|>; the template places the clip"
    assert [request.key for request in requests] == [(0, 0), (1, 0)]


def test_a_refused_question_of_a_row_names_the_columns_of_the_table(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    source = _source(families, "llava_next", tmp_path, "--question={title}?", "--question_column=ask me")
    (refused,) = source.load(backend).prepare(cases.clips(source)[:1], [["<image>?"]])
    assert refused == Refused(
        0,
        0,
        "the question must not contain <image>; the template places the clip; "
        "change the row's cell in 'title', 'ask me'",
    )


def test_blip2_with_a_system_prompt_refuses_only_rows_without_a_question(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    source = _source(families, "blip2_opt", tmp_path, "--question={title}", "--system=Be brief.")
    clips = cases.clips(source)[:2]
    refused, *requests = source.load(backend).prepare(clips, [[""], [WHAT]])
    assert isinstance(refused, Refused) and refused.row == 0
    assert refused.message.endswith("which is empty; write a question; change the row's cell in 'title'")
    assert [request.key for request in requests] == [(1, 0)]


@pytest.mark.parametrize("name", ["llava_next", "blip2_opt"])
@pytest.mark.parametrize("text", ["", "  "])
def test_only_the_empty_question_of_blip2_may_be_blank(
    families: dict[str, Family], tmp_path: Path, name: str, text: str
) -> None:
    if name == "blip2_opt" and not text:
        assert _source(families, name, tmp_path, f"--question={text}").asks.texts == ("",)
        return
    with pytest.raises(UsageError, match="the question of --question is blank; write a question"):
        _source(families, name, tmp_path, f"--question={text}")


def _several(folder: Path, *questions: str, **about: Any) -> Any:
    from pipeline.captioning.caption import make_parser

    flags = make_parser().parse_args(["meta.csv", f"--pretrained_model_name_or_path={folder}"])
    asks = tuple(Ask(f"text_{number}", Question(text)) for number, text in enumerate(questions))
    sampling = FrameSampling("uniform", about.get("frames", 3))
    return build.make_source("llava_next", flags, Asks(asks), sampling, GenerationOptions(max_new_tokens=12))


def test_the_source_of_several_questions(families: dict[str, Family], backend: Backend) -> None:
    folder = families["llava_next"].folder
    from pipeline.captioning.caption import make_parser
    from pipeline.captioning.captioners.hub import build

    source = _several(folder, WHAT, HOW)
    fingerprint = source.fingerprint()
    assert WHAT in fingerprint["prompt text_0"] and HOW in fingerprint["prompt text_1"] and "prompt" not in fingerprint
    assert fingerprint["prompt tokens"] != _several(folder, WHAT, WHO).fingerprint()["prompt tokens"]
    asks = Asks(source.asks.asks[::-1])
    flags = make_parser().parse_args(["meta.csv", f"--pretrained_model_name_or_path={folder}"])
    turned = build.make_source("llava_next", flags, asks, source.sampling, source.generation)
    assert turned.fingerprint() == fingerprint and turned.image_fingerprint() == source.image_fingerprint()
    lines = [line for line in source.describe() if line.startswith("prompt of text_")]
    assert [WHAT in lines[0], HOW in lines[1]] == [True, True]
    with pytest.raises(UsageError, match=r"\d{4,} prompt tokens and 12 new tokens"):
        _several(folder, WHAT, "word " * 9000)


def test_several_questions_in_the_rehearsal(
    families: dict[str, Family], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = _several(families["llava_next"].folder, WHAT, HOW, WHO).load(backend)
    captioner._rehearse(2)
    assert captioner.stages()["prefill_tokens"] == 0
    assert captioner.max_slots() == 32
