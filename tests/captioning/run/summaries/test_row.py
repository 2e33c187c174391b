"""The questions about one video, one step after the other, whatever the order of the answers and whatever fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from pipeline.captioning.long_videos.division import TimedText, Window
from pipeline.captioning.meta.results import CaptionResult, ColumnResult, Failure
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.summaries.row import SummaryRow
from pipeline.captioning.run.summaries.settings import SUMMARY, TITLE, SummarySettings

SETTINGS = SummarySettings("Sum up.", "Sum up this part.", "Name it.", summary_tokens=12, title_tokens=4)
BROKEN = Failure("caption", ("not a number",))


def _words(text: str) -> int:
    return len(text.split())


def _row(
    segments: int, columns: Sequence[str] = (SUMMARY, TITLE), size: int = 110, settings: SummarySettings = SETTINGS
) -> SummaryRow:
    """A row of segments of twelve words with their times."""
    texts = [TimedText(1000 * n, 1000 * (n + 1), f"{n} " + "word " * 7 + "end.") for n in range(segments)]
    return SummaryRow(3, "a.mp4", texts, columns, settings, Window(size, 5, _words))


def _answer_of(question: str) -> CaptionResult:
    """The first words of the captions in a question, so that its answer shows what it was made of."""
    *lines, asked = question.split("\n")
    first = [line.split("] ")[-1].split()[0] for line in lines if line]
    name = {"Sum up.": "S", "Sum up this part.": "P", "Name it.": "T"}[asked]
    return CaptionResult(f"{name}({','.join(first)})", 5)


def _run(row: SummaryRow, order: Callable[[list[int]], None] = lambda numbers: None) -> list[tuple[str, ...]]:
    """Answer everything that a row asks; returns the questions of each step. order: changes the order of answers."""
    steps = []
    while not row.is_answered:
        assert row.may_ask_next
        questions = row.ask()
        assert questions
        steps.append(questions)
        numbers = list(range(len(questions)))
        order(numbers)
        for number in numbers:
            assert not row.is_answered and not row.may_ask_next
            row.answer(number, _answer_of(questions[number]))
    return steps


def _captions(row: SummaryRow) -> dict[str, str]:
    results = row.result().results
    assert all(isinstance(result, CaptionResult) for result in results.values()), results
    return {name: result.caption for name, result in results.items() if isinstance(result, CaptionResult)}


def test_captions_that_fit_are_summarised_at_once_and_then_named() -> None:
    row = _row(2)
    (summary,), (title,) = _run(row)
    assert summary.startswith("[0:00 - 0:01] 0 word") and summary.endswith("\n\nSum up.")
    assert title == "S(0,1)\n\nName it."
    assert row.result().row == 3 and _captions(row) == {SUMMARY: "S(0,1)", TITLE: "T(S(0,1))"}


def test_captions_that_do_not_fit_are_summarised_in_parts_with_their_times() -> None:
    row = _row(14)
    parts, (summary,), _ = _run(row)
    assert len(parts) == 3 and all(part.endswith("\n\nSum up this part.") for part in parts)
    assert summary.split("\n")[0].startswith("[0:00 - 0:05] P(0,1,2,3,4)"), summary
    assert summary.endswith("\n\nSum up.")
    assert _captions(row)[SUMMARY] == "S(P(0,1,2,3,4),P(5,6,7,8,9),P(10,11,12,13))"


def test_summaries_of_parts_are_summarised_in_parts_too() -> None:
    row = _row(400)
    steps = _run(row)
    counts = [len(step) for step in steps]
    assert len(counts) > 3 and counts == sorted(counts, reverse=True) and counts[-2:] == [1, 1]
    said = _captions(row)[SUMMARY]
    assert said.startswith("S(P(P(0,") and said.count("P(") > 2


def test_the_result_does_not_depend_on_the_order_of_answers() -> None:
    expected = _row(120)
    _run(expected)
    for seed in range(10):
        row = _row(120)
        _run(row, random.Random(seed).shuffle)
        assert row.result() == expected.result()


def test_the_smallest_window_that_is_accepted_suffices_for_any_number_of_segments() -> None:
    """Answers of the greatest length, and captions that are longer than a part."""
    settings = SummarySettings("Sum up.", "Sum up this part.", "Name it.", summary_tokens=20, title_tokens=4)
    size = next(size for size in range(10, 400) if _fits(settings, size))
    texts = [TimedText(1000 * n, None, "word " * (300 if n == 5 else 9)) for n in range(3000)]
    row = SummaryRow(0, "a.mp4", texts, (SUMMARY,), settings, Window(size, 5, _words))
    levels = 0
    while not row.is_answered:
        levels += 1
        for number, question in enumerate(row.ask()):
            assert _words(question) + 5 + 20 <= size
            row.answer(number, CaptionResult(" ".join(["long"] * 20), 20, truncated=True))
    assert _captions(row) == {SUMMARY: " ".join(["long"] * 20)} and levels > 5


def _fits(settings: SummarySettings, size: int) -> bool:
    try:
        settings.check_fits(Window(size, 5, _words))
    except UsageError:
        return False
    return True


def test_answers_that_are_longer_than_they_may_be_end_with_a_failure() -> None:
    row = _row(30)
    for number, _ in enumerate(row.ask()):
        row.answer(number, CaptionResult("much longer than it may be " * 40, 5))
    assert row.is_answered
    (failure,) = row.result().failures
    assert "summaries of its parts are too long" in str(failure) and failure.stage == "text"


def test_a_part_that_fails_fails_the_video_when_no_part_is_in_flight() -> None:
    """The other parts are still being answered: a row that left the loop now would leave their answers behind."""
    row = _row(14)
    first, _, third = row.ask()
    row.answer(1, BROKEN)
    assert not row.is_answered and not row.may_ask_next
    row.answer(0, _answer_of(first))
    row.answer(2, _answer_of(third))
    assert row.is_answered and row.result().failures == {BROKEN: [SUMMARY, TITLE]}


def test_after_an_error_the_parts_are_asked_one_at_a_time_and_answers_are_kept() -> None:
    row = _row(14)
    questions = row.ask()
    row.answer(2, _answer_of(questions[2]))
    assert not row.fail_asked(BROKEN), "one of two parts may be the cause"
    steps = _run(row)
    assert steps[:2] == [(questions[0],), (questions[1],)] and len(steps) == 4
    undisturbed = _row(14)
    _run(undisturbed)
    assert row.result() == undisturbed.result()


def test_an_error_that_one_part_alone_causes_fails_the_video() -> None:
    row = _row(14)
    row.ask()
    assert not row.fail_asked(BROKEN)
    (question,) = row.ask()
    row.answer(0, _answer_of(question))
    row.ask()
    assert row.fail_asked(BROKEN) and row.result().failures == {BROKEN: [SUMMARY, TITLE]}


def test_an_error_after_a_part_has_failed_ends_the_row() -> None:
    row = _row(14)
    row.ask()
    row.answer(0, BROKEN)
    assert row.fail_asked(Failure("caption", ("another",)))
    assert row.result().failures == {BROKEN: [SUMMARY, TITLE]}


@pytest.mark.parametrize("ends_with_error", [True, False])
def test_a_title_that_fails_leaves_the_summary(ends_with_error: bool) -> None:
    row = _row(2)
    (question,) = row.ask()
    row.answer(0, _answer_of(question))
    row.ask()
    if ends_with_error:
        assert row.fail_asked(BROKEN)
    else:
        row.answer(0, BROKEN)
    assert row.is_answered
    results = row.result().results
    assert results == {SUMMARY: CaptionResult("S(0,1)", 5), TITLE: BROKEN}


def test_without_a_title_nothing_is_asked_after_the_summary() -> None:
    row = _row(2, [SUMMARY])
    assert len(_run(row)) == 1 and row.result().columns == (SUMMARY,)


def test_a_title_alone_is_made_from_a_summary_that_is_not_kept() -> None:
    row = _row(2, [TITLE])
    assert len(_run(row)) == 2 and _captions(row) == {TITLE: "T(S(0,1))"}


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"A dog"', "A dog"),
        ("“A dog”", "A dog"),
        ("『狗』", "狗"),
        ("'The dog's day'", "The dog's day"),
        ('" A dog "', "A dog"),
        ('"Yes" and "No"', '"Yes" and "No"'),
        ("「猫」和「狗」", "「猫」和「狗」"),
        ('"A dog', '"A dog'),
        ('A "dog"', 'A "dog"'),
        ("“A dog'", "“A dog'"),
        ('""', '""'),
        ('"', '"'),
    ],
)
def test_quotation_marks_around_a_title_are_removed(answer: str, title: str) -> None:
    row = _row(1)
    results: list[ColumnResult] = [CaptionResult('"A summary"', 3), CaptionResult(answer, 9, truncated=True)]
    for result in results:
        row.ask()
        row.answer(0, result)
    assert row.result().results == {
        SUMMARY: CaptionResult('"A summary"', 3),
        TITLE: CaptionResult(title, 9, truncated=True),
    }
