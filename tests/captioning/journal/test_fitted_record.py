"""Results that are too long for --pad_length are shortened, so that as many captions as possible are gathered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.journal.run_journals import MIN_PAD_LENGTH, fitted_record, least_pad_length
from pipeline.captioning.meta.results import CaptionResult, ColumnResult, Failure, RowResult
from pipeline.captioning.workers.gather import words_of


def _fitted(result: RowResult, pad_length: int) -> RowResult:
    record = fitted_record(result.to_json().encode("utf-8", "replace"), pad_length)
    assert words_of(record) <= pad_length
    return RowResult.from_json(record.decode())


def test_only_as_many_captions_fail_as_must_the_longest_first() -> None:
    columns = {"a": CaptionResult("x" * 300, 1), "b": CaptionResult("y" * 200, 1), "c": CaptionResult("z" * 100, 1)}
    result = RowResult(1, columns, is_image=True)
    words = words_of(result.to_json().encode())
    assert _fitted(result, words) == result
    message = f"the 3 captions of the row take {words} words of 4 bytes, more than --pad_length {words - 1}"
    failed = Failure("gather", (message,))
    assert _fitted(result, words - 1) == RowResult(1, {**columns, "a": failed}, is_image=True)
    assert [type(one) for one in _fitted(result, 100).results.values()] == [Failure, Failure, CaptionResult]


def test_messages_are_cut_before_captions_fail() -> None:
    caption = CaptionResult("x" * 200, 1)
    result = RowResult(1, {"a": caption, "b": Failure("decode", ("m" * 5000, "n"))})
    assert _fitted(result, 120).results == {"a": caption, "b": Failure("decode", ("m" * 10,))}


def test_one_caption_fails_as_a_whole_and_one_failure_keeps_its_stage() -> None:
    (failure,) = _fitted(RowResult(7, {"text": CaptionResult("x" * 1000, 9)}), MIN_PAD_LENGTH).failures
    assert failure.stage == "gather" and "the caption takes " in str(failure) and "--pad_length 64" in str(failure)
    (failure,) = _fitted(RowResult.failed(7, ["text"], "decode", ["\x00" * 900, "b"]), MIN_PAD_LENGTH).failures
    assert failure == Failure("decode", ("\x00" * 10,))
    assert least_pad_length(["text"]) <= MIN_PAD_LENGTH


_TEXTS = st.text(max_size=300)
_RESULTS: st.SearchStrategy[ColumnResult] = st.one_of(
    st.builds(CaptionResult, _TEXTS, st.integers(0, 10**6), st.booleans(), st.booleans()),
    st.builds(Failure, st.sampled_from(["decode", "prepare"]), st.lists(_TEXTS, max_size=3).map(tuple)),
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=20), _RESULTS, min_size=1, max_size=6),
    st.integers(0, 10**9),
    st.booleans(),
    st.integers(0, 400),
)
def test_every_record_fits_and_no_column_is_lost(
    columns: dict[str, ColumnResult], row: int, is_image: bool, more: int
) -> None:
    result = RowResult(row, columns, partial=not is_image, is_image=is_image)
    fitted = _fitted(result, least_pad_length(columns) + more)
    assert (fitted.row, fitted.is_image, fitted.partial) == (row, is_image, not is_image)
    assert fitted.columns == result.columns
    for column, one in fitted.results.items():
        assert one == columns[column] or isinstance(one, Failure)


@pytest.mark.parametrize("columns", [["text"], ["text_short", "text_long"], [f"column {i}" for i in range(40)]])
def test_the_least_length_suffices_for_failures_of_all_columns(columns: list[str]) -> None:
    pad_length = least_pad_length(columns)
    result = RowResult.failed(10**11, columns, "prepare", ["\x01" * 5000])
    assert _fitted(result, pad_length).columns == tuple(columns)
