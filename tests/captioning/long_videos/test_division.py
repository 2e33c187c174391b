"""The division of texts into parts that fit into a window: nothing is lost, every part fits, there are few parts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.long_videos.division import TimedText, Window, clock, parts_that_fit, prompt_about


def _words(text: str) -> int:
    """A tokenizer whose tokens are words."""
    return len(text.split())


LABEL = 3
"""Words before a text: `[0:00`, `-`, `0:10]`."""


def _texts(*captions: str) -> list[TimedText]:
    """Captions of ten seconds each."""
    return [TimedText(10_000 * number, 10_000 * (number + 1), caption) for number, caption in enumerate(captions)]


def _of_words(*counts: int) -> list[TimedText]:
    return _texts(*(" ".join(f"w{number}" for number in range(count)) for count in counts))


def _sizes(parts: Sequence[Sequence[TimedText]]) -> list[int]:
    return [len(part) for part in parts]


def test_texts_that_exactly_fit_are_one_part() -> None:
    texts = _of_words(7, 7, 7)
    assert parts_that_fit(texts, 3 * (7 + LABEL), _words) == [texts]
    assert _sizes(parts_that_fit(texts, 3 * (7 + LABEL) - 1, _words)) == [2, 1], "one token more than fits"


def test_one_text_is_one_part() -> None:
    texts = _of_words(5)
    assert parts_that_fit(texts, 5 + LABEL, _words) == [texts]


@pytest.mark.parametrize("captions", [(), ("",), ("", "  ")])
def test_without_texts_there_is_no_part(captions: tuple[str, ...]) -> None:
    assert parts_that_fit(_texts(*captions), 20, _words) == []


def test_blank_texts_are_left_out() -> None:
    texts = _texts("a", "", "b", " ")
    assert parts_that_fit(texts, 20, _words) == [[texts[0], texts[2]]]


def test_parts_are_of_about_equal_length() -> None:
    """The first parts are not filled to the last token while the last one has a single text."""
    assert _sizes(parts_that_fit(_of_words(*[7] * 11), 100, _words)) == [6, 5]


@pytest.mark.parametrize("words", [(7, 7, 7), (100, 104, 98), (98, 104, 100), (104, 98, 100)])
def test_two_texts_of_half_a_part_are_together(words: tuple[int, ...]) -> None:
    """Summaries are at most half as long as a part; if each were a part alone, summaries of them would never end."""
    room = 2 * (max(words) + LABEL)
    assert sorted(_sizes(parts_that_fit(_of_words(*words), room, _words))) == [1, 2]


def test_a_text_longer_than_a_part_is_cut_between_words_and_keeps_its_times() -> None:
    (text,) = _texts("one two three four five six seven")
    parts = parts_that_fit([text], LABEL + 3, _words)
    assert [[piece.text for piece in part] for part in parts] == [["one two three"], ["four five six"], ["seven"]]
    assert {(piece.start, piece.end) for part in parts for piece in part} == {(0, 10_000)}


def test_a_text_without_spaces_is_cut_between_characters() -> None:
    caption = "一只狗在草地上跑来跑去然后跳进水里" * 40
    parts = parts_that_fit(_texts(caption), 100, len)
    pieces = [piece for part in parts for piece in part]
    assert "".join(piece.text for piece in pieces) == caption
    assert all(len(piece.line) + 1 <= 100 for piece in pieces)
    assert len(parts) == -(-len(caption) // (100 - len("[0:00 - 0:10] \n")))


def test_a_room_of_one_word_holds_one_word() -> None:
    parts = parts_that_fit(_texts("a b c"), LABEL + 1, _words)
    assert [[piece.text for piece in part] for part in parts] == [["a"], ["b"], ["c"]]


def test_long_captions_are_not_counted_again_and_again() -> None:
    """A text of a million characters takes about as long as many short ones."""
    counted = 0

    def tokens(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text)

    caption = "word " * 200_000
    parts = parts_that_fit(_texts(caption), 1000, tokens)
    assert sum(piece.text.count("word") for part in parts for piece in part) == 200_000
    assert counted < 20 * len(caption)


def test_thousands_of_segments() -> None:
    texts = _of_words(*[11, 15, 3, 9, 40] * 2000)
    parts = parts_that_fit(texts, 500, _words)
    total = sum(_words(text.line) for text in texts)
    assert [text for part in parts for text in part] == texts
    assert total / 500 <= len(parts) <= 1.1 * total / 500
    assert max(sum(_words(text.line) for text in part) for part in parts) <= 500


WORDS = st.lists(st.text("abü狗", min_size=1, max_size=12), max_size=30).map(" ".join)


@given(st.lists(WORDS, max_size=30), st.integers(30, 300), st.sampled_from([len, lambda text: len(text.encode())]))
@settings(max_examples=150, deadline=None)
def test_every_word_is_in_one_part_in_order_and_every_part_fits(captions: list[str], room: int, tokens) -> None:  # type: ignore[no-untyped-def]
    texts = _texts(*captions)
    parts = parts_that_fit(texts, room, tokens)
    pieces = [piece for part in parts for piece in part]
    for text in texts:  # a word that is longer than a part is in several pieces
        own = [piece.text for piece in pieces if piece.start == text.start]
        assert "".join(own).replace(" ", "") == text.text.replace(" ", "")
        if all(tokens(TimedText(text.start, text.end, f"{word}\n").line) <= room for word in text.text.split()):
            assert " ".join(own).split() == text.text.split()
    assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)
    lengths = [sum(tokens(f"{piece.line}\n") for piece in part) for part in parts]
    assert all(0 < length <= room for length in lengths)
    # Two neighbours never fit into one part if the parts are as few as possible.
    assert len(parts) <= 2 * sum(lengths) / room + 1


def test_the_room_is_what_question_answer_and_template_leave() -> None:
    window = Window(size=100, overhead=10, tokens=_words)
    assert window.room("What is it?", answer_tokens=20) == 100 - 10 - 3 - 20 - 16
    assert window.room("word " * 60, answer_tokens=20) < 0


def test_a_prompt_has_the_texts_with_their_times_and_then_the_question() -> None:
    texts = [TimedText(0, 7_000, "A dog."), TimedText(7_000, 3_723_450, "A cat."), TimedText(3_723_450, None, "Two.")]
    assert prompt_about(texts, "Summarise.") == (
        "[0:00 - 0:07] A dog.\n[0:07 - 1:02:03.5] A cat.\n[1:02:03.5 - end] Two.\n\nSummarise."
    )


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0:00"), (49, "0:00"), (50, "0:00.1"), (59_949, "0:59.9"), (59_950, "1:00"), (3_599_999, "1:00:00")],
)
def test_clock(milliseconds: int, text: str) -> None:
    assert clock(milliseconds) == text
