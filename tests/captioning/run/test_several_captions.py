"""Runs that make several captions for each row: killed, resumed, with kept captions, and with other columns.

No model and no decoding: a session here plans, writes the journal of one rank, gathers and delivers, as a run does.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.journal.run_journals import RunJournals
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.outcomes import read_outcomes
from pipeline.captioning.meta.results import CaptionResult, ColumnResult, Failure, RowResult
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.delivery import gather_results, write_outputs
from pipeline.captioning.run.earlier_captions import Redo
from pipeline.captioning.run.fingerprints import COMPUTING_TYPE
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.planning import RankPlan, plan_run
from pipeline.captioning.run.rank_stats import RankStats
from pipeline.captioning.run.report import make_report, summary
from pipeline.captioning.workers.leases import PENDING, RETRIES, LeasedRows, RowTask
from pipeline.captioning.workers.world import solo_world
from tests.runs import read_rows, write_meta


def asks_of(*columns: str) -> Asks:
    return Asks(tuple(Ask(column, Question(f"What is in {column}?")) for column in columns))


class _Killed(Exception):
    pass


@dataclass
class Sessions:
    """The sessions of runs on one table.

    number: of the last session; its captions contain it.
    made: the results since the last run that was delivered.
    earlier: the captions that existed before the run.
    """

    options: JobOptions
    number: int = 0
    made: dict[tuple[int, str], ColumnResult] = field(default_factory=dict)
    earlier: dict[tuple[int, str], str] = field(default_factory=dict)

    def planned(self, asks: Asks, redo: Redo | None = None) -> RankPlan:
        table = MetaTable.read(self.options.meta_path, asks.columns, asks.cell_uses)
        with RunJournals(solo_world(), self.options.output) as journals:
            plugged = {} if redo is None else {"redo": redo}
            return plan_run(solo_world(), journals, table, self.options, asks, {"prompt": "p"}, **plugged)

    def run(self, asks: Asks, kill_at: int | None = None) -> bool:
        """One session; returns whether it delivered: otherwise nothing was left to caption.

        kill_at: number of rows before the worker dies.
        """
        self.number += 1
        world = solo_world()
        table = MetaTable.read(self.options.meta_path, asks.columns, asks.cell_uses)
        tasks: list[RowTask] = []
        with RunJournals(world, self.options.output) as journals:
            plan = plan_run(world, journals, table, self.options, asks, {"prompt": "p"})
            assert plan.leader is not None
            if not plan.is_done:
                journal = journals.open({**plan.fingerprint, COMPUTING_TYPE: "float32"}, plan.run, plan.total_rows, 1)
                for kind in (PENDING, RETRIES):
                    tasks += LeasedRows(lambda kind=kind: world.lease(kind), journal.lease)  # type: ignore[misc]
                tasks += plan.isolated
                assert len(tasks) == plan.total_rows
                stats = RankStats(backend="none")
                for number, task in enumerate(tasks):
                    journal.start([task.row])
                    if number == kill_at:
                        journal._file.close()  # as after a kill: without a record that the session has ended
                        journals._journal = None
                        raise _Killed
                    result = self._result(task, asks)
                    journal.finish([result])
                    for column, one in result.results.items():
                        assert (task.row, column) not in self.made, "a caption is made once"
                        self.made[task.row, column] = one
                    stats.captioned_rows += result.has_caption
                    stats.captioned += len(result.results) - sum(map(len, result.failures.values()))
                journal.release()
                results = gather_results(journals, plan.leader, self.options.pad_length)
                assert results is not None
                report = make_report(self.options, plan, plan.leader, results, [stats], 2.0)
                write_outputs(self.options.output, plan.leader, results, report)
                for level, line in summary(report):
                    logging.getLogger("summary").log(level, line)
            journals.remove()
        return not plan.is_done

    def _result(self, task: RowTask, asks: Asks) -> RowResult:
        columns = [asks.columns[number] for number in task.wanted or range(len(asks.columns))]
        for column in columns if self.options.skip_if_existing else ():
            assert not self.earlier.get((task.row, column)), "an earlier caption is kept"
        return RowResult(task.row, {column: self._answer(task, column) for column in columns}, is_image=task.row == 1)

    def _answer(self, task: RowTask, column: str) -> ColumnResult:
        if (task.row + len(column)) % 4 == 0:
            return Failure("prompt", (f"no place for {column}",))
        return CaptionResult(f"{column} of {task.path} in {self.number}", 5)

    def outcomes(self) -> list[dict[str, str]]:
        return list(read_outcomes(self.options.output.with_name("out_outcomes.jsonl")))


COLUMNS = ("text", "text_b", "text_ccc")
_STEP = st.tuples(
    st.sampled_from([COLUMNS, COLUMNS[1:], COLUMNS[::-2], COLUMNS[:1]]),
    st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=3),
    st.booleans(),
)
_PATHS = ["a.mp4", "b.png", "a.mp4", "c.mp4"]
_OWN = {(0, "text"): "own", (0, "text_b"): "own b", (1, "text_b"): "own b", (3, "text"): "own"}


@settings(max_examples=40, deadline=None)
@given(st.lists(_STEP, min_size=1, max_size=2), st.none() | st.integers(1, 3))
def test_every_wanted_caption_is_made_exactly_once_and_none_is_lost(
    steps: list[tuple[tuple[str, ...], list[tuple[bool, int]], bool]], limit: int | None
) -> None:
    """A step is a run with some columns: killed sessions, with and without --skip_if_existing, then one to its end."""
    with TemporaryDirectory() as name:
        rows = [f"{path},{_OWN.get((i, 'text'), '')},{_OWN.get((i, 'text_b'), '')}" for i, path in enumerate(_PATHS)]
        sessions = _sessions(Path(name), "\n".join(["path,text,text_b", *rows, ""]))
        sessions.options = replace(sessions.options, limit=limit)
        for columns, kills, skip in steps:
            before = read_rows(sessions.options.output) if sessions.options.output.exists() else [{}] * len(_PATHS)
            output = {(row, column): cells.get(column, "") for row, cells in enumerate(before) for column in COLUMNS}
            sessions.earlier = _OWN | {place: text for place, text in output.items() if text}
            is_delivered, sessions.made = False, {}
            for skips, kill_at in [*kills, (skip, None)]:
                sessions.options = replace(sessions.options, skip_if_existing=skips)
                with contextlib.suppress(_Killed):
                    is_delivered = sessions.run(asks_of(*columns), kill_at)
                    break
            if is_delivered:
                _check_outputs(sessions, columns)
            else:
                # Results of killed sessions count for nothing where an earlier caption is kept.
                assert before == read_rows(sessions.options.output) and sessions.made.keys() <= sessions.earlier.keys()
                assert all(row[column] for row in before for column in columns)
            assert not sessions.options.output.with_name("out.csv.journal").exists()


def _check_outputs(sessions: Sessions, columns: Sequence[str]) -> None:
    """The outputs have all captions of a run, and those that it kept."""
    rows = read_rows(sessions.options.output)
    made, failed, excluded = dict(sessions.made), [], set()
    outcomes = sessions.outcomes()
    assert [(o["row"], o["column"]) for o in outcomes] == [(row, c) for row in range(len(rows)) for c in columns]
    for outcome in outcomes:
        row, column = int(outcome["row"]), outcome["column"]
        result, text = made.pop((row, column), None), rows[row][column]
        earlier = sessions.earlier.get((row, column), "")
        if outcome["outcome"] == "kept":
            assert sessions.options.skip_if_existing and text == earlier != ""
            continue
        assert not (sessions.options.skip_if_existing and earlier), "an earlier caption is kept"
        if outcome["outcome"] == "captioned":
            assert isinstance(result, CaptionResult) and text == result.caption
            assert outcome["media"] == ("image" if row == 1 else "video")
            continue
        assert not text and not isinstance(result, CaptionResult)
        if outcome["outcome"] == "failed":
            assert outcome["stage"] == ("worker" if result is None else "prompt")
            failed.append((str(row), column, outcome["stage"], outcome["message"]))
        else:
            excluded.add(row)
            assert result is None
    assert not made and (not excluded or sessions.options.limit is not None)
    failures = sessions.options.output.with_name("out_failures.csv")
    assert failures.exists() == bool(failed)
    if failed:
        assert [(f["row"], f["column"], f["stage"], f["message"]) for f in read_rows(failures)] == failed


def _sessions(folder: Path, table: str) -> Sessions:
    options = write_meta(folder, [])
    options.meta_path.write_text(table)
    return Sessions(options)


def test_each_column_keeps_its_own_captions(tmp_path: Path) -> None:
    """The output's column takes precedence over the table's own column of this name."""
    sessions = _sessions(tmp_path, "path,text_b,text\nx.mp4,mine,t\ny.mp4,,t\nz.mp4,mine,t\n")
    sessions.options.output.write_text("path,text_b,text\nz.mp4,out,u\ny.mp4, ,u\n")
    sessions.options = replace(sessions.options, skip_if_existing=True)
    assert sessions.run(asks_of("text_b", "text_d"))
    assert sessions.made.keys() == {(0, "text_d"), (1, "text_b"), (1, "text_d"), (2, "text_d")}
    rows = read_rows(sessions.options.output)
    assert [row["text_b"] for row in rows] == ["mine", "text_b of y.mp4 in 1", "out"]
    assert [row["text"] for row in rows] == ["t", "t", "t"], "nothing is asked for this column"
    plan = sessions.planned(asks_of("text_d"))
    assert plan.leader is not None and plan.total_rows == 1, "the row that failed"
    assert list(plan.leader.lost_columns) == []
    sessions.options.meta_path.write_text("path\nx.mp4\ny.mp4\nz.mp4\n")
    sessions.options = replace(sessions.options, skip_if_existing=False)
    leader = sessions.planned(asks_of("text_d")).leader
    assert leader is not None and list(leader.lost_columns) == ["text_b", "text"]


def test_captions_and_texts_that_a_run_replaces_are_counted_for_each_column(tmp_path: Path) -> None:
    sessions = _sessions(tmp_path, "path,text_b\nx.mp4,mine\ny.mp4,\n")
    sessions.options.output.write_text("path,text_b,text_d\nx.mp4,1,2\ny.mp4,3,\n")
    leader = sessions.planned(asks_of("text_b", "text_d", "text")).leader
    assert leader is not None
    assert (leader.replaced_captions, leader.replaced_texts) == ({"text_b": 2, "text_d": 1}, {"text_b": 1})


def test_an_output_without_a_column_is_written_again(tmp_path: Path) -> None:
    sessions = _sessions(tmp_path, "path,text_b\nx.mp4,mine\n")
    sessions.options.output.write_text("path,text\nx.mp4,1\n")
    sessions.options = replace(sessions.options, skip_if_existing=True)
    assert not sessions.planned(asks_of("text_b")).is_done
    assert sessions.run(asks_of("text_b")) and read_rows(sessions.options.output) == [
        {"path": "x.mp4", "text": "1", "text_b": "mine"}
    ]
    assert sessions.planned(asks_of("text_b")).is_done


def test_marked_captions_count_as_missing(tmp_path: Path) -> None:
    """Marks are asked for by the rows of the table in which the caption stands, which may have other row numbers."""
    sessions = _sessions(tmp_path, "path,text_b\nx.mp4,mine\ny.mp4,mine\nz.mp4,bad\nw.mp4,mine\n")
    sessions.options.output.write_text("path,text_b\ny.mp4,bad\nx.mp4,out\n")
    sessions.options = replace(sessions.options, skip_if_existing=True)

    def redo(table: MetaTable, path: Path, column: str) -> set[int]:
        assert (path == sessions.options.output) == (len(table.paths) == 2)
        return {row for row, text in enumerate(table.texts(column) or []) if text == "bad"}

    leader = sessions.planned(asks_of("text_b"), redo).leader
    assert leader is not None and leader.plan.kept == {"text_b": {0: "out", 3: "mine"}}
    assert leader.plan.pending == (1, 2)


def test_a_task_has_the_cells_of_the_questions_and_what_is_wanted(tmp_path: Path) -> None:
    sessions = _sessions(tmp_path, "path,n,title,a\nx.mp4,1,T,\ny.mp4,2,U,mine\n")
    asks = Asks((Ask("a", Question("Is {title} in {n}?")), Ask("b", Question("Why {n}?"))))
    sessions.options = replace(sessions.options, skip_if_existing=True)
    leader = sessions.planned(asks).leader
    assert leader is not None
    assert leader.task_of(0) == RowTask(0, "x.mp4", ("T", "1"))
    assert leader.task_of(1) == RowTask(1, "y.mp4", ("U", "2"), (1,))


def test_journals_belong_to_the_columns_and_to_the_cells_of_the_questions(tmp_path: Path) -> None:
    table = "path,n,other\nx.mp4,1,p\ny.mp4,2,q\n"
    sessions = _sessions(tmp_path, table)
    asks = Asks((Ask("a", Question("Why {n}?")), Ask("b", Question("Why?"))))
    with pytest.raises(_Killed):
        sessions.run(asks, kill_at=1)
    sessions.options.meta_path.write_text(table.replace("q", "changed"))
    assert sessions.planned(Asks(asks.asks[::-1])).total_rows == 1, "other cells and the order do not matter"
    with pytest.raises(UsageError, match=r"columns: \[\"a\", \"b\"\] in the journals, \[\"a\", \"c\"\] now"):
        sessions.planned(Asks((asks.asks[0], Ask("c", Question("Why?")))))
    sessions.options.meta_path.write_text(table.replace("2", "3"))
    with pytest.raises(UsageError, match=r"question cells: 'n' .* in the journals"):
        sessions.planned(asks)


def test_one_caption_has_the_fingerprint_and_the_journals_of_earlier_versions(tmp_path: Path) -> None:
    sessions = _sessions(tmp_path, "path\nx.mp4\ny.mp4\nz.mp4\n")
    plan = sessions.planned(asks_of("text"))
    assert plan.fingerprint.keys() == {"prompt", "meta paths"}
    folder = tmp_path / "out.csv.journal"
    lines = [
        {"fingerprint": {**plan.fingerprint, COMPUTING_TYPE: "float32"}},
        {"session": "2026-11-20T09:00:00+00:00 host 7"},
        {"row": 0, "caption": "an early caption", "tokens": 4, "partial": True},
        {"row": 2, "stage": "decode", "messages": ["no"]},
    ]
    (folder / "rank-00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sessions.run(asks_of("text")) and sessions.made.keys() == {(1, "text")}
    assert read_rows(sessions.options.output)[0]["text"] == "an early caption"
    first, _, last = sessions.outcomes()
    assert (first["partial"], first["media"], last["stage"]) == (True, "video", "decode")
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert not {"columns", "captions_per_second"} & report.keys() and (report["images"], report["videos"]) == (1, 1)


def test_the_report_has_the_figures_of_each_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "summary")
    sessions = _sessions(tmp_path, "path,text_b\nx.mp4,\ny.mp4,\nz.mp4,mine\n")
    sessions.options = replace(sessions.options, skip_if_existing=True)
    assert sessions.run(asks_of("text", "text_b"))
    report = json.loads((tmp_path / "out_report.json").read_text())
    words = {"least": 5, "median": 5, "most": 5}
    figures = {"truncated": 0, "looping": 0, "words_per_caption": words}
    assert report["columns"] == {
        "text": {"captioned": 2, "failed": 1, "kept": 0, **figures},
        "text_b": {"captioned": 2, "failed": 0, "kept": 1, **figures},
    }
    assert (report["rows"], report["captioned"], report["failed"], report["kept"]) == (3, 4, 1, 1)
    assert (report["images"], report["videos"]) == (1, 2) and report["words_per_caption"] == words
    assert report["failures_by_stage"] == {"prompt": 1}
    example = {"row": 0, "path": "x.mp4", "column": "text", "message": "no place for text"}
    assert report["failure_examples"] == {"prompt": example}
    assert (report["clips_per_second"], report["captions_per_second"]) == (1.5, 2.0)
    for line in (
        "captions that failed at stage prompt: 1, for example row 0 (x.mp4): no place for text",
        "words per caption of text_b: 5 to 5, median 5",
        "4 captions of 1 images and 2 videos in 2 s (2.00 captions/s, 1.50 clips/s, 0.0 tokens/s), 1 failures",
    ):
        assert line in caplog.text


def test_blank_cells_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sessions = _sessions(tmp_path, "path,n,q\nx.mp4,, \ny.mp4,,Why?\nz.mp4,3,\n")
    sessions.planned(Asks((Ask("a", Question("Is {n} in it?")),), question_column="q"))
    (record,) = caplog.records
    assert record.getMessage() == "1 rows to caption have blank cells in columns that the questions contain ('n')"
    caplog.clear()
    sessions.planned(Asks((Ask("a", Question("What is it?")),), question_column="q"))
    assert not caplog.records, "a blank cell is not a question"
    caplog.clear()
    sessions.planned(Asks((Ask("a", Question("Improve: {n}"), "--prompt video-text", "video-text"),)))
    assert not caplog.records, "a named prompt allows for a blank earlier caption"
