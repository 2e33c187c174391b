"""`--redo`: which rows are captioned again, and that an interrupted run finds the same rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from pipeline.captioning.captioners.base import Caption
from pipeline.captioning.journal.reader import JournalContents
from pipeline.captioning.meta.names import outcomes_path
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.earlier_captions import EarlierCaptions
from pipeline.captioning.run.options import JobOptions, job_options
from pipeline.captioning.run.plan import make_plan
from pipeline.captioning.run.planning import leader_plan
from pipeline.captioning.run.redo import MarkedRows
from pipeline.captioning.run.run_flags import make_parser
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta

PATHS = ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]
SHORT = ["A dog runs on grass.", "A dog runs on grass.", "A cat.", "", "A boat on a lake and"]
LONG = [
    "A dog runs on the grass.",
    "A brown dog is here.",
    "It and it and it and it and it and.",
    "A man walks by.",
    "",
]


@pytest.fixture
def options(tmp_path: Path) -> JobOptions:
    """Options of a run whose earlier output has two columns of captions. Its meta table has one more row than it."""
    options = write_meta(tmp_path, ["new.mp4", *PATHS])
    with options.output.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "short", "long"], *zip(PATHS, SHORT, LONG, strict=True)])
    cut_off = {"row": 1, "path": "b.mp4", "column": "long", "outcome": "captioned", "truncated": True}
    outcomes_path(options.output).write_text(json.dumps(cut_off) + "\n")
    return replace(options, skip_if_existing=True)


def _kept(options: JobOptions) -> dict[str, Mapping[int, str]]:
    table, earlier = (MetaTable.read(path) if path.exists() else None for path in (options.meta_path, options.output))
    assert table is not None
    captions = EarlierCaptions.of(table, options.meta_path, earlier, options.output, ["short", "long"])
    return captions.kept(MarkedRows(options))


@pytest.mark.parametrize(
    ("marks", "short", "long"),
    [
        ((), [0, 4], [0, 5]),
        (("repeated",), [0, 1, 2, 4], [0, 5]),
        (("looping",), [0, 4], [0, 3, 5]),
        (("short",), [0, 3, 4], [0, 4, 5]),
        (("unfinished",), [0, 4, 5], [0, 2, 5]),
        (("repeated", "looping", "short", "unfinished"), [0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5]),
    ],
)
def test_rows_with_a_mark_count_as_rows_without_a_caption(
    options: JobOptions, marks: tuple[str, ...], short: list[int], long: list[int]
) -> None:
    """Each column by itself. Rows are numbers in the meta table; row 0 is new and row i+1 was row i."""
    kept = _kept(replace(options, redo=marks))
    missing = {column: sorted(set(range(6)) - kept[column].keys()) for column in ("short", "long")}
    assert missing == {"short": short, "long": long}


def test_number_of_words_of_short_captions(options: JobOptions) -> None:
    kept = _kept(replace(options, redo=("short",), short_words=2))
    assert sorted(kept["short"]) == [1, 2, 3, 5]


def test_an_interrupted_run_finds_the_same_rows(options: JobOptions) -> None:
    """The output with the marks is replaced at the end of a run only; what the run has made is in the journals."""
    options = replace(options, redo=("repeated", "looping"))
    kept = _kept(options)
    assert list(make_plan(6, ["short", "long"], kept, {}, {}).in_order()) == [0, 1, 2, 3, 4, 5]
    assert _kept(options) == kept
    resumed = make_plan(6, ["short", "long"], kept, {"short": {1}, "long": {3}}, {})
    assert list(resumed.in_order()) == [0, 2, 4, 5] and resumed.finished == {1, 3}


def test_the_table_s_own_captions(options: JobOptions) -> None:
    """They are kept, and made again, if there is no earlier output."""
    options.meta_path.write_text("path,short,long\na.mp4,A cat.,\nb.mp4,A cat sits in a box.,\n")
    options.output.unlink()
    assert list(_kept(replace(options, redo=("short",)))["short"]) == [1]


def _options(meta: Path, *flags: str) -> JobOptions:
    return job_options(make_parser("caption", "").parse_args([str(meta), *flags]))


def test_flags(tmp_path: Path) -> None:
    meta = tmp_path / "meta.csv"
    assert _options(meta).redo == ()
    options = _options(meta, "--skip_if_existing", "--redo", "short, looping,short", "--short_words", "7")
    assert (options.redo, options.short_words) == (("looping", "short"), 7)
    with pytest.raises(UsageError, match="--redo: 'long' is not a mark; the marks are repeated, looping, short, unf"):
        _options(meta, "--skip_if_existing", "--redo", "looping,long")
    with pytest.raises(UsageError, match="--redo short: without --skip_if_existing all rows are captioned again"):
        _options(meta, "--redo", "short")
    with pytest.raises(UsageError, match="--short_words 7 has an effect only with --redo short"):
        _options(meta, "--skip_if_existing", "--redo", "looping", "--short_words", "7")


@pytest.mark.parametrize("limit", [None, 1])
def test_a_kill_while_the_outputs_are_replaced_loses_no_new_caption(tmp_path: Path, limit: int | None) -> None:
    """The outcomes file, which says that captions were cut off, is replaced before the captioned table."""
    clips = [str(render_clip(tmp_path / f"{number}.mp4", number, frames=3)) for number in range(3)]
    options = write_meta(tmp_path, clips)
    assert run_job(options, FakeSource(caption=lambda clip: Caption(f"Cut off at {clip.row}.", 6, True))) == [0]
    options = replace(options, skip_if_existing=True, redo=("unfinished",), limit=limit)
    source = FakeSource(caption=lambda clip: Caption(f"A new caption of clip {clip.row}.", 6, False))
    with mock.patch.object(MetaTable, "write", side_effect=KeyboardInterrupt):
        assert isinstance(run_job(options, source)[0], KeyboardInterrupt)
    made = sorted(source.rows_captioned)
    assert made == ([0, 1, 2] if limit is None else [0])
    assert run_job(options, source) == [0] and sorted(source.rows_captioned)[: len(made)] == made
    texts = [row["text"] for row in read_rows(options.output)]
    assert texts == [f"{'A new caption of clip' if row in made else 'Cut off at'} {row}." for row in range(3)]
    assert not list(tmp_path.glob("*.journal"))


def test_a_new_caption_is_not_hidden_by_the_earlier_one_of_a_row_beyond_the_limit(options: JobOptions) -> None:
    """An interrupted run without a limit has made `long` of the last row, and not yet its `short`."""
    table = MetaTable.read(options.meta_path, ["short", "long"])
    earlier = EarlierCaptions.of(
        table, options.meta_path, MetaTable.read(options.output), options.output, ["short", "long"]
    )
    options = replace(options, redo=("repeated", "short", "looping"), limit=1)
    contents = JournalContents()
    contents.add_captions("run", "long", [3])
    contents.add_failures("short", [1])
    plan = leader_plan(table, earlier, options, FakeSource.asks, [], contents, MarkedRows(options)).plan
    assert 3 in plan.excluded and 3 not in plan.kept["long"] and plan.kept["short"][3] == "A cat."
    assert plan.kept["short"][2] == SHORT[1], "the failure of row 1 counts, and the caption of row 2 is kept"


def test_a_run_makes_marked_captions_again_and_keeps_those_beyond_its_limit(tmp_path: Path) -> None:
    clips = [str(render_clip(tmp_path / f"{number}.mp4", number, frames=3)) for number in range(4)]
    options = write_meta(tmp_path, clips)
    earlier = ["A dog runs on grass.", "Too short.", "Short too.", "A cat sits on a chair."]
    with options.output.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "note", "text"], *((clip, "", text) for clip, text in zip(clips, earlier, strict=True))]
        )
    source = FakeSource(caption=lambda clip: Caption(f"a new caption of clip {clip.row}", 6, False))
    assert run_job(replace(options, skip_if_existing=True, redo=("short",), limit=1), source) == [0]
    texts = [row["text"] for row in read_rows(options.output)]
    assert texts == [earlier[0], "a new caption of clip 1", earlier[2], earlier[3]]
    assert source.rows_captioned == [1]
    assert run_job(replace(options, skip_if_existing=True, redo=("short",)), source) == [0]
    assert [row["text"] for row in read_rows(options.output)] == [*texts[:2], "a new caption of clip 2", texts[3]]
    assert source.rows_captioned == [1, 2]
