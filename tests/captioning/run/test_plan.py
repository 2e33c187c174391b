"""Plans neither drop nor repeat a row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.run.plan import fingerprint_difference, make_plan

ROWS = st.integers(0, 60)


@given(
    rows=ROWS,
    kept=st.sets(ROWS),
    finished=st.sets(ROWS),
    deaths=st.dictionaries(ROWS, st.integers(1, 4), max_size=60),
    retried=st.sets(ROWS),
    limit=st.none() | st.integers(1, 70),
)
def test_every_row_is_in_one_place(
    rows: int,
    kept: set[int],
    finished: set[int],
    deaths: dict[int, int],
    retried: set[int],
    limit: int | None,
) -> None:
    kept_captions = {row: "c" for row in kept if row < rows}
    plan = make_plan(rows, kept_captions, finished, deaths, retried, limit)
    to_caption = [*plan.pending, *plan.retries, *plan.isolated]
    places = [*plan.kept, *plan.finished, *plan.quarantined, *to_caption, *plan.excluded]
    assert sorted(places) == list(range(rows)) and plan.rows_to_caption == len(to_caption)
    if limit is not None:
        assert len(to_caption) + len(plan.quarantined) <= limit


def test_deaths_make_suspects_then_failures() -> None:
    plan = make_plan(4, {}, [], {1: 1, 2: 2})
    assert (plan.pending, plan.isolated, plan.quarantined) == ((0, 3), (1,), (2,))
    assert "2 deaths" in str(plan.results_of_quarantined()[0].failure)


def test_many_in_flight_at_a_death_are_retried_in_batches() -> None:
    deaths = dict.fromkeys(range(40), 1)
    plan = make_plan(41, {}, [], deaths)
    assert (plan.pending, plan.retries, plan.isolated) == ((40,), tuple(range(40)), ())
    # Three of them were in flight when that killed a worker again: these come alone, the others as before.
    plan = make_plan(41, {}, [40], deaths, retried=[5, 6, 7])
    assert (len(plan.retries), plan.isolated, plan.quarantined) == (37, (5, 6, 7), ())
    plan = make_plan(41, {}, [row for row in range(41) if row != 6], {6: 2}, retried=[6])
    assert (plan.retries, plan.isolated, plan.quarantined) == ((), (), (6,))


def test_done_means_nothing_to_caption_or_write() -> None:
    assert make_plan(1, {0: "c"}, [], {}).is_done
    assert not make_plan(2, {0: "c"}, [1], {}).is_done


def test_fingerprint_difference_names_what_differs() -> None:
    assert fingerprint_difference({"frames": "4", "same": "x"}, {"frames": "8", "same": "x", "seed": "1"}) == [
        "frames: 4 there, 8 now",
        "seed: (none) there, 1 now",
    ]


def test_of_long_values_only_the_difference_is_told() -> None:
    prompt = "A chat between a curious user and an assistant. " * 40
    there, now = (f"{prompt}USER: Describe the {thing} in this video.{prompt}" for thing in ("people", "plants"))
    (line,) = fingerprint_difference({"prompt": there}, {"prompt": now})
    people, plants = (f"…'USER: Describe the {thing} in this video.A cha'…" for thing in ("people", "plants"))
    assert line == f"prompt: {people} there, {plants} now"
    (line,) = fingerprint_difference({"prompt": there}, {})
    assert line.endswith("there, '(none)' now") and len(line) < 250
    (line,) = fingerprint_difference({"prompt": prompt}, {"prompt": prompt[:-1] + "\n " + "other words " * 100})
    assert "an assistant. '" in line and "an assistant.\\n other words" in line and len(line) < 350
    (line,) = fingerprint_difference({"prompt": prompt + "a  b"}, {"prompt": prompt + "a b"})
    assert "a\\x20\\x20b' there" in line and "a b' now" in line, "white space that differs is seen"
