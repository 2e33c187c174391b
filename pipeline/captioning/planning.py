"""Planning over all ranks: rank 0 reads the meta table and the hosts' journals, and deals out the rows."""

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

from .errors import UsageError
from .meta import journal
from .meta.plan import Plan, fingerprint_difference, make_plan, rows_of_rank
from .meta.table import MetaTable, match_occurrences
from .options import JobOptions
from .workers.world import World

logger = logging.getLogger(__name__)

_ROWS_PER_RECORD = 2000


@dataclass(frozen=True)
class RankPlan:
    """One rank's part of the plan.

    fingerprint: what the captions of this run depend on.
    run: a name for this run, by its start.
    rows: (row, path) pairs to caption in batches.
    retries: (row, path) pairs to caption after those, in smaller batches.
    suspects: (row, path) pairs to caption when all ranks have done their rows, each alone: all on one
        rank, so that a death then is the work of the one row in flight.
    has_suspects: whether any rank has some.
    host_workers: ranks on this host, this one included.
    journal_ranks: ranks that keep their journals in the same folder as this one, this one included.
    total_rows: rows to caption on all ranks together.
    is_done: nothing to caption or to write on any rank, as rank 0 sees it.
    lead: the whole table and plan, on rank 0 only.
    """

    fingerprint: journal.Fingerprint
    run: str
    rows: Sequence[tuple[int, str]]
    retries: Sequence[tuple[int, str]]
    suspects: Sequence[tuple[int, str]]
    has_suspects: bool
    host_workers: int
    journal_ranks: Sequence[int]
    total_rows: int
    is_done: bool
    lead: LeadPlan | None

    @property
    def has_work(self) -> bool:
        """Whether this rank has rows to caption."""
        return bool(self.rows or self.retries or self.suspects)

    def keeps_folder(self, rank: int) -> bool:
        """Whether `rank` answers for the journal folder that it shares with others."""
        return rank == min(self.journal_ranks)


@dataclass(frozen=True)
class LeadPlan:
    """What rank 0 alone knows."""

    table: MetaTable
    plan: Plan


def plan_run(world: World, options: JobOptions, captioner_fingerprint: Mapping[str, str], device: str) -> RankPlan:
    """Agree on who captions what.

    device: what the run computes on, one of DEVICES; it decides the type where `--dtype` does not.

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
        records: Iterator[bytes] = iter(())
        lead = None
    else:
        fingerprint = {**captioner_fingerprint, **_job_fingerprint(table, options, device)}
        _check_fingerprints(report.fingerprints, fingerprint, folder)
        lead = LeadPlan(table, _plan_rows(table, options, report))
        is_done = lead.plan.is_done and _is_written(table, options.output)
        records = _plan_records(lead, fingerprint, is_done, world.world_size)
    return _receive(world, records, journal_ranks, host_workers, lead)


def _job_fingerprint(table: MetaTable, options: JobOptions, device: str) -> dict[str, str]:
    paths = hashlib.sha256("\n".join(table.paths).encode("utf-8", "surrogatepass"))
    return {
        "meta paths": f"{len(table.paths)} rows {paths.hexdigest()[:16]}",
        "dtype": options.dtype or ("float32" if device == "cpu" else f"the {device} device's own"),
    }


def _check_fingerprints(found: Sequence[journal.Fingerprint], wanted: journal.Fingerprint, folder: Path) -> None:
    for fingerprint in found:
        difference = fingerprint_difference(fingerprint, wanted)
        if difference:
            raise UsageError(
                f"an interrupted run left its journals in {folder}, but it was another run: "
                f"{'; '.join(difference)}. Give the same arguments to go on, or --restart to throw them away"
            )


def _is_written(table: MetaTable, output: Path) -> bool:
    return output.exists() and table.is_same_but_for_text(MetaTable.read(output))


def _plan_rows(table: MetaTable, options: JobOptions, report: journal.JournalReport) -> Plan:
    kept = _existing_captions(table, options.output) if options.skip_if_existing else {}
    return make_plan(len(table.paths), kept, report.finished, report.deaths, report.retried, options.limit)


def _existing_captions(table: MetaTable, output: Path) -> dict[int, str]:
    """Captions of the earlier output, and where it has none, of the table's own `text`."""
    captions: dict[int, str] = {}
    for earlier in (table, MetaTable.read(output) if output.exists() else None):
        texts = earlier.texts() if earlier is not None else None
        if earlier is not None and texts is not None:
            captions |= match_occurrences(table.paths, earlier.paths, texts)
    return captions


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


def _plan_records(lead: LeadPlan, fingerprint: journal.Fingerprint, is_done: bool, world_size: int) -> Iterator[bytes]:
    plan, paths = lead.plan, lead.table.paths
    run = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    head = {"run": run, "total_rows": plan.rows_to_caption, "has_suspects": bool(plan.suspects), "is_done": is_done}
    yield _pack({"fingerprint": fingerprint, **head})
    for rank in range(world_size):
        suspects = plan.suspects if rank == 0 else ()
        for key, rows in (
            ("rows", rows_of_rank(plan.pending, rank, world_size)),
            ("retries", rows_of_rank(plan.retries, rank, world_size)),
            ("suspects", suspects),
        ):
            for chunk in _chunks(rows):
                yield _address(rank) + _pack({key: [(row, paths[row]) for row in chunk]})


def _receive(
    world: World, records: Iterator[bytes], journal_ranks: Sequence[int], host_workers: int, lead: LeadPlan | None
) -> RankPlan:
    pairs: dict[str, list[tuple[int, str]]] = {"rows": [], "retries": [], "suspects": []}
    head: dict = {}
    mine = _address(world.rank)
    for data in world.share(records):
        if data.startswith(b"{"):
            head = json.loads(data)
        elif data.startswith(mine):
            for key, found in json.loads(data[len(mine) :]).items():
                pairs[key] += [(row, path) for row, path in found]
    return RankPlan(
        fingerprint=head["fingerprint"],
        run=head["run"],
        **pairs,
        has_suspects=head["has_suspects"],
        host_workers=host_workers,
        journal_ranks=journal_ranks,
        total_rows=head["total_rows"],
        is_done=head["is_done"],
        lead=lead,
    )


def _address(rank: int) -> bytes:
    """Goes before a record that is for one rank alone, so that the others need not parse it."""
    return b"%d:" % rank


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), _ROWS_PER_RECORD):
        yield rows[start : start + _ROWS_PER_RECORD]


def _pack(value: object) -> bytes:
    return json.dumps(value).encode("ascii")
