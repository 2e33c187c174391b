"""The table of all operations. The parser, the help and `docs/datautil.md` are generated from it.

To add an operation, add a row here, and a function to the module for that kind of operation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pipeline.captioning.meta.names import RANGE_COLUMNS
from pipeline.captioning.process.arguments import number, positive_int

from . import captions, info, paths, rows, timestamps
from .operation import Operation


def _sidecar_kind(text: str) -> str:
    if text not in ("json", "txt"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither json nor txt")
    return text


def _filter(
    name: str, column: str, which: str, example: str, make_filter: Callable[[str], rows.RowFilter]
) -> Operation:
    """An operation that filters rows by the number in a column."""
    return Operation(name, (column,), make_filter(column), f"keep rows {which}", f"--{name} {example}", number(), "N")


OPERATIONS: tuple[Operation, ...] = (
    # Comparing tables
    Operation(
        "difference", ("key",), rows.difference,
        "keep rows that are not done in TABLE: TABLE has no such row, or its `text` is empty there",
        "--difference DATA_caption.csv", str, "TABLE", ("path-subtract",),
    ),
    Operation(
        "intersection", ("key",), rows.intersection,
        "keep rows that are done in TABLE, and add the columns that only TABLE has",
        "--intersection scores.csv", str, "TABLE", ("path-intersect",),
    ),
    # Reading files
    Operation(
        "info", ("path",), info.add_info,
        "read size and length of each video or image; cells of unreadable files and of URLs are empty",
        "--info", makes=info.COLUMNS,
    ),
    Operation(
        "video-info", ("path",), info.add_video_info,
        "the same as --info for videos only; cells of images are empty",
        "--video-info", makes=info.COLUMNS,
    ),
    Operation("ext", ("path",), paths.existing, "keep rows whose file exists, and all URLs", "--ext"),
    Operation(
        "filesize", ("path",), paths.file_size, "add the size of each file in MiB; empty for URLs", "--filesize",
        makes=("filesize",),
    ),
    Operation(
        "load-caption", ("path",), captions.load_captions,
        "read captions from files next to the clips: `caption` of NAME.json, or all of NAME.COLUMN.txt, else of "
        "NAME.txt (COLUMN is that of --column; for a part of a file, NAME contains its range, as export writes it); "
        "rows without such a file keep their caption",
        "--load-caption json", _sidecar_kind, "json|txt", makes=("text",),
    ),
    # Parts of files
    Operation(
        "timestamp-to-range", (timestamps.TIMESTAMP_COLUMN,), timestamps.timestamp_to_range,
        "make `start` and `end` of the times of scene tools, one row for each pair of times: `['0:00:01.2', "
        "'0:00:05.6']`, `1.2-5.6`, `00:00:01.2 --> 00:00:05.6`, or a list of pairs",
        "--timestamp-to-range", aliases=("timestamp",), makes=RANGE_COLUMNS,
    ),
    Operation(
        "timecode-to-seconds", (), timestamps.timecode_to_seconds,
        "convert time codes in `start` and `end` to seconds: `0:01:23.456` to 83.456", "--timecode-to-seconds",
    ),
    # Paths
    Operation(
        "relpath", ("path",), paths.relative_to,
        "make paths relative to ROOT, except URLs", "--relpath /data", str, "ROOT",
    ),
    Operation(
        "abspath", ("path",), paths.absolute_under,
        "prepend ROOT to relative paths, except URLs", "--abspath /data", str, "ROOT",
    ),
    Operation(
        "path-to-id", ("path",), paths.path_to_id,
        "set `id` to the file name without its suffix; for a part of a file, with its range: `clip_12.500-20.000`",
        "--path-to-id", makes=("id",),
    ),
    Operation(
        "path-subset", ("path",), paths.with_part, "keep rows whose path contains PART", "--path-subset /day/",
        str, "PART", ("path-keep-substr",),
    ),
    Operation(
        "path-without", ("path",), paths.without_part, "keep rows whose path does not contain PART",
        "--path-without /old/", str, "PART", ("path-filter-substr",),
    ),
    Operation(
        "remove-empty-path", ("path",), paths.remove_empty, "keep rows with a path", "--remove-empty-path",
        aliases=("path-filter-empty",),
    ),
    Operation(
        "remove-path-duplication", ("path",), paths.remove_duplicates,
        "keep the first row of each path; of parts of files: of each path and range",
        "--remove-path-duplication", aliases=("path-dedup",),
    ),
    Operation("img-only", ("path",), paths.select_images(True), "keep still images (by file suffix)", "--img-only"),
    Operation(
        "vid-only", ("path",), paths.select_images(False), "keep everything except still images (by file suffix)",
        "--vid-only",
    ),
    # Captions: filters
    Operation(
        "remove-empty-caption", ("text",), captions.remove_empty, "keep rows with a caption",
        "--remove-empty-caption", aliases=("text-filter-empty",),
    ),
    Operation(
        "remove-text-duplication", ("text",), captions.remove_duplicates,
        "keep the first row of each caption, and all rows without a caption",
        "--remove-text-duplication", aliases=("text-dedup",),
    ),
    Operation(
        "remove-url", ("text",), captions.remove_urls, "keep rows whose caption contains no web address",
        "--remove-url", aliases=("text-filter-url",),
    ),
    Operation(
        "lang", ("text",), captions.in_language,
        "keep rows whose caption is in the language CODE (ISO 639-1) or empty; "
        "needs the package lingua-language-detector",
        "--lang en", str, "CODE",
    ),
    # Captions: changes
    Operation(
        "clean-caption", ("text",), captions.clean,
        "clean captions for text encoders such as T5: lower case, plain quotes and dashes; no markup, web or e-mail "
        "addresses, file names, product numbers",
        "--clean-caption", aliases=("text-refine-t5",),
    ),
    Operation(
        "refine-llm-caption", ("text",), captions.remove_opening, "remove openings such as 'The video shows'",
        "--refine-llm-caption", aliases=("text-remove-prefix",),
    ),
    Operation(
        "append-text", ("text",), captions.append_text, "append TEXT to every non-empty caption",
        '--append-text " 4k."', str, "TEXT", ("text-append",),
    ),
    Operation(
        "score-to-text", ("text",), captions.scores_to_text,
        "append the scores `aes` and `flow` to the caption: [aesthetic score: 5.3, motion score: 1.2]",
        "--score-to-text", aliases=("text-score2text",),
    ),
    Operation(
        "merge-cmotion", ("text", "cmotion"), captions.merge_camera_motion,
        "append the camera motion `cmotion` to the caption, as a sentence", "--merge-cmotion",
    ),
    Operation(
        "count-num-token", ("text",), captions.count_tokens,
        "count the tokens of each caption; TOKENIZER is a tokenizer.json or the folder that contains it",
        "--count-num-token pretrained_models/t5", str, "TOKENIZER", makes=("text_len",),
    ),
    # Filters by numbers
    _filter("fmin", "num_frames", "with at least N frames", "16", rows.at_least),
    _filter("fmax", "num_frames", "with at most N frames", "300", rows.at_most),
    _filter("fsmin", "filesize", "with a file of at least N MiB", "0.1", rows.at_least),
    _filter("fsmax", "filesize", "with a file of at most N MiB", "200", rows.at_most),
    Operation(
        "hwmax", ("height", "width"), rows.pixels_at_most, "keep rows with at most N pixels (height times width)",
        "--hwmax 2073600", number(), "N",
    ),
    _filter("aesmin", "aes", "with an aesthetic score of at least N", "4.5", rows.at_least),
    _filter("matchmin", "match", "with a matching score of at least N", "20", rows.at_least),
    _filter("flowmin", "flow", "with a motion score of at least N", "0.5", rows.at_least),
    _filter(
        "fpsmax", "fps", "with at most N frames per second, or without a frame rate, such as images", "60",
        lambda column: rows.at_most(column, keep_missing=True),
    ),
    _filter("secondsmin", "duration", "with a duration of at least N seconds", "2", rows.at_least),
    _filter("secondsmax", "duration", "with a duration of at most N seconds", "16", rows.at_most),
    # Order
    Operation("sort", (), rows.sort_by(False), "sort by COLUMN, largest first", "--sort aes", str, "COLUMN"),
    Operation(
        "sort-ascending", (), rows.sort_by(True), "sort by COLUMN, smallest first", "--sort-ascending path",
        str, "COLUMN",
    ),
    Operation("shuffle", (), rows.shuffle, "put rows in random order, the same for the same --seed", "--shuffle"),
    Operation(
        "sample", (), rows.sample, "keep N rows drawn at random, in their present order", "--sample 1000",
        positive_int, "N",
    ),
    Operation("head", (), rows.head, "keep the first N rows", "--head 100", positive_int, "N"),
)  # fmt: skip
