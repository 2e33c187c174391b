"""The files of `describe.py`: what it reads, what it writes for each video, and the tables that it works with."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...clips.media import file_name
from ...clips.time_range import TimeRange
from ...long_videos.cues import SUFFIXES as SUFFIXES_OF_FORMATS
from ...meta.names import SUFFIXES, default_output, suffix_of, summary_output
from ...meta.table import MetaTable
from ...process.errors import UsageError
from .records import read_records

logger = logging.getLogger(__name__)

_TABLES, _RECORDS = "tables", "videos.json"
_UNSAFE = re.compile(r"[\x00-\x1f/\\:*?\"<>|]")
_MAX_STEM = 150
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")
"""What looks like the suffix of a file: a folder may be called `run-1.2`."""


@dataclass(frozen=True)
class Inputs:
    """The videos to describe.

    paths: each once, in order. parts: of each video, the parts to describe; a whole file is `TimeRange(0)`.
    table: the table that lists them; None if they were given by their paths.
    """

    paths: tuple[str, ...]
    parts: tuple[tuple[TimeRange, ...], ...]
    table: Path | None = None

    @functools.cached_property
    def parts_of(self) -> dict[str, tuple[TimeRange, ...]]:
        """The parts of each video, by its path."""
        return dict(zip(self.paths, self.parts, strict=True))


@dataclass(frozen=True)
class Outputs:
    """Where descriptions go.

    folder: of the tables. stems: of each video, the path of its files without their suffix.
    file: the only file, if `--output` names one; None for a folder.
    formats: of the files, some of FORMATS.
    """

    folder: Path
    stems: tuple[Path, ...]
    file: Path | None
    formats: tuple[str, ...]

    def of(self, video: int) -> list[tuple[str, Path]]:
        """The format and the path of each file of a video."""
        if self.file is not None:
            return [(self.formats[0], self.file)]
        stem = self.stems[video]
        return [(name, stem.with_name(stem.name + SUFFIXES_OF_FORMATS[name])) for name in self.formats]

    @property
    def segments(self) -> Path:
        """The table of segments."""
        return self.folder / "segments.csv"

    @property
    def captions(self) -> Path:
        """The captioned table of segments."""
        return default_output(self.segments)

    @property
    def summaries(self) -> Path:
        """The table of summaries and titles."""
        return summary_output(self.captions)

    @property
    def answers(self) -> Path:
        """The answers of a service, unless a flag names another file."""
        return self.folder.with_name("answers.sqlite" if self.file is None else f"{self.file.name}.answers.sqlite")

    @property
    def settings(self) -> Path:
        """What the captions and summaries depend on."""
        return self.folder / "settings.json"

    @property
    def videos(self) -> Path:
        """What is known about each video; see `records`."""
        return self.folder / _RECORDS


def read_inputs(names: Sequence[str], whole_files: bool) -> Inputs:
    """The videos that the arguments name: their paths, or one table.

    Raises:
        UsageError: several tables, or the table can't be read.
    """
    tables = [name for name in names if suffix_of(Path(name))]
    if not tables:
        paths = tuple(dict.fromkeys(names))
        return Inputs(paths, ((TimeRange(0),),) * len(paths))
    if len(names) > 1:
        raise UsageError(
            f"{tables[0]} is a table ({', '.join(SUFFIXES)}), so it must be the only input, not one of {len(names)}"
        )
    table = MetaTable.read(Path(tables[0]), (), whole_files=whole_files)
    if table.ranges:
        logger.info(
            "%d of %d rows of %s are parts of their files; --whole_files describes whole files",
            table.ranges.parts,
            len(table.paths),
            tables[0],
        )
    parts: dict[str, dict[TimeRange, None]] = {}
    for row, path in enumerate(table.paths):
        parts.setdefault(path, {})[table.range_of(row) or TimeRange(0)] = None
    if not parts:
        raise UsageError(f"table {tables[0]} has no rows, so there is nothing to describe")
    return Inputs(tuple(parts), tuple(map(tuple, parts.values())), Path(tables[0]))


def make_outputs(output: Path, formats: Sequence[str] | None, inputs: Inputs) -> Outputs:
    """Where the descriptions go.

    output: a file, if there is one video, or a folder. formats: None for that of the suffix of the file, else JSON.
    inputs: without videos on ranks other than 0, which write no description.

    Raises:
        UsageError: a file for several videos or formats, a wrong suffix, or a folder that does not exist on rank 0.
    """
    by_suffix = {suffix: name for name, suffix in SUFFIXES_OF_FORMATS.items()}
    format_of_file = by_suffix.get(output.suffix.lower())
    if inputs.paths:
        _check_parent(output)
    if format_of_file is None or output.is_dir():
        # In this order: another rank may make the folder meanwhile.
        if (output.exists() or _SUFFIX.fullmatch(output.suffix)) and not output.is_dir():
            raise UsageError(
                f"--output {output} is not a folder, and {output.suffix or 'its name'} is not the suffix of a format; "
                f"name a file that ends in {', '.join(by_suffix)}, or make a folder and name it"
            )
        folder = output / _TABLES
        known = {path: record.stem for path, record in read_records(folder / _RECORDS).items()} if inputs.paths else {}
        names = _stems(inputs.paths, known)
        return Outputs(folder, tuple(output / name for name in names), None, tuple(formats or ("json",)))
    if inputs.table is not None or len(inputs.paths) > 1:
        raise UsageError(f"--output {output} is one file, but there may be several videos; name a folder")
    if os.path.realpath(output) in map(os.path.realpath, inputs.paths):
        raise UsageError(f"--output {output} is the video itself; give another name")
    if formats is not None and tuple(formats) != (format_of_file,):
        raise UsageError(
            f"--output {output} has the suffix of {format_of_file}, not of --to {','.join(formats)}; name a folder"
        )
    return Outputs(output.with_name(f"{output.name}.{_TABLES}"), (), output, (format_of_file,))


def _check_parent(output: Path) -> None:
    if not output.parent.is_dir():
        raise UsageError(f"the folder of --output, {output.parent}, does not exist")


def _stems(paths: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The name of each video without its suffix; a number follows if several have the same, in any case of letters.

    known: the names of videos of earlier calls, by their paths. They stay, and no other video gets them.
    """
    taken = {_TABLES, *(stem.lower() for stem in known.values())}
    numbers: dict[str, int] = {}  # the last one of each name
    stems = []
    for path in paths:
        if path in known:
            stems.append(known[path])
            continue
        name = os.path.splitext(os.path.basename(file_name(path)))[0]
        stem = _UNSAFE.sub("_", name).strip(". ")[:_MAX_STEM] or "video"
        chosen, number = stem, numbers.get(stem.lower(), 1)
        while chosen.lower() in taken:
            number += 1
            chosen = f"{stem}_{number}"
        numbers[stem.lower()] = number
        taken.add(chosen.lower())
        stems.append(chosen)
    return stems
