"""The pieces of an answer are, joined, the text of the whole answer, or what comes before the first stop text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.captioning.captioners.tokenizer import CheckpointTokenizer
from pipeline.serving.device.answer_text import AnswerText

TINY = Path(__file__).parents[3] / "pretrained_models" / "pllava-tiny"
WORDS = [" red", " star", ".", "\n", "\n\n", "  ", " ", "a", "ab", "abc", "é", "你", "🙂", "", "END", "\ufffd"]


def byte_level(ids: Sequence[int]) -> str:
    """As GPT-2's tokenizer: ids below 256 are bytes, others are words."""
    data = b"".join(bytes([i]) if i < 256 else WORDS[i - 256].encode() for i in ids)
    return data.decode(errors="replace").strip()


def byte_fallback(ids: Sequence[int]) -> str:
    """As Llama's tokenizer: a sequence of byte tokens that is not UTF-8 as a whole becomes one mark for each byte."""
    text, run = "", b""
    for i in [*ids, None]:
        if i is not None and i < 256:
            run += bytes([i])
            continue
        try:
            text += run.decode()
        except UnicodeDecodeError:
            text += "\ufffd" * len(run)
        text, run = text + (WORDS[i - 256] if i is not None else ""), b""
    return text.removeprefix(" ").strip()


def random_ids(rng: random.Random) -> list[int]:
    ids: list[int] = []
    for _ in range(rng.randrange(12)):
        if rng.random() < 0.4:
            text = rng.choice(["你", "🙂🙂", "é", "\n", "你\n好"]).encode()
            ids += text[: rng.randrange(1, len(text) + 1)] if rng.random() < 0.1 else text
        else:
            ids.append(256 + rng.randrange(len(WORDS)))
    return ids


def pieces(answer: AnswerText, ids: list[int], whole: str, rng: random.Random) -> list[str]:
    given, at = [], 0
    while at < len(ids) and not answer.is_stopped:
        count = rng.choice([1, 1, 1, 2, 4])
        given.append(answer.add(ids[at : at + count]))
        assert answer.length == len("".join(given))
        at += count
    return [*given, answer.finish(whole)]


@pytest.mark.parametrize("to_text", [byte_level, byte_fallback])
def test_the_joined_pieces_are_the_text(to_text: Callable[[Sequence[int]], str]) -> None:
    rng = random.Random(3)
    for _ in range(4000):
        ids = random_ids(rng)
        answer = AnswerText(to_text)
        assert "".join(pieces(answer, ids, to_text(ids), rng)) == to_text(ids) == answer.text, ids
        assert not answer.is_stopped


@pytest.mark.parametrize("to_text", [byte_level, byte_fallback])
def test_the_answer_is_the_text_before_the_stop_text_that_ends_first(to_text: Callable[[Sequence[int]], str]) -> None:
    rng = random.Random(4)
    stopped = 0
    for _ in range(4000):
        ids, stops = random_ids(rng), rng.sample(["ab", "abc", "b", "d.", "好", " star", "\n\n", "END", "END END"], 2)
        whole = to_text(ids)
        found = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
        answer = AnswerText(to_text, stops)
        assert "".join(pieces(answer, ids, whole, rng)) == (whole[: min(found)[1]] if found else whole), (ids, stops)
        assert answer.is_stopped == bool(found)
        stopped += bool(found)
    assert 500 < stopped < 3900


def test_pieces_come_with_their_tokens_and_conversions_stay_short() -> None:
    tokenizer = CheckpointTokenizer(TINY, None)
    text = "A red star moves from left to right. " * 30
    ids = tokenizer.prompt_ids(text)
    lengths: list[int] = []

    def to_text(ids: Sequence[int]) -> str:
        lengths.append(len(ids))
        return tokenizer.decode(ids)

    answer, given = AnswerText(to_text), 0
    for number, token in enumerate(ids):
        answer.add([token])
        given = max(given, len(tokenizer.decode(ids[: number + 1])) - answer.length)
    assert given == 0, "nothing is held back"
    assert max(lengths) <= 4
    assert answer.finish(tokenizer.decode(ids)) == ""
    assert answer.text == text.strip()


def test_a_possible_begin_of_a_stop_text_is_held_back() -> None:
    words = {1: "one", 2: " STO", 3: "P two", 4: "RY"}
    answer = AnswerText(lambda ids: "".join(words[i] for i in ids).strip(), ["STOP"])
    assert [answer.add([i]) for i in (1, 2, 4, 2)] == ["one", " ", "STORY", " "]
    assert answer.add([3]) == "" and answer.is_stopped
    assert answer.finish("one STORY STOP two") == "" and answer.text == "one STORY "
