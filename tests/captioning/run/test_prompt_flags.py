"""The flags of the prompt become what is asked about every clip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.captioning.captioners.named_prompts import NAMED_PROMPTS
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.arguments import CommandParser
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.prompt_flags import add_prompt_flags, asks_from_flags, check_prompt_flags


def _asks(*arguments: str) -> Asks:
    parser = CommandParser()
    add_prompt_flags(parser)
    flags = parser.parse_args(arguments)
    check_prompt_flags(flags)
    return asks_from_flags(flags, "the {default}")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_question_is_asked_and_answered_in_text() -> None:
    assert _asks() == Asks.single("the {default}")
    assert _asks().texts == ("the {default}",) and _asks().columns == ("text",)
    for question in ("What is it?", "", "mail@example.org?", "a = b", "prompt:video", "一\n二"):
        assert _asks("--question", question) == Asks.single(question)
    assert _asks("--question", "@@you").texts == ("@you",)
    assert _asks("--question", "@@@").texts == ("@@",)
    assert _asks("--question", "A {kind} in {{braces}}").questions(["cat"]) == ("A cat in {braces}",)


def test_column_and_question_column() -> None:
    asks = _asks("--column", "long text", "--question_column", "prompt")
    assert asks.columns == ("long text",)
    assert asks.questions(["Who?"]) == ("Who?",) and asks.questions([""]) == ("the {default}",)
    assert _asks("--prompt", "video", "--question_column", "q").questions([""]) == (NAMED_PROMPTS["video"].text,)


@pytest.mark.parametrize(
    ("content", "question"),
    [
        (b"What?", "What?"),
        (b"What?\n", "What?"),
        (b"What?\r\n", "What?"),
        (b"What?\n\n", "What?\n"),
        (b" 1. a\r\n2. b\r\n", " 1. a\n2. b"),
        (b"\xef\xbb\xbfWhat?", "What?"),
        ("描述视频。\n".encode(), "描述视频。"),
        (b"@other", "@other"),
        (b"prompt:video", "prompt:video"),
    ],
)
def test_a_question_is_read_from_a_file(files: Path, content: bytes, question: str) -> None:
    (files / "my question.txt").write_bytes(content)
    assert _asks("--question", "@my question.txt").texts == (question,)
    asks = _asks("--ask", f"a=@{files}/my question.txt", "--ask", "b=x")
    assert asks.texts == (question, "x")


def test_several_questions_have_a_column_each() -> None:
    text = NAMED_PROMPTS["video-text"].text
    asks = _asks(
        *("--ask", "short=Describe the video in one sentence.", "--ask", "a-1_b=x=y {kind}"),
        *("--ask", "长=@@x", "--ask", "old=prompt:video-text", "--ask", "none="),
    )
    assert asks.asks == (
        Ask("text_short", Question("Describe the video in one sentence."), "--ask short"),
        Ask("text_a-1_b", Question("x=y {kind}"), "--ask a-1_b"),
        Ask("text_长", Question("@x"), "--ask 长"),
        Ask("text_old", Question(text), "--ask old", "video-text", "video"),
        Ask("text_none", Question(""), "--ask none"),
    )
    assert asks.cell_columns == ("kind", "text")


@pytest.mark.parametrize("name", NAMED_PROMPTS)
def test_a_prompt_is_asked_by_name(name: str) -> None:
    prompt = NAMED_PROMPTS[name]
    assert _asks("--prompt", name).asks == (
        Ask("text", Question(prompt.text), f"--prompt {name}", name, prompt.medium),
    )
    assert _asks("--prompt", name, "--any_media").asks[0].medium == ""
    ((first, second),) = [_asks("--ask", f"a=prompt:{name}", "--ask", "b=x", "--any_media").asks]
    assert (first.prompt, first.medium, second.prompt) == (name, "", "")


USAGE_ERRORS = [
    (["--question", "a", "--prompt", "video"], "--question and --prompt video are both the question about every clip"),
    (["--ask", "a=b", "--question", ""], "--question does not go with --ask; give this question as another --ask"),
    (
        ["--ask", "a=b", "--prompt", "video"],
        "--prompt does not go with --ask; give this prompt as another --ask NAME=prompt",
    ),
    (["--ask", "a=b", "--question_column", "q"], "--question_column does not go with --ask; insert the column"),
    (["--ask", "a=b", "--column", "c"], "--column does not go with --ask; the columns are named by --ask: --ask a has"),
    (["--ask", "a=b", "--ask", "a=c"], "two questions have the column 'text_a'; choose different names"),
    (["--any_media"], "--any_media is only read with a named prompt"),
    (["--any_media", "--ask", "a=video"], "--any_media is only read with a named prompt"),
    (["--column", "path"], "captions can't be written to the column 'path'"),
    (["--column", " "], "captions can't be written to the column ' '"),
    (["--question_column", ""], "--question_column is blank"),
    (["--question_column", "text"], "which has the questions; choose another name with --column"),
    (
        ["--ask", "short"],
        "--ask: 'short' is not NAME=QUESTION with a name of letters, digits, _ and -, as in short='Desc",
    ),
    (["--ask", "=x"], "'=x' is not NAME=QUESTION"),
    (["--ask", "a b=x"], "'a b=x' is not NAME=QUESTION"),
    (["--ask", "a.b=x"], "'a.b=x' is not NAME=QUESTION"),
    (["--ask", "a=prompt:vide"], "--ask: a: there is no prompt 'vide'; the prompts are image-text, image-3ex"),
    (["--prompt", "vide"], "--prompt: invalid choice: 'vide'"),
    (["--ask", "a=@none.txt"], "--ask: a: the question's file none.txt can't be read: No such file or directory"),
    (["--question", "@"], "no file is named after @; write @@ for a question that begins with @"),
    (["--question", "@."], "the question's file . is not a file"),
    (["--question", "@fifo"], "the question's file fifo is not a file"),
    (["--question", "@" + "name" * 100], "can't be read: File name too long; write @@ for a question that"),
    (["--question", "@empty.txt"], "empty.txt has no text"),
    (["--question", "@blank.txt"], "blank.txt has no text"),
    (["--question", "@latin1.txt"], "latin1.txt is not UTF-8 (byte 4)"),
    (["--question", "@large.txt"], "large.txt is larger than 1 MiB"),
    (
        ["--question", "@brace.txt"],
        "--question: question 'a {b': '{' at character 3 does not enclose the name of a column",
    ),
    (["--ask", 'a={"subject": {}}'], "--ask: a: question"),
    (["--question", "caf\udce9"], "--question: 'caf\\udce9' is not UTF-8"),
    (["--column", "caf\udce9"], "--column: 'caf\\udce9' is not UTF-8"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS)
def test_usage_errors_name_the_flag_and_the_fix(files: Path, arguments: list[str], message: str) -> None:
    (files / "empty.txt").touch()
    (files / "blank.txt").write_text(" \n\n")
    (files / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (files / "large.txt").write_text("word " * 300_000)
    (files / "brace.txt").write_text("a {b\n")
    os.mkfifo(files / "fifo")
    with pytest.raises(UsageError) as caught:
        _asks(*arguments)
    assert message in str(caught.value)


def test_list_prompts_prints_the_texts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        _asks("--list_prompts")
    assert leaving.value.code == 0
    output = capsys.readouterr().out
    assert all(prompt.text.splitlines()[0] in output for prompt in NAMED_PROMPTS.values())
