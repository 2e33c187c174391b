"""Which files of descriptions earlier calls have written, so that no other file is lost. On rank 0 only.

Knows nothing about what is in the files.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ...meta.files import backup_of
from ...process.errors import RunError

logger = logging.getLogger(__name__)


class WrittenFiles:
    """The names of the files with the video of each, in a file of JSON lines beside the tables.

    record: the path of that file; it need not exist.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._videos = _read(record)

    def is_of(self, file: Path, video: str) -> bool:
        """Whether a call has written `file` for the video with this path."""
        return self._videos.get(file.name) == video

    def claim(self, file: Path, video: str) -> None:
        """Record that `file` is about to be written for a video. Another file in its place becomes a backup.

        Raises:
            RunError: the other file can't be renamed, or the record can't be written.
        """
        if self.is_of(file, video):
            return
        try:
            if file.is_file():
                backup = backup_of(file)
                while backup.exists():
                    backup = backup_of(backup)
                file.rename(backup)
                logger.warning("%s is not an earlier description of %s: it is kept as %s", file, video, backup.name)
            self.add(file, video)
        except OSError as error:
            raise RunError(f"can't write {file}: {error}; captions are safe") from error

    def add(self, file: Path, video: str) -> None:
        """Record that `file` is a description of a video.

        Raises:
            OSError: the record can't be written.
        """
        if not self.is_of(file, video):
            with self._record.open("a", encoding="utf-8") as lines:
                # A line break first: a call that was killed may have left a part of a line.
                lines.write("\n" + json.dumps({"file": file.name, "video": video}))
            self._videos[file.name] = video


def _read(record: Path) -> dict[str, str]:
    try:
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"can't read {record}: {error}") from error
    videos = {}
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
            videos[str(entry["file"])] = str(entry["video"])
        except (ValueError, KeyError, TypeError):  # a part of a line
            continue
    return videos
