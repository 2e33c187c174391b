"""A service that does not answer ends the run; answers without a caption, and clips that can't be loaded, do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.captioning.captioners.api.errors import BLOCKED, EMPTY, INVALID, REFUSED, REJECTED, SERVICE
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import CaptionResult, Failure, RowResult
from pipeline.captioning.run.finished_rows import SERVICE_FAILURES, FinishedRows, MassFailure
from pipeline.captioning.run.rank_stats import RankStats
from pipeline.captioning.workers.world import solo_world
from tests.runs import write_meta

NO_ANSWER, CAPTION = Failure(SERVICE, ("connection refused",)), CaptionResult("A dog.", 3)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[FinishedRows]:
    with Journal(tmp_path / "journal", 0, {}) as journal:
        yield FinishedRows(write_meta(tmp_path, []), journal, solo_world(), RankStats())


def _add(rows: FinishedRows, *results: CaptionResult | Failure, times: int = 1) -> None:
    for row in range(times):
        rows.add(RowResult(row, {f"text_{number}": result for number, result in enumerate(results)}), "a.mp4")


def test_a_service_that_does_not_answer_ends_the_run(rows: FinishedRows) -> None:
    _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
    with pytest.raises(MassFailure, match=r"did not answer the requests of 32 rows in a row, .* The next run asks"):
        _add(rows, NO_ANSWER)


@pytest.mark.parametrize("stage", [BLOCKED, REFUSED, EMPTY, INVALID])
def test_an_answer_without_a_caption_shows_that_the_service_answers(rows: FinishedRows, stage: str) -> None:
    no_caption = Failure(stage, ("no caption",))
    for _ in range(2):
        _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
        _add(rows, no_caption)
        _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
        _add(rows, NO_ANSWER, no_caption)
    _add(rows, no_caption, times=2 * SERVICE_FAILURES)


def test_a_caption_shows_that_the_service_answers(rows: FinishedRows) -> None:
    for result in ((CAPTION,), (NO_ANSWER, CAPTION)):
        _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
        _add(rows, *result)


def test_clips_that_can_not_be_loaded_do_not_hide_the_service(rows: FinishedRows) -> None:
    with pytest.raises(MassFailure, match="the service did not answer"):
        for _ in range(SERVICE_FAILURES):
            _add(rows, Failure("decode", ("no video",)))
            _add(rows, NO_ANSWER)


def test_requests_that_fail_together_do_not_end_the_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", 0, {}) as journal:
        rows = FinishedRows(write_meta(tmp_path, []), journal, solo_world(), RankStats(), math.inf)
        _add(rows, NO_ANSWER, times=2 * SERVICE_FAILURES)


def test_requests_that_are_not_accepted_end_the_run_only_before_the_first_answer(rows: FinishedRows) -> None:
    rejected = Failure(REJECTED, ("HTTP 400: the image is too small",))
    _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
    _add(rows, rejected, times=SERVICE_FAILURES - 1)
    rows.service_has_answered = True
    _add(rows, rejected, times=5 * SERVICE_FAILURES)
    _add(rows, NO_ANSWER, times=SERVICE_FAILURES - 1)
    rows.service_has_answered = False
    with pytest.raises(MassFailure, match="has not accepted any request"):
        _add(rows, rejected, times=SERVICE_FAILURES)
