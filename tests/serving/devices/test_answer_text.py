"""However often a device begins an answer again, the client gets each character once, or the answer fails."""

from __future__ import annotations

from random import Random

import pytest

from pipeline.serving.devices.answer_text import AnswerText, Differs


def test_repeated_parts_leave_no_gap_and_no_repetition() -> None:
    random = Random(0)
    for _ in range(500):
        text = "".join(random.choices("ab\u00e9 ", k=random.randrange(30)))
        answer, sent = AnswerText(), ""
        for _ in range(random.randrange(20)):
            begin = random.randint(0, len(sent))
            new = answer.rest(begin, text[begin : begin + random.randrange(10)])
            assert answer.append(1, new).begin == len(sent)
            sent += new
        assert sent + answer.rest_of_whole(text) == text


def test_other_texts_are_errors() -> None:
    answer = AnswerText()
    answer.append(1, "abc")
    for begin, text in ((0, "abX"), (2, "Xde"), (4, "e")):
        with pytest.raises(Differs):
            answer.rest(begin, text)
    with pytest.raises(Differs, match="shorter"):
        answer.rest_of_whole("ab")
