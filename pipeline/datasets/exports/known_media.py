"""Whether the clips of a captioned table are still images or videos: as the run found, else by their suffix."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from pipeline.captioning.clips.media import IMAGE, VIDEO, medium_of
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.outcomes import read_outcomes
from pipeline.captioning.meta.ranges import range_of_fields

from .rows import Row

logger = logging.getLogger(__name__)


class KnownMedia:
    """Reads the outcomes file beside a table, row by row together with the table."""

    def __init__(self, outcomes: Path) -> None:
        self._recorded = _recorded_media(outcomes)
        self._latest = next(self._recorded, None)

    def of(self, row: Row) -> str:
        """`image` or `video`. Rows must come in ascending order.

        The suffix decides if the outcomes file does not say it: if it is missing or can't be read, if the row has no
        caption of this run, or if its path or range is now a different one.
        """
        while self._latest is not None and self._latest[0] < row.number:
            self._latest = next(self._recorded, None)
        if self._latest is not None and self._latest[:3] == (row.number, row.path, row.range):
            return self._latest[3]
        return medium_of(row.path)


def _recorded_media(outcomes: Path) -> Iterator[tuple[int, str, TimeRange | None, str]]:
    """Row, path, range and medium of each outcome that has a medium, in the order of the file."""
    try:
        for record in read_outcomes(outcomes):
            if isinstance(record["row"], int) and record.get("media") in (IMAGE, VIDEO):
                yield record["row"], record["path"], range_of_fields(record), record["media"]
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read: %s; suffixes tell images from videos", outcomes, error)
