"""One rank's work with several questions about each clip: every row has one record, with each wanted column once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.requests import End, Request
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.run import finished_rows
from pipeline.captioning.run.finished_rows import MassFailure
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
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        refused = self._slots.refused  # type: ignore[attr-defined]
        return [
            Refused(*request.key, "a placeholder in the question") if request.key in refused else request  # type: ignore
            for request in super().prepare(clips, questions, systems)
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


def test_an_error_fails_only_the_question_that_causes_it(tmp_path: Path, clips: list[str]) -> None:
    """The other captions of the row are kept, whether they were made before or after the error."""
    prepared: list[tuple[int, str]] = []

    class Failing(_AskedCaptioner):
        def prepare(
            self,
            clips: Sequence[Clip],
            questions: Sequence[Sequence[str]] | None = None,
            systems: Sequence[str | None] | None = None,
        ) -> list[Request | Refused]:
            assert questions is not None
            for clip, own in zip(clips, questions, strict=True):
                prepared.extend((clip.row, question) for question in own)
                if (clip.row == 2 and "long of n2?" in own) or (clip.row == 4 and "odd of n4?" in own):
                    raise ValueError("kernel failed")
            return super().prepare(clips, questions, systems)

    source = AskedSource()
    source.load = lambda backend: Failing(source)  # type: ignore[method-assign]
    tasks = [RowTask(row, clips[row], (f"n{row}",)) for row in range(6)]
    worker, plan, journal = _asked_worker(tmp_path, source, clips, tasks)
    stats = worker.run(plan)
    found = _asked_results(journal)
    assert sorted(found) == list(range(6))
    for row, results in found.items():
        failing = {2: "long", 4: "odd"}.get(row)
        expected = {name: "caption" if name == failing else f"{name} of n{row}?" for name in ("short", "long", "odd")}
        assert results == {f"text_{name}": text for name, text in expected.items()}
    assert (stats.captioned, stats.failed, stats.captioned_rows, stats.failed_rows) == (16, 2, 6, 2)
    assert not any(prepared.count((row, f"short of n{row}?")) > 4 for row in range(6)), "answers are kept"


def test_answers_before_an_error_are_kept(tmp_path: Path, clips: list[str]) -> None:
    """After an error in a step, only questions without an answer are asked again."""
    asked: list[list[str]] = []

    def on_step(in_flight: list[Clip]) -> None:
        if len(source.rows_captioned) == 1 and len(asked) == 1:
            raise ValueError("kernel failed")

    class Recording(_AskedCaptioner):
        def prepare(
            self,
            clips: Sequence[Clip],
            questions: Sequence[Sequence[str]] | None = None,
            systems: Sequence[str | None] | None = None,
        ) -> list[Request | Refused]:
            asked.extend(map(list, questions or []))
            return super().prepare(clips, questions, systems)

    source = AskedSource(on_step=on_step)
    source.load = lambda backend: Recording(source)  # type: ignore[method-assign]
    worker, plan, journal = _asked_worker(tmp_path, source, clips, [RowTask(0, clips[0], ("x",))])
    worker.run(plan)
    assert [len(questions) for questions in asked] == [3, 1, 1]
    assert _asked_results(journal) == {0: {f"text_{name}": f"{name} of x?" for name in ("short", "long", "odd")}}


def test_a_question_that_always_fails_does_not_stop_the_run(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with a caption is no sign of a broken device or of a missing disk."""
    monkeypatch.setattr(finished_rows, "FAILURE_WINDOW", 4)
    refused = tuple((row, 1) for row in range(12))
    tasks = [RowTask(row, clips[row % 6], ("x",)) for row in range(12)]
    worker, plan, _ = _asked_worker(tmp_path, AskedSource(refused=refused), clips, tasks)
    stats = worker.run(plan)
    assert (stats.captioned_rows, stats.failed_rows) == (12, 12)
    only_this = [RowTask(row, clips[row % 6], ("x",), (1,)) for row in range(12)]
    (tmp_path / "again").mkdir()
    source = AskedSource(refused=tuple((row, 0) for row in range(12)))
    worker, plan, _ = _asked_worker(tmp_path / "again", source, clips, only_this)
    with pytest.raises(MassFailure, match=r"most of them at stage prompt, .*see the messages above"):
        worker.run(plan)


def test_a_prompt_for_videos_is_not_asked_about_an_image_with_a_suffix_of_videos(
    tmp_path: Path, clips: list[str]
) -> None:
    image = tmp_path / "image.mp4"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(image, "PNG")
    asks = Asks((Ask("a", Question("a?"), "--ask a", "video", "video"), Ask("b", Question("b?"))))
    source = AskedSource(asks=asks)
    tasks = [RowTask(0, str(image)), RowTask(1, clips[0]), RowTask(2, str(image), (), (0,))]
    worker, plan, journal = _asked_worker(tmp_path, source, clips, tasks)
    worker.run(plan)
    assert _asked_results(journal) == {0: {"a": "prompt", "b": "b?"}, 1: {"a": "a?", "b": "b?"}, 2: {"a": "prompt"}}
    assert "is for videos, but the content of the file is a still image" in journal.read_text()
