"""Planning: rank 0 makes the plan from meta table and journals, and offers the rows to all ranks.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..journal.reader import Fingerprint, JournalContents
from ..journal.run_journals import RunJournals
from ..meta.table import MetaTable, match_occurrences
from ..process.errors import UsageError
from ..workers.leases import PENDING, RETRIES, RowPool
from ..workers.world import World
from .options import JobOptions
from .plan import Plan, fingerprint_difference, make_plan

COMPUTING_TYPE = "computing type"
"""Name of the entry of a journal's fingerprint whose value is known only after the framework is imported."""


@dataclass(frozen=True)
class LeaderPlan:
    """The part of the plan that only rank 0 has.

    replaced_captions: number of captions in the earlier output that this run does not keep.
    replaced_texts: number of texts in the meta table's own column `text` that the output does not keep.
    """

    table: MetaTable
    plan: Plan
    replaced_captions: int
    replaced_texts: int


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
    isolated: (row, path) pairs to caption after all other rows, one at a time. All are on rank 0: if a worker dies
        then, the only row in flight is the cause.
    host_workers: ranks on this host, including this one.
    leader: the whole table and plan, on rank 0; None on other ranks.
    """

    fingerprint: Fingerprint
    computing_types: Sequence[str]
    run: str
    total_rows: int
    ranks: int
    has_isolated: bool
    is_done: bool
    has_work: bool
    isolated: Sequence[tuple[int, str]]
    host_workers: int
    leader: LeaderPlan | None


def plan_run(
    world: World,
    journals: RunJournals,
    table: MetaTable | None,
    options: JobOptions,
    captioner_fingerprint: Mapping[str, str],
) -> RankPlan:
    """Make the plan on rank 0 and send each rank its part. Collective: every rank must call it.

    table: the meta table, on rank 0; None on other ranks.

    Raises:
        UsageError: on rank 0: the journals belong to a run with other settings, or the earlier output can't be read.
    """
    host_workers = world.host_workers()
    contents = journals.contents(options.restart)
    leader, shared = None, b""
    if table is not None:
        fingerprint = {**captioner_fingerprint, "meta paths": _digest_of_paths(table)}
        _check_fingerprints(contents.fingerprints, fingerprint, journals.folder)
        earlier = _earlier_output(options)
        leader = _leader_plan(table, earlier, options, contents)
        rows = {PENDING: leader.plan.pending, RETRIES: leader.plan.retries}
        world.offer(RowPool(table.paths, rows, world.world_size))
        types = {found[COMPUTING_TYPE] for found in contents.fingerprints if COMPUTING_TYPE in found}
        shared = json.dumps(
            {
                "fingerprint": fingerprint,
                "computing_types": sorted(types),
                "run": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "total_rows": leader.plan.rows_to_caption,
                "ranks": min(world.world_size, leader.plan.rows_to_caption),
                "has_isolated": bool(leader.plan.isolated),
                "is_done": leader.plan.is_done and earlier is not None and table.is_same_but_for_text(earlier),
            }
        ).encode("ascii")
    (received,) = map(json.loads, world.broadcast([shared]))
    isolated = [(row, leader.table.paths[row]) for row in leader.plan.isolated] if leader else []
    has_work = world.rank < received["ranks"]
    return RankPlan(**received, has_work=has_work, isolated=isolated, host_workers=host_workers, leader=leader)


def _digest_of_paths(table: MetaTable) -> str:
    paths = hashlib.sha256("\n".join(table.paths).encode("utf-8", "surrogatepass"))
    return f"{len(table.paths)} rows {paths.hexdigest()[:16]}"


def _check_fingerprints(found: Sequence[Fingerprint], wanted: Fingerprint, folder: Path) -> None:
    for fingerprint in found:
        if COMPUTING_TYPE not in fingerprint:
            raise UsageError(
                f"the journals in {folder} were written by an earlier version of this program. Finish that run with "
                "that version, or give --restart to discard its captions"
            )
        known = {name: value for name, value in fingerprint.items() if name != COMPUTING_TYPE}
        difference = fingerprint_difference(known, wanted)
        if difference:
            raise UsageError(
                f"the journals in {folder} belong to an interrupted run with other settings: {'; '.join(difference)}. "
                "Give the same arguments to resume that run, or --restart to discard its captions"
            )


def _earlier_output(options: JobOptions) -> MetaTable | None:
    """The table that an earlier run wrote to the output path; None if there is none, or it can't be read.

    Raises:
        UsageError: the table can't be read, and `--skip_if_existing` needs it.
    """
    if not options.output.exists():
        return None
    try:
        return MetaTable.read(options.output)
    except UsageError:
        if options.skip_if_existing:
            raise
        return None  # the file becomes the backup


def _leader_plan(
    table: MetaTable, earlier: MetaTable | None, options: JobOptions, contents: JournalContents
) -> LeaderPlan:
    texts = {row: text for row, text in enumerate(table.texts() or []) if text.strip()}
    earlier_texts = earlier.texts() if earlier is not None else None
    captions = {}
    if earlier is not None and earlier_texts is not None:
        captions = match_occurrences(table.paths, earlier.paths, earlier_texts)
    # Captions of the earlier output take precedence over the table's own texts.
    kept = texts | captions if options.skip_if_existing else {}
    plan = make_plan(len(table.paths), kept, contents.finished, contents.deaths, contents.retried, options.limit)
    if options.skip_if_existing:
        return LeaderPlan(table, plan, 0, 0)
    return LeaderPlan(table, plan, len(captions), len(texts))
