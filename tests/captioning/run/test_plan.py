"""Plans contain every row exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.run.plan import fingerprint_difference, make_plan

ROWS = st.integers(0, 60)


@given(
    rows=ROWS,
    kept=st.lists(st.sets(ROWS), min_size=1, max_size=3),
    finished=st.lists(st.sets(ROWS), min_size=3, max_size=3),
    deaths=st.dictionaries(ROWS, st.integers(1, 4), max_size=60),
    retried=st.sets(ROWS),
    limit=st.none() | st.integers(1, 70),
)
def test_every_row_is_in_exactly_one_group(
    rows: int,
    kept: list[set[int]],
    finished: list[set[int]],
    deaths: dict[int, int],
    retried: set[int],
    limit: int | None,
) -> None:
    columns = ["a", "b", "c"][: len(kept)]
    captions = {column: {row: "x" for row in of if row < rows} for column, of in zip(columns, kept, strict=True)}
    journals = dict(zip(columns, finished, strict=False))
    plan = make_plan(rows, columns, captions, journals, deaths, retried, limit)
    to_caption = list(plan.in_order())
    all_kept = [row for row in range(rows) if all(row in captions[column] for column in columns)]
    assert to_caption == [*plan.pending, *plan.retries, *plan.isolated] and plan.rows_to_caption == len(to_caption)
    all_rows = [*all_kept, *plan.finished, *plan.quarantined, *to_caption, *plan.excluded]
    assert sorted(all_rows) == list(range(rows))
    for row in [*to_caption, *plan.quarantined]:
        missing = [column for column in columns if row not in captions[column] and row not in journals[column]]
        assert list(plan.wanted_columns(row)) == missing, "each column that has neither a caption nor a result"
        assert (row in plan.wanted) == (len(missing) < len(columns))
    if limit is not None:
        assert len(to_caption) + len(plan.quarantined) <= limit


def test_rows_are_isolated_after_one_death_and_quarantined_after_two() -> None:
    plan = make_plan(4, ["text"], {}, {}, {1: 1, 2: 2})
    assert (plan.pending, plan.isolated, plan.quarantined) == ((0, 3), (1,), (2,))
    (result,) = plan.results_of_quarantined()
    assert result.row == 2 and "2 deaths" in str(result.results["text"])


def test_a_quarantined_row_fails_in_the_columns_that_have_no_result() -> None:
    plan = make_plan(1, ["a", "b", "c"], {"a": {0: "x"}}, {"b": [0]}, {0: 2})
    (result,) = plan.results_of_quarantined()
    assert (plan.quarantined, result.columns) == ((0,), ("c",))


def test_deaths_before_a_result_of_all_columns_do_not_count() -> None:
    deaths = {0: 1, 1: 2}
    assert make_plan(2, ["a"], {}, {"a": [0, 1]}, deaths).finished == {0, 1}
    plan = make_plan(2, ["a", "b"], {}, {"a": [0, 1]}, deaths)
    assert (plan.isolated, plan.quarantined) == ((0,), (1,)), "the other column may be the cause"


def test_the_limit_counts_rows_with_something_to_caption() -> None:
    kept = {"a": {0: "x", 1: "x"}, "b": {0: "x"}}
    plan = make_plan(4, ["a", "b"], kept, {"b": [3]}, {}, limit=2)
    assert (plan.pending, plan.excluded, plan.wanted) == ((1, 2), {3}, {1: (1,)})


def test_many_in_flight_at_a_death_are_retried_in_batches() -> None:
    deaths = dict.fromkeys(range(40), 1)
    plan = make_plan(41, ["text"], {}, {}, deaths)
    assert (plan.pending, plan.retries, plan.isolated) == ((40,), tuple(range(40)), ())
    # Three of them were in flight when a worker died during their retry: these are isolated, the others are retried.
    plan = make_plan(41, ["text"], {}, {"text": [40]}, deaths, retried=[5, 6, 7])
    assert (len(plan.retries), plan.isolated, plan.quarantined) == (37, (5, 6, 7), ())
    plan = make_plan(41, ["text"], {}, {"text": {*range(41)} - {6}}, {6: 2}, retried=[6])
    assert (plan.retries, plan.isolated, plan.quarantined) == ((), (), (6,))


def test_a_plan_is_done_if_there_is_nothing_to_caption_or_write() -> None:
    assert make_plan(1, ["text"], {"text": {0: "c"}}, {}, {}).is_done
    assert not make_plan(2, ["text"], {"text": {0: "c"}}, {"text": [1]}, {}).is_done


def test_fingerprint_difference_names_what_differs() -> None:
    assert fingerprint_difference({"frames": "4", "same": "x"}, {"frames": "8", "same": "x", "seed": "1"}) == [
        "frames: 4 in the journals, 8 now",
        "seed: (none) in the journals, 1 now",
    ]


def test_of_long_values_only_the_difference_is_shown() -> None:
    prompt = "A chat between a curious user and an assistant. " * 40
    found, wanted = (f"{prompt}USER: Describe the {thing} in this video.{prompt}" for thing in ("people", "plants"))
    (line,) = fingerprint_difference({"prompt": found}, {"prompt": wanted})
    people, plants = (f"…'USER: Describe the {thing} in this video.A cha'…" for thing in ("people", "plants"))
    assert line == f"prompt: {people} in the journals, {plants} now"
    (line,) = fingerprint_difference({"prompt": found}, {})
    assert line.endswith("in the journals, '(none)' now") and len(line) < 250
    (line,) = fingerprint_difference({"prompt": prompt}, {"prompt": prompt[:-1] + "\n " + "other words " * 100})
    assert "an assistant. '" in line and "an assistant.\\n other words" in line and len(line) < 350
    (line,) = fingerprint_difference({"prompt": prompt + "a  b"}, {"prompt": prompt + "a b"})
    assert "a\\x20\\x20b' in the journals" in line and "a b' now" in line, "differences in white space are visible"
