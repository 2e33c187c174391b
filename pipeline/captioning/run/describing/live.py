"""Brings the files of descriptions up to date while segments are captioned and videos summarised. On rank 0 only.

Reads the journals of this host. Results of ranks on hosts without a shared file system are in the files at the end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ...journal.folder import journal_folder, journals
from ...meta.results import RowResult
from ...monitor.journal_tail import JournalTail
from ...process.errors import RunError
from .descriptions import Descriptions

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 5.0
OnResult = Callable[[RowResult], None]


class LiveDescriptions:
    """Follows the journals of a run, and writes the descriptions that change. A context manager.

    At the end, the results of all journals are recorded; they are written only if an error ends the run.

    output: of the run. on_result: records a result in the descriptions. seconds: between two times of writing.
    """

    def __init__(
        self, descriptions: Descriptions, output: Path, on_result: OnResult, seconds: float = SECONDS_BETWEEN_WRITES
    ) -> None:
        self._descriptions, self._folder, self._on_result = descriptions, journal_folder(output), on_result
        self._seconds = seconds
        self._tails: dict[Path, JournalTail] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="descriptions", daemon=True)

    def __enter__(self) -> LiveDescriptions:
        self._thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._read()
        if error is not None:  # else the caller knows more soon, and writes then
            self._write()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._read()
            self._write()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the run has ended, and its journals are being removed
            for path in journals(self._folder):
                self._tails.setdefault(path, JournalTail(path, self._on_result))
        for tail in self._tails.values():
            with contextlib.suppress(OSError):
                tail.read_new_lines()

    def _write(self) -> None:
        try:
            self._descriptions.write_changed()
        except RunError as error:  # the captions are in the journals; the end of the run writes again
            logger.warning("the descriptions can't be written: %s", error)
