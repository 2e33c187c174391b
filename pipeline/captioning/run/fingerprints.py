"""What the captions of a run depend on, as text: the entries of the table; comparison with other ranks and journals.

The entries of the captioner are made by its source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..journal.reader import Fingerprint
from ..meta.asks import Asks
from ..meta.names import TEXT_COLUMN, column_list
from ..meta.table import MetaTable
from ..process.errors import UsageError
from ..workers.world import World
from .plan import fingerprint_difference

COMPUTING_TYPE = "computing type"
"""Name of the entry of a journal's fingerprint whose value is known only after the framework is imported."""
_SHOWN_RANKS = 8
"""Ranks that a message shows."""


def check_same_settings(world: World, captioner_fingerprint: Mapping[str, str]) -> None:
    """Check that all ranks ask and compute the same: hosts may have different files. Collective.

    Raises:
        UsageError: on all ranks: names the ranks that differ from rank 0, and in what.
    """
    digests = {name: _digest([value]) for name, value in captioner_fingerprint.items()}
    first, *others = world.gather_json(digests)
    ranks = [rank for rank, other in enumerate(others, 1) if other != first]
    if not ranks:
        return
    names = sorted({name for rank in ranks for name, _ in first.items() ^ others[rank - 1].items()})
    shown = ", ".join(map(str, ranks[:_SHOWN_RANKS])) + (", …" if len(ranks) > _SHOWN_RANKS else "")
    raise UsageError(
        f"{len(ranks)} ranks differ from rank 0 in what captions depend on (ranks {shown}: "
        f"{', '.join(names)}); give every host the same command, checkpoint and files of questions"
    )


def table_fingerprint(table: MetaTable, asks: Asks, cells: Sequence[Sequence[str]]) -> dict[str, str]:
    """What the captions depend on in the table, and the columns that the journals contain."""
    digest = _digest(["\n".join(table.paths)])
    entries = {"meta paths": f"{len(table.paths)} rows {digest}"}
    if table.ranges:
        digest = _digest(f"{row} {part.to_json()}\n" for row, part in enumerate(table.ranges) if part is not None)
        entries["ranges"] = f"{table.ranges.parts} rows {digest}"
    if asks.columns != (TEXT_COLUMN,):
        entries["columns"] = json.dumps(sorted(asks.columns), ensure_ascii=False)
    if cells:
        named = sorted(zip(asks.cell_columns, cells, strict=True))
        digest = _digest("\0".join([name, *column, ""]) for name, column in named)
        entries["question cells"] = f"{column_list(name for name, _ in named)} {digest}"
        # `{{a}}` in a question is the text `{a}`, which in another question stands for a cell.
        entries["questions with cells"] = column_list(sorted(ask.column for ask in asks.asks if ask.question.columns))
    return entries


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def is_other_run(found: Sequence[Fingerprint], wanted: Fingerprint) -> bool:
    """Whether one of the fingerprints of journals is of a run with other settings. As for `check_journals`."""
    return any({**fingerprint, COMPUTING_TYPE: ""} != {**wanted, COMPUTING_TYPE: ""} for fingerprint in found)


def check_journals(found: Sequence[Fingerprint], wanted: Fingerprint, folder: Path) -> None:
    """Check that the journals in a folder belong to a run with the same settings.

    found: the fingerprints of the journals. wanted: that of this run, without the computing type.

    Raises:
        UsageError: names what differs.
    """
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
