"""One rank's work with several questions about each clip: every row has one record, with each wanted column once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.requests import End, Request
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.run.planning import RankPlan
from pipeline.captioning.run.work import RankWorker
from pipeline.captioning.workers.leases import PENDING, RowPool, RowTask
from scripts.without_model import row_of
from tests.captioning.run.test_work import SlotCaptioner, SlotSource, make_worker
from tests.fakes import render_clip

ASKS = Asks(tuple(Ask(f"text_{name}", Question(f"{name} of {{note}}?")) for name in ("short", "long", "odd")))


@pytest.fixture(scope="module", name="clips")
def _clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{i}.mp4", i, frames=3)) for i in range(6)]


@dataclass
class AskedSource(SlotSource):
    """A captioner that answers with the question.

    refused: (row, question) pairs that can't be asked.
    """

    asks: Asks = ASKS
    refused: tuple[tuple[int, int], ...] = ()

    def load(self, backend: Backend) -> Captioner:
        return _AskedCaptioner(self)


class _AskedCaptioner(SlotCaptioner):
    def prepare(
        self, clips: Sequence[Clip], questions: Sequence[Sequence[str]] | None = None
    ) -> list[Request | Refused]:
        refused = self._slots.refused  # type: ignore[attr-defined]
        return [
            Refused(*request.key, "a placeholder in the question") if request.key in refused else request  # type: ignore
            for request in super().prepare(clips, questions)
        ]

    def caption(self, end: End) -> Caption:
        return Caption(self._questions[row_of(end)][end.question], 3, False)


def _asked_results(journal: Path) -> dict[int, dict[str, str]]:
    """The caption or the stage of the failure, by row and column; checks that every row has one record."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    finished = [record for record in records if "row" in record]
    assert len({record["row"] for record in finished}) == len(finished)
    return {
        record["row"]: {name: one.get("caption") or one["stage"] for name, one in record["captions"].items()}
        for record in finished
    }


def _asked_worker(
    folder: Path, source: AskedSource, clips: list[str], tasks: list[RowTask]
) -> tuple[RankWorker, RankPlan, Path]:
    worker, plan, journal = make_worker(folder, source, clips, 4)
    worker.world.offer(RowPool(lambda row: tasks[row], {PENDING: range(len(tasks))}, 1))
    return worker, plan, journal


def test_several_questions_about_a_clip_make_one_record(tmp_path: Path, clips: list[str]) -> None:
    """A row may want some of the questions only; one whose clip can't be loaded fails in each of its columns."""
    tasks = [
        RowTask(0, clips[0], ("x",)),
        RowTask(1, clips[1], ("y",), (2, 1)),
        RowTask(2, "/nowhere.mp4", ("z",), (1,)),
        RowTask(3, clips[3], ("",)),
    ]
    worker, plan, journal = _asked_worker(tmp_path, AskedSource(refused=((3, 1),)), clips, tasks)
    stats = worker.run(plan)
    assert _asked_results(journal) == {
        0: {"text_short": "short of x?", "text_long": "long of x?", "text_odd": "odd of x?"},
        1: {"text_odd": "odd of y?", "text_long": "long of y?"},
        2: {"text_long": "path"},
        3: {"text_short": "short of ?", "text_long": "prompt", "text_odd": "odd of ?"},
    }
    assert (stats.captioned, stats.failed, stats.captioned_rows, stats.failed_rows) == (7, 2, 3, 2)


def test_after_an_error_all_questions_about_a_clip_are_asked_again(tmp_path: Path, clips: list[str]) -> None:
    """The row that causes the error fails in all its columns; every other row has all its captions."""

    def on_step(in_flight: list[Clip]) -> None:
        if (
            any(clip.row == 2 for clip in in_flight) and len(source.rows_captioned) > 1
        ):  # after an answer about this clip
            raise ValueError("kernel failed")

    source = AskedSource(on_step=on_step)
    tasks = [RowTask(row, clips[row], (f"n{row}",)) for row in range(6)]
    worker, plan, journal = _asked_worker(tmp_path, source, clips, tasks)
    worker.run(plan)
    for row, results in _asked_results(journal).items():
        expected = "caption" if row == 2 else None
        assert results == {f"text_{name}": expected or f"{name} of n{row}?" for name in ("short", "long", "odd")}
    assert sorted(_asked_results(journal)) == list(range(6))
