"""Tokenized prompts of several questions: their common beginning, and questions that make no prompt."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.captioning.captioners.clip_prompts import ClipPrompts, check_questions
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import UsageError

CLIP = Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), (0,))


def _asks(*questions: str, question_column: str = "") -> Asks:
    asks = tuple(Ask(f"text_{number}", Question(text)) for number, text in enumerate(questions))
    return Asks(asks, question_column)


def _characters(prompt: str) -> list[list[int]]:
    """A tokenizer whose tokens are pairs of characters, so that tokens of template and question merge."""
    parts = prompt.split("|")
    return [[int.from_bytes(part[start : start + 2].encode()) for start in range(0, len(part), 2)] for part in parts]


def _prompts(template: str, asks: Asks) -> ClipPrompts:
    return ClipPrompts(_characters, lambda clip, question, system: template.replace("Q", question), [CLIP], asks)


@pytest.mark.parametrize(
    ("template", "asks", "shared"),
    [
        ("USER|Q", _asks("what", "where"), "USER"),
        ("USER:|Q", _asks("what"), "USER:"),
        # The question comes first. An odd character merges with that of the question.
        ("USER:Q|!", _asks("what", "which"), "USER:w"),
        ("USER:Q|!", _asks("what", "how"), "USER"),
        ("USER:Q|!", _asks("what"), "USER:what"),
        # A row's own question, or a cell, may begin with anything.
        ("USER: Q|!", _asks("what", question_column="q"), "USER: "),
        ("USER:Q|!", _asks("is {a} here"), "USER:is "),
        ("USER|Q", _asks("is {a} here", "{b}"), "USER"),
    ],
)
def test_the_shared_prefix_ends_before_the_first_difference(template: str, asks: Asks, shared: str) -> None:
    expected = _characters(shared)[0]
    assert list(_prompts(template, asks).shared_prefix) == expected


def test_cells_that_make_no_prompt_do_not_refuse_the_run() -> None:
    """BLIP-2 has no prompt for a system prompt with a blank question. The rows with such a cell fail alone."""

    def text(clip: Clip, question: str, system: str | None) -> str:
        if not question:
            raise UsageError("no prompt for a blank question")
        return f"USER:{question}|!"

    prompts = ClipPrompts(_characters, text, [CLIP], _asks("{a}"))
    assert list(prompts.shared_prefix) == _characters("USER:")[0][:2]
    with pytest.raises(UsageError, match="no prompt for a blank question"):
        ClipPrompts(_characters, text, [CLIP], _asks(""))


@pytest.mark.parametrize("text", ["", " \n "])
def test_a_blank_question_names_its_flag(text: str) -> None:
    message = "the question of --ask a is blank; write a question, or leave --ask a out"
    with pytest.raises(UsageError, match=f"^{message}$"):
        check_questions(Asks((Ask("text_a", Question(text), "--ask a"),)), [])
    check_questions(Asks.single(text), [], default_question=text)
    check_questions(_asks("{a}", question_column="q"), [])


def test_the_longest_question_decides() -> None:
    prompts = _prompts("USER|Q", _asks("what", "what is in the clip?", "{a}"))
    assert prompts.most_tokens(CLIP) == 2 + 10


def test_a_placeholder_in_a_question_names_the_flag_of_the_question() -> None:
    short, long = Ask("text_short", Question("?"), "--ask short"), Ask("text_long", Question("<v>{a}"), "--ask long")
    with pytest.raises(UsageError, match=r"^--ask long must not contain <v>; the template places the clip$"):
        check_questions(Asks((short, long)), ["<image>", "", "<v>"])
    check_questions(Asks((short, long)), ["<image>", ""])
    with pytest.raises(UsageError, match=r"^--question must not contain <v>"):
        check_questions(Asks.single("is <v> here?"), ["<v>"])


def test_questions_of_the_table_are_not_blank_and_contain_no_special_token() -> None:
    prompts = ClipPrompts(
        _characters,
        lambda clip, question, system: f"{system or ''}USER:|{question}",
        [CLIP],
        _asks("a</s>b {a}"),
        lambda text: "</s>" if "</s>" in text else "",
    )
    assert prompts.pieces(CLIP, "a</s>b {a}") and prompts.pieces(CLIP, "harmless")
    with pytest.raises(UsageError, match="contains </s>, a special token of the model"):
        prompts.pieces(CLIP, "what </s>")
    with pytest.raises(UsageError, match=r"^the question is blank$"):
        prompts.pieces(CLIP, " ")
    assert prompts.pieces(CLIP, "harmless", "Be brief.") == _characters("Be brief.USER:|harmless")
    with pytest.raises(UsageError, match=r"^the question contains </s>"):
        prompts.pieces(CLIP, "what </s>", "Be brief.")
    with pytest.raises(UsageError, match=r"^the system prompt contains </s>, a special token of the model; remove it$"):
        prompts.pieces(CLIP, "harmless", "Be</s> brief.")


def test_several_images_have_prompts_only_if_the_family_knows_them() -> None:
    def text(clip: Clip, question: str, system: str | None) -> str:
        return f"{system or ''}USER|{question}"

    def images_text(images: int, question: str, system: str | None) -> str:
        return f"{system or ''}USER{'|' * images}{question}"

    without = ClipPrompts(_characters, text, [CLIP], _asks("what"))
    assert not without.has_images
    with pytest.raises(UsageError, match="cannot answer questions about several images; send one image, or the frames"):
        without.image_pieces(2, "what")
    prompts = ClipPrompts(_characters, text, [CLIP], _asks("what"), lambda text: "x" * ("x" in text), images_text)
    assert prompts.has_images and prompts.image_pieces(3, "what", "Be") == _characters("BeUSER|||what")
    with pytest.raises(UsageError, match=r"^the system prompt contains x, a special token"):
        prompts.image_pieces(2, "what", "x")


def test_only_short_prompts_are_kept() -> None:
    """Clients of a server may send prompts of any length, and any number of them."""
    tokenized: list[str] = []

    def tokenize(prompt: str) -> list[list[int]]:
        tokenized.append(prompt)
        return _characters(prompt)

    prompts = ClipPrompts(tokenize, lambda clip, question, system: f"USER|{question}", [CLIP], _asks("what"))
    tokenized.clear()
    for question in ("short", "long " * 10_000) * 3:
        assert prompts.pieces(CLIP, question) == _characters(f"USER|{question}")
    assert [len(prompt) < 100 for prompt in tokenized] == [True, False, False, False]
