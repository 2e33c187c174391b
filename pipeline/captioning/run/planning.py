"""Planning: rank 0 sorts the rows of the meta table into a plan and offers them to all ranks."""

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
"""The entry of a journal's fingerprint that is known only after the framework is imported."""


@dataclass(frozen=True)
class LeaderPlan:
    """What rank 0 alone knows.

    replaced_captions: captions in the earlier output that this run does not keep.
    replaced_texts: cells of the table's own `text` that the output does not keep.
    """

    table: MetaTable
    plan: Plan
    replaced_captions: int
    replaced_texts: int


@dataclass(frozen=True)
class RankPlan:
    """What one rank knows of the plan. It leases the rows to caption from rank 0, block by block.

    fingerprint: what the captions of this run depend on, without the computing type.
    computing_types: those of the captions in the journals.
    run: the name of this run, which is the time of its start.
    total_rows: rows to caption on all ranks together; ranks: how many ranks may have some.
    has_isolated: whether rank 0 has isolated rows.
    is_done: there is nothing to caption and nothing to write on any rank.
    has_work: whether this rank may have rows to caption.
    isolated: (row, path) pairs to caption after all other rows, each alone. All are on rank 0, so that if a worker
        dies then, the one row in flight is the cause.
    host_workers: ranks on this host, this one included.
    leader: the whole table and plan, on rank 0 only.
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
    """Agree on what is to be captioned. Collective: every rank must call it.

    table: the meta table, on rank 0; None on the others.

    Raises:
        UsageError: on rank 0: the journals are those of another run, or the earlier output can't be read.
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
                f"an interrupted run left its journals in {folder}, but it was another run: "
                f"{'; '.join(difference)}. Give the same arguments to resume it, or --restart to discard its captions"
            )


def _earlier_output(options: JobOptions) -> MetaTable | None:
    """The table that an earlier run wrote to the output; None without one.

    Raises:
        UsageError: it can't be read, and `--skip_if_existing` needs it.
    """
    if not options.output.exists():
        return None
    try:
        return MetaTable.read(options.output)
    except UsageError:
        if options.skip_if_existing:
            raise
        return None  # whatever it is, it becomes the backup


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
