"""Describe videos: divide them, caption all segments, then summarise each video: two runs, one after the other.

Rank 0 divides the videos and writes the descriptions; segments and videos are leased to all ranks.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...long_videos.document import COMPLETE, VideoDescription
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...meta.names import TEXT_COLUMN, outcomes_path
from ...meta.outcomes import read_outcomes
from ...meta.results import CaptionResult, ColumnResult, Failure, RowResult
from ...meta.table import MetaTable
from ...process.errors import EXIT_DONE, EXIT_FAILED
from ...process.watchdog import Watchdog
from ...workers.launch import Launch
from ...workers.world import World
from .. import job
from ..options import JobOptions
from ..rank_work import RankWork
from ..report import versions
from ..summaries.settings import SummarySettings
from .descriptions import About, Descriptions
from .files import Inputs, Outputs
from .live import LiveDescriptions
from .tables import check_settings, make_segments

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescribeWork:
    """One rank's part of describing videos.

    captions, caption_options: the run that captions the segments. summaries, summary_options: the one after it.
    model: its name, for the descriptions.
    batch_size: frames of a segment; 0 if segments are not made of a number of frames.
    workers, timeout: processes that divide videos, and the seconds that each file may take.
    """

    inputs: Inputs
    outputs: Outputs
    rule: EqualParts | Scenes
    captions: RankWork
    caption_options: JobOptions
    summaries: RankWork
    summary_options: JobOptions
    settings: SummarySettings
    model: str
    batch_size: int
    workers: int
    timeout: float

    def run(self, launch: Launch, watchdog: Watchdog) -> int:
        """Describe the videos; returns the exit code. Raises: as `job.run`."""
        world = self.captions.join(launch, watchdog)
        return job.in_world(world, lambda: self.describe(world))

    def describe(self, world: World, on_end: Callable[[Sequence[VideoDescription]], None] | None = None) -> int:
        """Describe the videos without leaving the world; returns the exit code. Raises: as `job.run_rows`.

        on_end: receives the descriptions, on rank 0.
        """
        begin = time.monotonic()
        descriptions = self.begin(begin) if world.is_leader else None
        (rows,) = (count for count in world.gather_json(self._rows(descriptions)) if count is not None)
        exit_code = EXIT_FAILED
        if rows:
            exit_code = self._run(world, descriptions, self.captions, self.caption_options, self._on_caption)
            self._take_captions(descriptions)
        if exit_code == EXIT_DONE:
            world.begin_next_run()
            exit_code = self._run(world, descriptions, self.summaries, self.summary_options, self._on_summary)
            self._take_summaries(descriptions)
        if descriptions is not None:
            self._end(descriptions)
            if on_end is not None:
                on_end(descriptions.all)
        return exit_code

    def begin(self, begin: float) -> Descriptions:
        """Divide the videos, and make what is known about them. begin: on the clock of `time.monotonic`.

        Raises:
            UsageError: the tables in the folder were made with other settings.
        """
        check_settings(self.outputs, self.fingerprint(), self.caption_options.restart)
        segments = make_segments(self.inputs, self.outputs, self.rule, self.workers, self.timeout)
        logger.info("%d videos, %d segments", len(self.inputs.paths), len(segments.rows))
        about = About(
            self.batch_size,
            self.model,
            self.captions.source.asks.texts[0],
            self.settings.summary_question,
            self.settings.title_question,
            versions(),
        )
        descriptions = Descriptions(self.inputs, self.outputs, segments, about, begin)
        descriptions.write_changed()
        return descriptions

    def fingerprint(self) -> dict[str, str]:
        """Everything that the descriptions depend on, except the videos."""
        captions, summaries = self.captions.source.fingerprint(), self.summaries.source.fingerprint()
        return {
            "segments": str(self.rule),
            **{f"captions: {name}": value for name, value in captions.items()},
            **{f"summaries: {name}": value for name, value in summaries.items()},
        }

    @staticmethod
    def _rows(descriptions: Descriptions | None) -> int | None:
        return None if descriptions is None else sum(len(one.segments) for one in descriptions.all)

    def _run(
        self, world: World, descriptions: Descriptions | None, work: RankWork, options: JobOptions, on_result: Any
    ) -> int:
        if descriptions is None:
            return job.run_rows(options, work, world)
        with LiveDescriptions(descriptions, options.output, functools.partial(on_result, descriptions)):
            return job.run_rows(options, work, world)

    @staticmethod
    def _on_caption(descriptions: Descriptions, result: RowResult) -> None:
        one = result.results.get(TEXT_COLUMN)
        if one is not None:
            descriptions.captioned(result.row, one, result.measured)

    def _on_summary(self, descriptions: Descriptions, result: RowResult) -> None:
        descriptions.summarised(self._summary_paths[result.row], result.results)

    @functools.cached_property
    def _summary_paths(self) -> list[str]:
        """The video of each row of the second run."""
        return list(dict.fromkeys(MetaTable.read(self.outputs.segments, ()).paths))

    def _take_captions(self, descriptions: Descriptions | None) -> None:
        """Take the results of all segments from the files of the run: some ranks may be on other hosts."""
        if descriptions is None or not self.outputs.captions.exists():
            return
        texts = MetaTable.read(self.outputs.captions, ()).texts() or []
        for row, records in _by_row(outcomes_path(self.outputs.captions)):
            record = records.get(TEXT_COLUMN, {})
            if row < len(texts):
                result = _result(record, texts[row])
                if result is None:
                    descriptions.kept(row, texts[row])
                else:
                    descriptions.captioned(row, result, record)
        descriptions.write_changed()

    def _take_summaries(self, descriptions: Descriptions | None) -> None:
        if descriptions is None or not self.outputs.summaries.exists():
            return
        table = MetaTable.read(self.outputs.summaries, ())
        columns = self.summaries.source.asks.columns
        texts = dict(zip(columns, table.cells(columns), strict=True))
        for row, records in _by_row(outcomes_path(self.outputs.summaries)):
            if row < len(table.paths):
                results = {name: _result(records.get(name, {}), texts[name][row]) for name in columns}
                kept = {name: CaptionResult(texts[name][row], 0) for name, one in results.items() if one is None}
                made = {name: one for name, one in results.items() if one is not None}
                descriptions.summarised(table.paths[row], {**made, **kept})

    def _end(self, descriptions: Descriptions) -> None:
        for video in descriptions.running:
            descriptions.end(video)
        descriptions.write_changed()
        described = descriptions.all
        complete = sum(one.status == COMPLETE for one in described)
        logger.info("%d of %d videos are described completely; see %s", complete, len(described), self._place)

    @property
    def _place(self) -> Path:
        return self.outputs.file or self.outputs.folder.parent


def _by_row(path: Path) -> Iterator[tuple[int, dict[str, Mapping[str, Any]]]]:
    """The records of an outcomes file by row: for each column one."""
    for row, records in itertools.groupby(read_outcomes(path), key=operator.itemgetter("row")):
        yield row, {record.get("column", TEXT_COLUMN): record for record in records}


def _result(record: Mapping[str, Any], text: str) -> ColumnResult | None:
    """The result that a record of an outcomes file and the cell of the table describe; None for a kept caption."""
    if record.get("outcome") == "captioned":
        return CaptionResult(text, record["tokens"], record["truncated"], record["looping"])
    if record.get("outcome") == "failed":
        return Failure(record["stage"], (record["message"],))
    return None
