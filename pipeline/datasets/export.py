"""Exports the captions of a table for trainers and players.

    python -m pipeline.datasets.export meta_caption.csv --to txt
    python -m pipeline.datasets.export meta_caption.csv --to jsonl --output captions.jsonl
    python -m pipeline.datasets.export meta_caption.csv --to webdataset --output shards
    python -m pipeline.datasets.export meta_caption.csv --to sharegpt --output conversations.json
    python -m pipeline.datasets.export segments_caption.csv --to vtt --output subtitles

Rows without a caption are left out. docs/export.md describes the formats.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.captioning.long_videos.cues import SUFFIXES
from pipeline.captioning.meta.marks import outcome_columns
from pipeline.captioning.meta.names import MAX_NAME_BYTES, outcomes_path, stem_of
from pipeline.captioning.monitor.gallery.outputs import read_report
from pipeline.captioning.process.arguments import CommandParser, positive_int
from pipeline.captioning.process.errors import UsageError, exit_code_of

from .exports.conversations import check_questions, write_conversations
from .exports.failures import FailedRows
from .exports.json_lines import write_json_lines
from .exports.known_media import KnownMedia
from .exports.questions import run_question
from .exports.rows import CaptionedTable
from .exports.shards import ShardSize, check_shards, write_shards
from .exports.sidecars import SidecarNames, check_sidecars, write_sidecars
from .exports.timed import check_timed, write_timed

_SMALL_FILES = ("txt", "vtt", "srt", "chapters")
_FORMATS_OF_FLAG = {
    "root": _SMALL_FILES, "keep_suffix": _SMALL_FILES, "columns": ("jsonl",), "shard_size": ("webdataset",),
    "shard_bytes": ("webdataset",), "question": ("sharegpt",), "question_column": ("sharegpt",),
    "whole_files": ("txt", "jsonl", "webdataset", "sharegpt"),
}  # fmt: skip
_SHARD_SIZE, _SHARD_BYTES = 1000, 10**9
_PART_OF_NAME = re.compile(r"[^\W_][^/\s]*")
_MAX_PART_BYTES = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _make_parser()
    return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))


def _make_parser() -> CommandParser:
    parser = CommandParser(
        prog="export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", type=Path, help="table with captions: .csv, .csv.gz or .parquet")
    parser.add_argument("--to", choices=_EXPORTS, required=True, help="format of the export")
    parser.add_argument(
        "--output", type=Path,
        help="file (jsonl, sharegpt) or folder (all others) to write; txt, vtt, srt and chapters without it: beside "
        "each clip",
    )  # fmt: skip
    parser.add_argument(
        "--column", action="append", metavar="NAME",
        help="column of captions; may be repeated (default: the columns that the run wrote, else text)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace existing files (jsonl, sharegpt: the old file is kept as .bak; webdataset: all shards of the "
        "folder are removed)",
    )  # fmt: skip
    parser.add_argument(
        "--whole_files", action="store_true",
        help="txt, jsonl, webdataset, sharegpt: the columns 'start' and 'end' do not say which part of its file a row "
        "is (default: as the run decided, by the report beside the table; without a report, they do)",
    )  # fmt: skip
    parser.add_argument(
        "--keep_suffix", action="store_true", help="txt, vtt, srt, chapters: write a.mp4.txt instead of a.txt"
    )
    parser.add_argument(
        "--root", help="txt, vtt, srt and chapters with --output: keep the folders of the clips below this folder or "
        "URL (default: names only)",
    )  # fmt: skip
    parser.add_argument("--columns", metavar="NAME,NAME", help="jsonl: columns of the table to write (default: all)")
    parser.add_argument(
        "--shard_size", type=positive_int, metavar="N", help=f"webdataset: clips of a shard (default: {_SHARD_SIZE})"
    )
    parser.add_argument(
        "--shard_bytes", type=positive_int, metavar="N",
        help=f"webdataset: bytes after which a shard is closed (default: {_SHARD_BYTES})",
    )  # fmt: skip
    parser.add_argument(
        "--question", action="append", metavar="TEXT",
        help="sharegpt: question of the user; one for all columns, or one for each --column, in the same order "
        f"(default: that of the run, by the report beside the table; without a report, for text: '{DEFAULT_QUESTION}')",
    )  # fmt: skip
    parser.add_argument(
        "--question_column", metavar="NAME",
        help="sharegpt: column with the question of each row; where it is empty, --question is used",
    )  # fmt: skip
    return parser


def _run(flags: argparse.Namespace) -> None:
    for name, owners in _FORMATS_OF_FLAG.items():
        if getattr(flags, name) not in (None, False) and flags.to not in owners:
            raise UsageError(f"--{name} is a flag of --to {', '.join(owners)}, not of --to {flags.to}")
    columns = flags.column or []
    if len(set(columns)) < len(columns):
        raise UsageError(f"--column {' --column '.join(columns)}: name each column once")
    report = read_report(flags.table)
    whole_files = flags.whole_files or bool(report and not report.get("ranges"))
    table = CaptionedTable(flags.table, columns, outcome_columns(outcomes_path(flags.table)), whole_files)
    _EXPORTS[flags.to](table, flags)


def _export_txt(table: CaptionedTable, flags: argparse.Namespace) -> None:
    names = _file_names(table, flags, ".txt")
    check_sidecars(table, names, flags.overwrite)
    with FailedRows(_failures_path(table, None)) as failed:
        written = write_sidecars(table, names, flags.overwrite, failed)
    _print_result(_files(written, flags), table, failed)


def _export_timed(table: CaptionedTable, flags: argparse.Namespace) -> None:
    names = _file_names(table, flags, SUFFIXES[flags.to])
    counts = check_timed(table, names, flags.overwrite)
    with FailedRows(_failures_path(table, None)) as failed:
        written = write_timed(table, names, counts, flags.to, failed)
    _print_result(_files(written, flags), table, failed)


def _file_names(table: CaptionedTable, flags: argparse.Namespace, suffix: str) -> SidecarNames:
    _check_parts_of_names(table.captions)
    if flags.root is not None and flags.output is None:
        raise UsageError("--root needs --output: without it, captions are written beside the clips")
    if flags.output is not None:
        _check_folder(flags.output)
    return SidecarNames(flags.output, flags.root, flags.keep_suffix, table.captions, suffix)


def _files(count: int, flags: argparse.Namespace) -> str:
    return f"{count:,} files {'beside the clips' if flags.output is None else f'in {flags.output}'}"


def _export_jsonl(table: CaptionedTable, flags: argparse.Namespace) -> None:
    columns = table.columns if flags.columns is None else flags.columns.split(",")
    table.check_columns(columns, " (--columns)")
    output = _output_file(table, flags)
    written = write_json_lines(table, columns, output)
    _print_result(f"{output}: {written:,} rows", table, None)


def _export_sharegpt(table: CaptionedTable, flags: argparse.Namespace) -> None:
    if flags.question_column is not None:
        table.check_columns([flags.question_column], " (--question_column)")
    questions = _questions(table, flags)
    output = _output_file(table, flags)
    media = KnownMedia(outcomes_path(table.path))
    with FailedRows(_failures_path(table, output)) as failed:
        written = write_conversations(table, questions, flags.question_column, media, output, failed)
    _print_result(f"{output}: {written:,} rows", table, failed)


def _questions(table: CaptionedTable, flags: argparse.Namespace) -> list[str]:
    """The question of each column of captions."""
    questions: list[str] = flags.question or []
    if not questions:
        report = read_report(table.path)
        return [run_question(report, column, flags.question_column) for column in table.captions]
    if len(questions) == 1:
        questions *= len(table.captions)
    if len(questions) != len(table.captions):
        raise UsageError(
            f"{len(questions)} times --question for {len(table.captions)} columns of captions; give one for each "
            "--column, or one for all"
        )
    check_questions(questions)
    return questions


def _export_webdataset(table: CaptionedTable, flags: argparse.Namespace) -> None:
    _check_parts_of_names(table.captions)
    folder = _required_output(flags)
    _check_folder(folder)
    check_shards(folder, flags.overwrite)
    folder.mkdir(exist_ok=True)
    size = ShardSize(flags.shard_size or _SHARD_SIZE, flags.shard_bytes or _SHARD_BYTES)
    with FailedRows(_failures_path(table, folder)) as failed:
        clips, shards = write_shards(table, folder, size, failed)
    _print_result(f"{folder}: {clips:,} clips in {shards:,} shards", table, failed)


_EXPORTS = {
    "txt": _export_txt, "jsonl": _export_jsonl, "webdataset": _export_webdataset, "sharegpt": _export_sharegpt,
    "vtt": _export_timed, "srt": _export_timed, "chapters": _export_timed,
}  # fmt: skip


def _print_result(what: str, table: CaptionedTable, failed: FailedRows | None) -> None:
    text = f"wrote {what}; {table.without_caption:,} rows without a caption"
    if failed is not None and failed.summary:
        text += f"; {failed.summary}"
    print(text)


def _required_output(flags: argparse.Namespace) -> Path:
    if flags.output is None:
        raise UsageError(f"--to {flags.to} needs --output")
    output: Path = flags.output
    return output


def _output_file(table: CaptionedTable, flags: argparse.Namespace) -> Path:
    """The file of `--output`, after checks."""
    output = _required_output(flags)
    try:
        if len(output.name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
            raise UsageError(f"--output {output}: the name is longer than {MAX_NAME_BYTES} bytes; give a shorter one")
        if not output.parent.is_dir():
            raise UsageError(f"the folder of --output, {output.parent}, does not exist")
        if not output.exists():
            return output
        if not output.is_file():
            raise UsageError(f"--output {output} is not a regular file; give another name")
        if output.samefile(table.path):
            raise UsageError(f"--output {output} is the table; give another name")
    except OSError as error:
        raise UsageError(f"--output {output} can't be used: {error.strerror}; give another name") from error
    if not flags.overwrite:
        raise UsageError(f"--output {output} exists already; give another name, or allow it with --overwrite")
    return output


def _check_folder(folder: Path) -> None:
    """Check that `--output` is a folder, or can be made one."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is not a folder; give another name")
    if not folder.parent.is_dir():
        raise UsageError(f"the folder of --output, {folder.parent}, does not exist")


def _check_parts_of_names(columns: Sequence[str]) -> None:
    """Check that the names of several caption columns can be parts of file names: a.text_short.txt."""
    if len(columns) == 1:
        return
    for name in columns:
        if not _PART_OF_NAME.fullmatch(name) or len(name.encode()) > _MAX_PART_BYTES:
            raise UsageError(
                f"column '{name}' can't be part of a file name: it must begin with a letter or digit, have no white "
                f"space and no '/', and at most {_MAX_PART_BYTES} bytes; rename it"
            )
    if len({name.lower() for name in columns}) < len(columns):
        raise UsageError(f"columns {', '.join(columns)} differ in capital letters only; rename one")


def _failures_path(table: CaptionedTable, output: Path | None) -> Path:
    """The file of failed rows: beside the output, or beside the table where each clip has its own output."""
    beside = Path(os.path.abspath(table.path.with_name(stem_of(table.path)) if output is None else output))
    return beside.parent / f"{beside.name}_export_failures.csv"


if __name__ == "__main__":
    sys.exit(main())
