"""The folder of a run's journals: its name and files, notes that concern all journals, removal."""

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
"""Files in a journal folder that are made here; the second kind was being written when its process died."""


def journal_folder(output: Path) -> Path:
    """Where the journals of a run that writes `output` are kept on every host."""
    return output.with_name(output.name + ".journal")


def journal_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.jsonl"


def journals(folder: Path) -> list[Path]:
    """The journals of all ranks in a folder; none if it is absent, or is being removed."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if _JOURNAL.fullmatch(name)]


def planned_at(folder: Path) -> float | None:
    """When a run first used the folder, in seconds since the epoch; None if it is not there."""
    try:
        return (folder / ID_FILE).stat().st_mtime
    except OSError:
        return None


def read_contents(folder: Path) -> JournalContents:
    """Read all journals of `folder`; an absent folder reports nothing.

    Raises:
        RunError: a journal can't be read, or a line is damaged.
    """
    return contents_of(journals(folder))


def ask_to_forget_failures(folder: Path, rank: int) -> None:
    """Note that the failures of this run, on whatever rank and host, had another cause than the clips."""
    path = journal_path(folder, rank)
    if path.exists():
        add_records(path, {"forget_failures": True})


def asks_to_forget_failures(folder: Path) -> bool:
    """Whether one of the journals ends with such a note."""
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
    """Let all failed rows of a folder's journals be tried again."""
    for path in journals(folder):
        add_records(path, {"forget_failures": True}, {"session": "forgot failures"})


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, but not the folder: other ranks may be about to use it.

    Raises:
        RunError: another run is writing to one, or it can't be removed.
    """
    for path in journals(folder):
        with writing(path), path.open("a", encoding="utf-8") as file:
            lock(file)
            path.unlink(missing_ok=True)


def remove_unused_folder(folder: Path) -> None:
    """Remove the folder if no run has written a journal there."""
    if not journals(folder):
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove what runs have made in the folder, if it is there, and the folder unless it holds other files."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # another rank was first
        return
    kept = []
    for name in names:
        if _OURS.fullmatch(name):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                kept.append(f"{name} ({error.strerror})")
        elif not name.startswith(".nfs"):  # a file that is still open somewhere, on a network file system
            kept.append(name)
    if kept:
        why = "holds files that no run has made or that can't be removed"
        logger.warning("the journal folder %s stays, because it %s: %s", folder, why, ", ".join(kept))
        return
    with contextlib.suppress(OSError):  # another rank was first, or a file is still open
        folder.rmdir()
