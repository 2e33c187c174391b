"""Describe videos: divide them, caption all segments, then summarise each video: two runs, one after the other.

Rank 0 divides the videos and writes the descriptions; segments and videos are leased to all ranks.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
from ..summaries.settings import SUMMARY, TITLE
from .descriptions import About, Descriptions
from .files import Inputs, Outputs
from .live import LiveDescriptions
from .summary_rows import prepare_summaries
from .tables import check_settings, make_segments

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescribeWork:
    """One rank's part of describing videos.

    captions, caption_options: the run that captions the segments. summaries, summary_options: the one after it.
    about: what all descriptions have in common.
    workers, timeout: processes that divide videos, and the seconds that each file may take.
    """

    inputs: Inputs
    outputs: Outputs
    rule: EqualParts | Scenes
    captions: RankWork
    caption_options: JobOptions
    summaries: RankWork
    summary_options: JobOptions
    about: About
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
        descriptions = self.begin(time.monotonic()) if world.is_leader else None
        exit_code = EXIT_FAILED
        if _agreed(world, descriptions is not None and descriptions.has_segments):
            exit_code = self._run(world, descriptions, self.captions, self.caption_options, _on_caption)
            if descriptions is not None and exit_code == EXIT_DONE:
                self._take_captions(descriptions)
            elif descriptions is not None:
                self._drop_other_segments()
        # If this call could caption nothing, there may be captions of an earlier one.
        if _agreed(world, descriptions is not None and descriptions.has_captions):
            videos = self.summaries.read_table(self.summary_options) if world.is_leader else None
            prepare_summaries(world, self.outputs.summaries, videos, self.summary_options.pad_length)
            on_summary = functools.partial(_on_summary, videos.paths if videos is not None else ())
            exit_code = self._run(world, descriptions, self.summaries, self.summary_options, on_summary)
            if descriptions is not None and exit_code == EXIT_DONE:
                self._take_summaries(descriptions)
        if descriptions is not None:
            self._end(descriptions)
            if on_end is not None:
                on_end(descriptions.all)
        return EXIT_DONE if _agreed(world, descriptions is not None and descriptions.has_summaries) else exit_code

    def begin(self, begin: float) -> Descriptions:
        """Divide the videos, and make what is known about them. begin: on the clock of `time.monotonic`.

        Raises:
            UsageError: the tables in the folder were made with other settings.
        """
        check_settings(self.outputs, self.fingerprint(), self.caption_options.restart)
        segments = make_segments(self.inputs, self.outputs, self.rule, self.workers, self.timeout)
        logger.info("%d videos, %d segments", len(self.inputs.paths), len(segments.rows))
        descriptions = Descriptions(self.inputs, self.outputs, segments, self.about, begin)
        self._take_earlier(descriptions)
        descriptions.write_changed()
        return descriptions

    def fingerprint(self) -> dict[str, str]:
        """Everything that the descriptions depend on, except the videos."""
        captions, summaries = self.captions.source.fingerprint(), self.summaries.source.fingerprint()
        return {
            "segments": _rule_text(self.rule),
            **{f"captions: {name}": value for name, value in captions.items()},
            **{f"summaries: {name}": value for name, value in summaries.items()},
        }

    def _run(
        self, world: World, descriptions: Descriptions | None, work: RankWork, options: JobOptions, on_result: Any
    ) -> int:
        """Do one of the two runs; returns its exit code. After it, the other ranks wait for rank 0 without a limit."""
        if descriptions is None:
            exit_code = job.run_rows(options, work, world)
        else:
            with LiveDescriptions(descriptions, options.output, functools.partial(on_result, descriptions)):
                exit_code = job.run_rows(options, work, world)
        world.begin_next_run()
        return exit_code

    def _take_earlier(self, descriptions: Descriptions) -> None:
        """Take the captions and summaries of earlier calls, which this call keeps unless something has changed."""
        if self.outputs.captions.exists():
            table = MetaTable.read(self.outputs.captions, ())
            for key, caption in zip(table.keys, table.texts() or (), strict=True):
                if caption and key in self._segment_rows:
                    descriptions.keep_caption(self._segment_rows[key], caption)
        if self.outputs.summaries.exists():
            table = MetaTable.read(self.outputs.summaries, ())
            for path, summary, title in zip(table.paths, *table.cells((SUMMARY, TITLE)), strict=True):
                descriptions.keep_summary(path, summary, title)

    @functools.cached_property
    def _segment_rows(self) -> dict[Hashable, int]:
        """The rows of the table of segments by path and range."""
        return {key: row for row, key in enumerate(MetaTable.read(self.outputs.segments, ()).keys)}

    def _take_captions(self, descriptions: Descriptions) -> None:
        """Take the results of all segments from the files of the run: some ranks may be on other hosts."""
        texts = MetaTable.read(self.outputs.captions, ()).texts() or []
        for row, records in _by_row(outcomes_path(self.outputs.captions)):
            record = records.get(TEXT_COLUMN, {})
            result = _result(record, texts[row])
            if result is not None:
                descriptions.captioned(row, result, record)

    def _take_summaries(self, descriptions: Descriptions) -> None:
        """Take the summaries and titles of all videos, as `_take_captions`."""
        table = MetaTable.read(self.outputs.summaries, ())
        columns = self.summaries.source.asks.columns
        texts = dict(zip(columns, table.cells(columns), strict=True))
        outcomes = dict(_by_row(outcomes_path(self.outputs.summaries)))
        for row, path in enumerate(table.paths):
            records = outcomes.get(row, {})
            results = {name: _result(records.get(name, {}), texts[name][row]) for name in columns}
            kept = {name: CaptionResult(texts[name][row], 0) for name, one in results.items() if one is None}
            made = {name: one for name, one in results.items() if one is not None}
            descriptions.summarised(path, {**made, **kept})

    def _drop_other_segments(self) -> None:
        """Make the captioned table one of the present segments if the run wrote none: summaries are made of it."""
        output = self.outputs.captions
        if not output.exists():
            return
        present, earlier = MetaTable.read(self.outputs.segments, ()), MetaTable.read(output, ())
        if present.is_same_but_for((TEXT_COLUMN,), earlier):
            return
        texts = dict(zip(earlier.keys, earlier.texts() or (), strict=True))
        outcomes_path(output).unlink(missing_ok=True)  # it is about other rows
        present.write(output, {TEXT_COLUMN: [texts.get(key, "") for key in present.keys]})

    def _end(self, descriptions: Descriptions) -> None:
        for video in descriptions.running:
            descriptions.end(video)
        descriptions.write_changed()
        incomplete = [one for one in descriptions.all if one.status != COMPLETE]
        count = len(descriptions.all)
        logger.info("%d of %d videos are described completely; see %s", count - len(incomplete), count, self._place)
        if incomplete:
            first = incomplete[0]
            level = logging.WARNING if len(incomplete) < count else logging.ERROR
            logger.log(level, "%d videos are incomplete; for example %s: %s", len(incomplete), first.path, _why(first))

    @property
    def _place(self) -> Path:
        return self.outputs.file or self.outputs.folder.parent


def _on_caption(descriptions: Descriptions, result: RowResult) -> None:
    one = result.results.get(TEXT_COLUMN)
    if one is not None:
        descriptions.captioned(result.row, one, result.measured)


def _on_summary(paths: Sequence[str], descriptions: Descriptions, result: RowResult) -> None:
    """paths: the video of each row of the second run."""
    descriptions.summarised(paths[result.row], result.results)


def _agreed(world: World, value: bool) -> bool:
    """The value of rank 0, on every rank."""
    return bool(world.gather_json(value)[0])


def _rule_text(rule: EqualParts | Scenes) -> str:
    if isinstance(rule, EqualParts):
        return f"parts of {rule.length} ms"
    threshold = "default" if rule.threshold is None else f"{rule.threshold:g}"
    longest = f" to {rule.longest} ms" if rule.longest else " or more"
    return f"scenes by {rule.detector} (threshold {threshold}) of {rule.shortest} ms{longest}"


def _why(described: VideoDescription) -> str:
    """Why a description is incomplete."""
    of_segments = (segment.message for segment in described.segments if segment.message)
    return next(iter((*of_segments, *described.messages)), "a caption, the summary or the title is empty")


def _by_row(path: Path) -> Iterator[tuple[int, dict[str, Mapping[str, Any]]]]:
    """The records of an outcomes file by row: for each column one. None if the file is missing: all is kept."""
    if not path.exists():
        return
    for row, records in itertools.groupby(read_outcomes(path), key=operator.itemgetter("row")):
        yield row, {record.get("column", TEXT_COLUMN): record for record in records}


def _result(record: Mapping[str, Any], text: str) -> ColumnResult | None:
    """The result that a record of an outcomes file and the cell of the table describe; None for a kept caption."""
    if record.get("outcome") == "captioned":
        return CaptionResult(text, record["tokens"], record["truncated"], record["looping"])
    if record.get("outcome") == "failed":
        return Failure(record["stage"], (record["message"],))
    return None
