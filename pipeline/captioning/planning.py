"""Planning over all ranks: rank 0 reads the meta table and the hosts' journals, and offers the rows to all ranks."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import UsageError
from .meta import journal
from .meta.plan import Plan, fingerprint_difference, make_plan
from .meta.table import MetaTable, match_occurrences
from .options import JobOptions
from .workers.leases import PENDING, RETRIES, RowPool
from .workers.world import World

logger = logging.getLogger(__name__)

_ROWS_PER_RECORD = 2000
COMPUTING_TYPE = "computing type"
"""The entry of a journal's fingerprint that is known only when the framework is there."""


@dataclass(frozen=True)
class RankPlan:
    """What a rank knows of the plan. The rows to caption it leases from rank 0, block by block.

    fingerprint: what the captions of this run depend on, the computing type apart.
    computing_types: those of the captions in the journals.
    run: a name for this run, by its start.
    suspects: (row, path) pairs to caption when all ranks have done their rows, each alone: all on rank 0,
        so that a death then is the work of the one row in flight.
    has_suspects: whether rank 0 has some.
    has_work: whether this rank may have rows to caption.
    host_workers: ranks on this host, this one included.
    journal_ranks: ranks that keep their journals in the same folder as this one, this one included.
    total_rows: rows to caption on all ranks together; ranks: how many ranks may have some.
    is_done: nothing to caption or to write on any rank, as rank 0 sees it.
    lead: the whole table and plan, on rank 0 only.
    """

    fingerprint: journal.Fingerprint
    computing_types: Sequence[str]
    run: str
    suspects: Sequence[tuple[int, str]]
    has_suspects: bool
    has_work: bool
    host_workers: int
    journal_ranks: Sequence[int]
    total_rows: int
    ranks: int
    is_done: bool
    lead: LeadPlan | None

    def keeps_folder(self, rank: int) -> bool:
        """Whether `rank` answers for the journal folder that it shares with others."""
        return rank == min(self.journal_ranks)


@dataclass(frozen=True)
class LeadPlan:
    """What rank 0 alone knows.

    replaced_captions: captions in the earlier output that this run does not keep.
    replaced_texts: cells of the table's own `text` that the output does not keep.
    """

    table: MetaTable
    plan: Plan
    replaced_captions: int
    replaced_texts: int


def plan_run(world: World, options: JobOptions, captioner_fingerprint: Mapping[str, str]) -> RankPlan:
    """Agree on what is to be captioned.

    Raises:
        UsageError: on rank 0: an unreadable meta table, or journals of another run.
    """
    # Before anything waits: a table that can't be read must not cost the others a timeout.
    table = MetaTable.read(options.meta_path) if world.leads else None
    folder = journal.journal_folder(options.output)
    places = world.gather_json([journal.folder_id(folder), socket.gethostname()])
    own_id, own_host = places[world.rank]
    journal_ranks = [rank for rank, (folder_id, _) in enumerate(places) if folder_id == own_id]
    host_workers = sum(host == own_host for _, host in places)
    report = _gather_reports(world, folder, options.restart, is_reporter=world.rank == min(journal_ranks))
    if table is None:
        head, lead = b"", None
    else:
        fingerprint = {**captioner_fingerprint, "meta paths": _digest_of_paths(table)}
        _check_fingerprints(report.fingerprints, fingerprint, folder)
        lead = _lead(table, options, report)
        rows = {PENDING: lead.plan.pending, RETRIES: lead.plan.retries}
        world.offer(RowPool(table.paths, rows, world.world_size))
        is_done = lead.plan.is_done and _is_written(table, options.output)
        head = _head(lead, fingerprint, report, is_done, world.world_size)
    (received,) = world.share([head])
    return _rank_plan(world.rank, json.loads(received), journal_ranks, host_workers, lead)


def _digest_of_paths(table: MetaTable) -> str:
    paths = hashlib.sha256("\n".join(table.paths).encode("utf-8", "surrogatepass"))
    return f"{len(table.paths)} rows {paths.hexdigest()[:16]}"


def _check_fingerprints(found: Sequence[journal.Fingerprint], wanted: journal.Fingerprint, folder: Path) -> None:
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
                f"{'; '.join(difference)}. Give the same arguments to go on, or --restart to throw them away"
            )


def _is_written(table: MetaTable, output: Path) -> bool:
    return output.exists() and table.is_same_but_for_text(MetaTable.read(output))


def _lead(table: MetaTable, options: JobOptions, report: journal.JournalReport) -> LeadPlan:
    texts = {row: text for row, text in enumerate(table.texts() or []) if text.strip()}
    captions = _earlier_captions(table, options)
    # Captions of the earlier output go before the table's own texts.
    kept = texts | captions if options.skip_if_existing else {}
    plan = make_plan(len(table.paths), kept, report.finished, report.deaths, report.retried, options.limit)
    if options.skip_if_existing:
        return LeadPlan(table, plan, 0, 0)
    return LeadPlan(table, plan, len(captions), len(texts))


def _earlier_captions(table: MetaTable, options: JobOptions) -> dict[int, str]:
    if not options.output.exists():
        return {}
    try:
        earlier = MetaTable.read(options.output)
        texts = earlier.texts()
        return {} if texts is None else match_occurrences(table.paths, earlier.paths, texts)
    except UsageError:
        if options.skip_if_existing:
            raise
        return {}  # whatever it is, it becomes the backup


def _gather_reports(world: World, folder: Path, restart: bool, is_reporter: bool) -> journal.JournalReport:
    """What the journals on all hosts say, on rank 0; one rank reports for each folder. Nothing with `restart`:
    the journals are removed later, when nothing can be a usage error any more."""
    reads = is_reporter and not restart
    # A run that gave up for another cause than its clips may have noted so on one rank only.
    if any(world.gather_json(reads and journal.asks_to_forget_failures(folder))) and reads:
        journal.forget_failures(folder)
    own = journal.read_report(folder) if reads else journal.JournalReport()
    report = journal.JournalReport()
    for record in map(json.loads, world.gather(_report_records(own), is_wanted=world.leads)):
        report.fingerprints += [f for f in record["fingerprints"] if f not in report.fingerprints]
        report.finished.update(record["finished"])
        report.deaths.update(Counter({int(row): count for row, count in record["deaths"].items()}))
        report.retried.update(record["retried"])
    return report


def _report_records(report: journal.JournalReport) -> Iterator[bytes]:
    yield _pack(
        {
            "fingerprints": report.fingerprints,
            "finished": [],
            "deaths": report.deaths,
            "retried": sorted(report.retried),
        }
    )
    for rows in _chunks(sorted(report.finished)):
        yield _pack({"fingerprints": [], "finished": rows, "deaths": {}, "retried": []})


def _head(
    lead: LeadPlan, fingerprint: journal.Fingerprint, report: journal.JournalReport, is_done: bool, world_size: int
) -> bytes:
    return _pack(
        {
            "fingerprint": fingerprint,
            "computing_types": sorted(
                {found[COMPUTING_TYPE] for found in report.fingerprints if COMPUTING_TYPE in found}
            ),
            "run": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "total_rows": lead.plan.rows_to_caption,
            "ranks": min(world_size, lead.plan.rows_to_caption),
            "has_suspects": bool(lead.plan.suspects),
            "is_done": is_done,
        }
    )


def _rank_plan(
    rank: int, head: Mapping[str, Any], journal_ranks: Sequence[int], host_workers: int, lead: LeadPlan | None
) -> RankPlan:
    suspects = [(row, lead.table.paths[row]) for row in lead.plan.suspects] if lead else []
    has_work = rank < head["ranks"]
    return RankPlan(
        **head, suspects=suspects, has_work=has_work, host_workers=host_workers, journal_ranks=journal_ranks, lead=lead
    )


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), _ROWS_PER_RECORD):
        yield rows[start : start + _ROWS_PER_RECORD]


def _pack(value: object) -> bytes:
    return json.dumps(value).encode("ascii")
