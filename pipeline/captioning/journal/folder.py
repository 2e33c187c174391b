"""The folder of a run's journals: names, records that concern all journals in it, removal."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from .folder_id import ID_FILE
from .lines import FORGET_FAILURES, SESSION, add_records, reading, writing
from .lock import lock
from .reader import JournalContents, contents_of

logger = logging.getLogger(__name__)

_JOURNAL = re.compile(r"rank-\d{5,}\.jsonl")
_OURS = re.compile(rf"({_JOURNAL.pattern}|{ID_FILE})|\.({_JOURNAL.pattern}|{ID_FILE})\.\w+\.tmp")
"""Files in a journal folder that a run creates. The second kind is temporary; it remains if its process died."""


def journal_folder(output: Path) -> Path:
    """The folder of the journals of a run that writes `output`; the same path on every host."""
    return output.with_name(output.name + ".journal")


def journal_path(folder: Path, rank: int) -> Path:
    """The journal of one rank."""
    return folder / f"rank-{rank:05d}.jsonl"


def journals(folder: Path) -> list[Path]:
    """The paths of all journals in a folder; none if the folder does not exist."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if _JOURNAL.fullmatch(name)]


def planned_at(folder: Path) -> float | None:
    """When a run first used the folder, in seconds since the epoch; None if it does not exist."""
    try:
        return (folder / ID_FILE).stat().st_mtime
    except OSError:
        return None


def read_contents(folder: Path) -> JournalContents:
    """Read all journals of `folder`; empty contents if the folder does not exist.

    Raises:
        RunError: a journal can't be read, or a line is damaged.
    """
    return contents_of(journals(folder))


def ask_to_forget_failures(folder: Path, rank: int) -> None:
    """Record in one rank's journal that the clips are not the cause of this run's failures, on any rank and host.

    Does nothing if the rank has no journal.
    """
    path = journal_path(folder, rank)
    if path.exists():
        add_records(path, {"forget_failures": True})


def asks_to_forget_failures(folder: Path) -> bool:
    """Whether one of the journals has such a record in its last session."""
    for path in journals(folder):
        with reading(path), path.open("rb") as lines:
            last = b""
            for line in lines:
                if line.startswith((SESSION, FORGET_FAILURES)):
                    last = line
        if last.startswith(FORGET_FAILURES):
            return True
    return False


def forget_failures(folder: Path) -> None:
    """Record in all journals of a folder that their failures do not count: the next run tries these rows again."""
    for path in journals(folder):
        add_records(path, {"forget_failures": True}, {"session": "forgot failures"})


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, but not the folder, because other ranks may be about to use it.

    Raises:
        RunError: another run is writing to a journal, or a journal can't be removed.
    """
    for path in journals(folder):
        with writing(path), path.open("a", encoding="utf-8") as file:
            lock(file)
            path.unlink(missing_ok=True)


def remove_unused_folder(folder: Path) -> None:
    """Remove the folder if it has no journal."""
    if not journals(folder):
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove the files that runs have created in the folder, then the folder itself unless it contains other files.

    Does nothing if the folder does not exist.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # another rank has removed it
        return
    kept = []
    for name in names:
        if _OURS.fullmatch(name):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                kept.append(f"{name} ({error.strerror})")
        elif not name.startswith(".nfs"):  # on NFS: a removed file that a process still has open
            kept.append(name)
    if kept:
        reason = "it contains files that no run has created or that can't be removed"
        logger.warning("the journal folder %s is not removed, because %s: %s", folder, reason, ", ".join(kept))
        return
    with contextlib.suppress(OSError):  # another rank has removed it, or a file is still open
        folder.rmdir()
