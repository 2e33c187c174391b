"""What an interrupted run of summaries has made, if the captions of some videos have changed since. Collective.

Journals know rows only by their numbers in the table of videos that the run began with; this table is kept in a file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from ...journal.folder import journal_folder, journals
from ...journal.run_journals import RunJournals
from ...meta.made_table import MadeTable
from ...meta.names import PATH_COLUMN, outcomes_path
from ...meta.results import CaptionResult, RowResult
from ...meta.table import MetaTable
from ...workers.world import World
from ..summaries.settings import SUMMARY, TITLE
from ..summaries.videos import DIGEST, MISSING, SEGMENTS

logger = logging.getLogger(__name__)

_ABOUT = (SEGMENTS, MISSING, DIGEST)
"""What the table of summaries says about a video besides its texts."""
_TEXTS = (SUMMARY, TITLE)


def prepare_summaries(world: World, output: Path, videos: MetaTable | None, pad_length: int) -> None:
    """Make the journals of the run of summaries fit to the present videos. Collective.

    If they are of other videos or captions, their texts go into the table of summaries with the digest of the captions
    that they were made of: the next run keeps those that are still right, and makes the others again.

    output: of the run. videos: the present table of videos, on rank 0; None on other ranks. pad_length: of the run.

    Raises:
        RunError: a journal can't be read, or a file can't be written.
    """
    begun = output.with_name("summary_rows.csv")
    before = MetaTable.read(begun, ()) if videos is not None and begun.exists() else None
    is_other = videos is not None and _is_other(before, videos, output)
    if world.gather_json(is_other)[0]:
        with RunJournals(world, output) as run:
            results = list(run.results(pad_length))
            if before is not None and any(result.has_caption for result in results):
                _add(output, before, results)
            world.barrier()  # the texts are safe
            run.remove()
            world.barrier()  # no rank may create the folder of the next run before
    if videos is not None and (before is None or is_other):
        videos.write(begun, {})


def _is_other(before: MetaTable | None, videos: MetaTable, output: Path) -> bool:
    if before is None:
        return bool(journals(journal_folder(output)))
    return not videos.is_same_but_for((), before)


def _add(output: Path, before: MetaTable, results: Iterable[RowResult]) -> None:
    """Add results of an interrupted run to the table of summaries. before: the table of videos of that run."""
    rows = {path: cells for path, *cells in zip(before.paths, *before.cells(_ABOUT), strict=True)}
    made: dict[str, dict[str, str]] = {}
    for result in results:
        texts = {name: one.caption for name, one in result.results.items() if isinstance(one, CaptionResult)}
        made.setdefault(before.paths[result.row], {}).update(texts)
    table: dict[str, list[str]] = {}
    if output.exists():
        earlier = MetaTable.read(output, ())
        table = {path: cells for path, *cells in zip(earlier.paths, *earlier.cells((*_ABOUT, *_TEXTS)), strict=True)}
    digest = _ABOUT.index(DIGEST)
    for path, found in made.items():
        if found:
            about = rows[path]
            has_same = path in table and table[path][digest] == about[digest]
            kept = dict(zip(_TEXTS, table[path][len(_ABOUT) :], strict=True)) if has_same else {}
            table[path] = [*about, *({**dict.fromkeys(_TEXTS, ""), **kept, **found}[name] for name in _TEXTS)]
    columns = {name: [cells[number] for cells in table.values()] for number, name in enumerate((*_ABOUT, *_TEXTS))}
    outcomes_path(output).unlink(missing_ok=True)  # it is about other rows
    MadeTable({PATH_COLUMN: list(table), **columns}, {}).write(output, {})
    count = sum(map(bool, made.values()))
    logger.info("captions have changed since the interrupted run of summaries; it had results of %d videos", count)
