"""Planning: rank 0 makes the plan from meta table and journals, and offers the rows to all ranks.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..journal.reader import Fingerprint, JournalContents
from ..journal.run_journals import RunJournals
from ..meta.asks import Asks
from ..meta.names import column_list
from ..meta.table import MetaTable
from ..process.errors import UsageError
from ..workers.leases import PENDING, RETRIES, RowPool, RowTask
from ..workers.world import World
from .earlier_captions import EarlierCaptions, Redo, nothing_marked
from .fingerprints import COMPUTING_TYPE, check_journals, is_other_run, table_fingerprint
from .media_check import media_problem
from .options import JobOptions
from .plan import Plan, make_plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaderPlan:
    """The part of the plan that only rank 0 has.

    asks: what is asked. cells: for each of `Asks.cell_columns`, the cells of all rows.
    replaced_captions: for each column, the number of captions in the earlier output that this run does not keep.
    replaced_texts: for each column, the number of texts in the meta table's own column that the output does not keep.
    other_captions: captions of the earlier output in columns that neither the meta table nor this run has, and that
        the output keeps: for each column, the text of every row.
    lost_columns: columns of the earlier output that the output does not keep.
    """

    table: MetaTable
    plan: Plan
    asks: Asks
    cells: Sequence[Sequence[str]]
    replaced_captions: Mapping[str, int]
    replaced_texts: Mapping[str, int]
    other_captions: Mapping[str, Sequence[str]]
    lost_columns: Sequence[str]

    def task_of(self, row: int) -> RowTask:
        """What a rank needs to caption a row."""
        return RowTask(
            row,
            self.table.paths[row],
            tuple([column[row] for column in self.cells]),
            self.plan.wanted.get(row, ()),
            self.table.range_of(row),
        )


@dataclass(frozen=True)
class RankPlan:
    """The part of the plan that one rank has. The rank leases the rows to caption from rank 0, in blocks.

    fingerprint: everything that the captions of this run depend on, except the computing type.
    computing_types: computing types of the captions in the journals.
    run: name of this run: the time when it was planned, in UTC.
    total_rows: rows to caption on all ranks together.
    ranks: number of ranks that may get rows to caption.
    has_isolated: whether there are isolated rows, which are on rank 0.
    is_done: there is nothing to caption and nothing to write on any rank.
    has_work: whether this rank may get rows to caption.
    isolated: rows to caption after all other rows, one at a time. All are on rank 0: if a worker dies then, the only
        row in flight is the cause.
    host_workers: ranks on this host, including this one.
    leader: the whole table and plan, on rank 0; None on other ranks.
    discards_journals: the journals found have no caption and belong to a run with other settings.
    """

    fingerprint: Fingerprint
    computing_types: Sequence[str]
    run: str
    total_rows: int
    ranks: int
    has_isolated: bool
    is_done: bool
    has_work: bool
    isolated: Sequence[RowTask]
    host_workers: int
    leader: LeaderPlan | None
    discards_journals: bool = False


def plan_run(
    world: World,
    journals: RunJournals,
    table: MetaTable | None,
    options: JobOptions,
    asks: Asks,
    captioner_fingerprint: Mapping[str, str],
    redo: Redo = nothing_marked,
) -> RankPlan:
    """Make the plan on rank 0 and send each rank its part. Collective: every rank must call it.

    table: the meta table, on rank 0; None on other ranks.
    redo: which existing captions count as missing, with `--skip_if_existing`.

    Raises:
        UsageError: on rank 0: the journals belong to a run with other settings, the earlier output can't be read,
            or a prompt does not suit the medium of a row.
    """
    host_workers = world.host_workers()
    contents = journals.contents(options.restart)
    leader, shared = None, b""
    if table is not None:
        _log_ranges(table)
        cells = table.cells(asks.cell_columns)
        fingerprint = {**captioner_fingerprint, **table_fingerprint(table, asks, cells)}
        discards = not any(contents.captions.values()) and is_other_run(contents.fingerprints, fingerprint)
        if discards:  # a run that a wrong setting ended at once
            contents = JournalContents()
        check_journals(contents.fingerprints, fingerprint, journals.folder)
        earlier_output = _earlier_output(options, asks)
        earlier = EarlierCaptions.of(table, options.meta_path, earlier_output, options.output, asks.columns)
        leader = leader_plan(table, earlier, options, asks, cells, contents, redo)
        problem = media_problem(asks, map(leader.task_of, leader.plan.in_order()))
        if problem:
            raise UsageError(problem)
        _warn_of_blank_cells(asks, leader)
        rows = {PENDING: leader.plan.pending, RETRIES: leader.plan.retries}
        world.offer(RowPool(leader.task_of, rows, world.world_size, options.lease_rows))
        types = {found[COMPUTING_TYPE] for found in contents.fingerprints if COMPUTING_TYPE in found}
        shared = json.dumps(
            {
                "fingerprint": fingerprint,
                "computing_types": sorted(types),
                "run": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "total_rows": leader.plan.rows_to_caption,
                "ranks": min(world.world_size, leader.plan.rows_to_caption),
                "has_isolated": bool(leader.plan.isolated),
                "discards_journals": discards,
                "is_done": leader.plan.is_done and earlier.is_output_of(leader.plan.kept),
            }
        ).encode("ascii")
    (received,) = map(json.loads, world.broadcast([shared]))
    isolated = [leader.task_of(row) for row in leader.plan.isolated] if leader else []
    has_work = world.rank < received["ranks"]
    return RankPlan(**received, has_work=has_work, isolated=isolated, host_workers=host_workers, leader=leader)


def _log_ranges(table: MetaTable) -> None:
    """A column `start` or `end` may mean something else, so its use is always said."""
    if table.ranges:
        logger.info(
            "column %s: %s of %s rows are parts of their files; --whole_files captions whole files",
            ", ".join(table.range_columns),
            f"{table.ranges.parts:,}",
            f"{len(table.paths):,}",
        )


def _earlier_output(options: JobOptions, asks: Asks) -> MetaTable | None:
    """The table that an earlier run wrote to the output path; None if there is none, or it can't be read.

    Raises:
        UsageError: the table can't be read, and `--skip_if_existing` needs it.
    """
    if not options.output.exists():
        return None
    try:
        return MetaTable.read(options.output, asks.columns, whole_files=options.whole_files)
    except UsageError:
        if options.skip_if_existing:
            raise
        return None  # the file becomes the backup


def leader_plan(
    table: MetaTable,
    earlier: EarlierCaptions,
    options: JobOptions,
    asks: Asks,
    cells: Sequence[Sequence[str]],
    contents: JournalContents,
    redo: Redo,
) -> LeaderPlan:
    """The plan of rank 0.

    earlier: the captions that exist before the run. cells: see `LeaderPlan`. contents: of the journals.
    redo: as for `plan_run`.
    """
    kept = earlier.kept(redo) if options.skip_if_existing else {}
    if options.redo:
        kept = _without(kept, contents.captions)
    finished, deaths, retried = contents.finished, contents.deaths, contents.retried
    plan = make_plan(len(table.paths), tuple(earlier.captions), kept, finished, deaths, retried, options.limit)
    if options.redo and plan.excluded:
        # A marked caption that is not made again, because its row is beyond `--limit`, is not lost.
        everything = _without(earlier.kept(nothing_marked), contents.captions)
        kept = {
            column: {**kept[column], **{row: captions[row] for row in plan.excluded if row in captions}}
            for column, captions in everything.items()
        }
        plan = dataclasses.replace(plan, kept=kept)
    others = earlier.other_captions() if options.skip_if_existing else {}
    return LeaderPlan(
        table=table,
        plan=plan,
        asks=asks,
        cells=cells,
        replaced_captions={} if options.skip_if_existing else _counts(earlier.captions),
        replaced_texts={} if options.skip_if_existing else _counts(earlier.texts),
        other_captions=others,
        lost_columns=[name for name in earlier.other_columns() if name not in others],
    )


def _without(
    kept: Mapping[str, Mapping[int, str]], made: Mapping[str, Collection[int]]
) -> dict[str, Mapping[int, str]]:
    """The kept captions without those that an interrupted run with `--redo` has made again, whose rows are `made`.

    Such a run may have replaced the outcomes file, and with it the marks, but not yet the captioned table.
    """
    return {
        column: {row: text for row, text in captions.items() if row not in made[column]}
        if made.get(column)
        else captions
        for column, captions in kept.items()
    }


def _counts(captions: Mapping[str, Mapping[int, str]]) -> dict[str, int]:
    return {column: len(of_column) for column, of_column in captions.items() if of_column}


def _warn_of_blank_cells(asks: Asks, leader: LeaderPlan) -> None:
    """Warn once if cells that the user's questions contain are blank.

    A blank cell in the column of whole questions is usual, and named prompts allow for a blank earlier caption.
    """
    needed = [
        [] if ask.prompt else [asks.cell_columns.index(name) for name in ask.question.columns] for ask in asks.asks
    ]
    if not any(needed):
        return
    everything = tuple(range(len(needed)))
    own = asks.cell_columns.index(asks.question_column) if asks.question_column else -1
    rows = 0
    blank: set[str] = set()
    for row in leader.plan.in_order():
        if own >= 0 and leader.cells[own][row].strip():
            continue
        numbers = {n for number in leader.plan.wanted.get(row, everything) for n in needed[number]}
        found = {asks.cell_columns[n] for n in numbers if not leader.cells[n][row].strip()}
        rows += bool(found)
        blank |= found
    if rows:
        logger.warning(
            "%d rows to caption have blank cells in columns that the questions contain (%s)",
            rows,
            column_list(sorted(blank)),
        )
