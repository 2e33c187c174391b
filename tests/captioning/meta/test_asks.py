"""Questions contain cells of the row; every ask has a column of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import UsageError


@pytest.mark.parametrize(
    ("question", "columns", "rendered"),
    [
        ("What is this?", (), "What is this?"),
        ("A {kind} called {name}, a {kind}.", ("kind", "name"), "A dog called {Rex}, a dog."),
        ("{name}", ("name",), "{Rex}"),
        ("JSON: {{{kind}}}", ("kind",), "JSON: {dog}"),
        ("{{kind}}", (), "{kind}"),
        ("", (), ""),
        ("{shot type}", ("shot type",), "close-up"),
        ("两行\n{kind}", ("kind",), "两行\ndog"),
    ],
)
def test_cells_are_inserted_as_they_are(question: str, columns: tuple[str, ...], rendered: str) -> None:
    """A cell with braces is not a template again."""
    assert Question(question).columns == columns
    assert Question(question).render({"kind": "dog", "name": "{Rex}", "shot type": "close-up"}) == rendered


@pytest.mark.parametrize(
    ("question", "brace"),
    [("a {", "'{' at character 3"), ("a }", "'}' at character 3"), ("{}", "'{}' at character 1"), ("{a{b}}", "'{' at")],
)
def test_a_brace_that_encloses_no_column_is_a_usage_error(question: str, brace: str) -> None:
    with pytest.raises(UsageError) as caught:
        Question(question)
    assert brace in str(caught.value) and "write {{ or }} for a brace" in str(caught.value)


def test_the_error_shows_only_the_beginning_of_a_long_question() -> None:
    with pytest.raises(UsageError) as caught:
        Question("word " * 1000 + "{")
    assert len(str(caught.value)) < 250 and "character 5001" in str(caught.value)


@given(st.text(alphabet="{}ab \n"))
def test_a_literal_question_is_rendered_unchanged(text: str) -> None:
    assert Question.literal(text).render({}) == text
    assert Question.literal(text).columns == ()
    assert Asks.single(text).texts == (text,)
    assert Asks.single(text).questions(()) == (text,)


def test_questions_of_a_row_are_rendered_in_the_order_of_the_asks() -> None:
    asks = Asks((Ask("text_a", Question("{b} {a}")), Ask("text_b", Question("{c} {a}")), Ask("text_c", Question("x"))))
    assert asks.cell_columns == ("b", "a", "c")
    assert asks.questions(("B", "A", "C")) == ("B A", "C A", "x")
    assert asks.texts == ("{b} {a}", "{c} {a}", "x")


def test_the_use_of_a_column_names_the_flag() -> None:
    """Only the user's own questions may have braces that do not stand for a column."""
    own = Ask("text_a", Question("{b} {a}"), "--ask a")
    named = Ask("text_b", Question("Improve: {a} {text}"), "--ask b", "video-text")
    assert Asks((own, named)).cell_uses == {
        "b": "--ask a inserts its cells; write {{ and }} for braces",
        "a": "--ask a inserts its cells; write {{ and }} for braces",
        "text": "--ask b inserts its cells",
    }
    asks = Asks((Ask("new", Question("{a}")),), question_column="q")
    assert list(asks.cell_uses.items())[1] == ("q", "--question_column takes questions from it")


def test_a_row_may_have_its_own_question() -> None:
    """The common question is asked where the cell is blank; a question of the table is no template."""
    asks = Asks((Ask("text", Question("A {kind}?")),), question_column="prompt")
    assert asks.cell_columns == ("kind", "prompt")
    assert asks.questions(("dog", "Why {kind}?")) == ("Why {kind}?",) and asks.has_own_question(("dog", "Why?"))
    for blank in ("", " \n"):
        assert asks.questions(("dog", blank)) == ("A dog?",) and not asks.has_own_question(("dog", blank))
    assert not Asks.single("x").has_own_question(())


def test_the_question_column_may_be_inserted_too() -> None:
    asks = Asks((Ask("text", Question("{prompt}{kind}")),), question_column="prompt")
    assert asks.cell_columns == ("prompt", "kind")
    assert asks.questions(("", "dog")) == ("dog",)


@pytest.mark.parametrize(
    ("columns", "question_column", "message"),
    [
        (["path"], "", "captions can't be written to the column 'path'"),
        ([" "], "", "captions can't be written to the column ' '"),
        (["a", "b", "a"], "", "two questions have the column 'a'"),
        (["prompt"], "prompt", "the column 'prompt', which has the questions; choose another name with --column"),
    ],
)
def test_columns_that_cannot_receive_captions(columns: list[str], question_column: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Asks(tuple(Ask(column, Question("x")) for column in columns), question_column)
    assert message in str(caught.value)
