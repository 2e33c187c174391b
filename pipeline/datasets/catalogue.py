"""Every operation, once: parser, help and `docs/datautil.md` are made from this table.

To add one, add a row here and a small function to the module it belongs to.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pipeline.captioning.process.arguments import number, positive_int

from . import captions, info, paths, rows
from .operation import Operation


def _caption_file(text: str) -> str:
    if text not in ("json", "txt"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither json nor txt")
    return text


def _filter(name: str, column: str, what: str, example: str, keep: Callable[[str], rows.Filter]) -> Operation:
    """A filter by the number in a column."""
    return Operation(name, (column,), keep(column), f"keep rows {what}", f"--{name} {example}", number(), "N")


OPERATIONS: tuple[Operation, ...] = (
    # Comparing tables
    Operation(
        "difference", ("key",), rows.difference,
        "keep the rows that are not done in TABLE: absent there, or without a caption in its `text`",
        "--difference DATA_caption.csv", str, "TABLE", ("path-subtract",),
    ),
    Operation(
        "intersection", ("key",), rows.intersection,
        "keep the rows that are done in TABLE, and add the columns that only TABLE has",
        "--intersection scores.csv", str, "TABLE", ("path-intersect",),
    ),
    # Looking at files
    Operation(
        "info", ("path",), info.add_info,
        "look at each video or image; a file that can't be read leaves its cells empty",
        "--info", makes=info.COLUMNS,
    ),
    Operation(
        "video-info", ("path",), info.add_video_info,
        "the same for videos alone; cells of other files stay empty",
        "--video-info", makes=info.COLUMNS,
    ),
    Operation("ext", ("path",), paths.existing, "keep rows whose file exists", "--ext"),
    Operation(
        "filesize", ("path",), paths.file_size, "size of each file, in MiB", "--filesize", makes=("filesize",)
    ),
    Operation(
        "load-caption", ("path",), captions.load,
        "captions from files beside the clips: `caption` of a .json, or all of a .txt; without one a row keeps its own",
        "--load-caption json", _caption_file, "json|txt", makes=("text",),
    ),
    # Paths
    Operation("relpath", ("path",), paths.relative_to, "paths relative to ROOT", "--relpath /data", str, "ROOT"),
    Operation(
        "abspath", ("path",), paths.absolute_under,
        "put ROOT before relative paths", "--abspath /data", str, "ROOT",
    ),
    Operation(
        "path-to-id", ("path",), paths.path_to_id, "`id` from the name of the file, without its suffix",
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
        "remove-path-duplication", ("path",), paths.remove_duplicates, "keep the first row of each path",
        "--remove-path-duplication", aliases=("path-dedup",),
    ),
    Operation("img-only", ("path",), paths.images(True), "keep still images, by their suffix", "--img-only"),
    Operation("vid-only", ("path",), paths.images(False), "keep all but still images", "--vid-only"),
    # Captions: choosing rows
    Operation(
        "remove-empty-caption", ("text",), captions.remove_empty, "keep rows with a caption",
        "--remove-empty-caption", aliases=("text-filter-empty",),
    ),
    Operation(
        "remove-text-duplication", ("text",), captions.remove_duplicates,
        "keep the first row of each caption, and all rows without one",
        "--remove-text-duplication", aliases=("text-dedup",),
    ),
    Operation(
        "remove-url", ("text",), captions.remove_urls, "keep rows whose caption has no web address", "--remove-url",
        aliases=("text-filter-url",),
    ),
    Operation(
        "lang", ("text",), captions.in_language,
        "keep rows whose caption is in this language (ISO 639-1), or empty; needs the package lingua-language-detector",
        "--lang en", str, "CODE",
    ),
    # Captions: changing them
    Operation(
        "clean-caption", ("text",), captions.clean,
        "lower case, without markup, addresses, file names, numbers of articles; plain quotes and dashes",
        "--clean-caption", aliases=("text-refine-t5",),
    ),
    Operation(
        "refine-llm-caption", ("text",), captions.remove_opening, "leave out beginnings such as 'The video shows'",
        "--refine-llm-caption", aliases=("text-remove-prefix",),
    ),
    Operation(
        "append-text", ("text",), captions.append, "put TEXT behind every caption", '--append-text " 4k."', str, "TEXT",
        ("text-append",),
    ),
    Operation(
        "score-to-text", ("text",), captions.scores_to_text,
        "put the scores `aes` and `flow` behind the caption: [aesthetic score: 5.3, motion score: 1.2]",
        "--score-to-text", aliases=("text-score2text",),
    ),
    Operation(
        "merge-cmotion", ("text", "cmotion"), captions.merge_camera_motion,
        "put the camera motion of `cmotion` behind the caption, as a sentence", "--merge-cmotion",
    ),
    Operation(
        "count-num-token", ("text",), captions.count_tokens,
        "tokens of each caption, by a tokenizer.json or the folder that holds it",
        "--count-num-token pretrained_models/t5", str, "TOKENIZER", makes=("text_len",),
    ),
    # Numbers
    _filter("fmin", "num_frames", "of at least N frames", "16", rows.at_least),
    _filter("fmax", "num_frames", "of at most N frames", "300", rows.at_most),
    _filter("fsmin", "filesize", "whose file has at least N MiB", "0.1", rows.at_least),
    _filter("fsmax", "filesize", "whose file has at most N MiB", "200", rows.at_most),
    Operation(
        "hwmax", ("height", "width"), rows.pixels_at_most, "keep rows of at most N pixels, height times width",
        "--hwmax 2073600", number(), "N",
    ),
    _filter("aesmin", "aes", "with an aesthetic score of at least N", "4.5", rows.at_least),
    _filter("matchmin", "match", "with a matching score of at least N", "20", rows.at_least),
    _filter("flowmin", "flow", "with a motion score of at least N", "0.5", rows.at_least),
    _filter(
        "fpsmax", "fps", "of at most N frames a second, and those without, such as images", "60",
        lambda column: rows.at_most(column, keep_missing=True),
    ),
    _filter("secondsmin", "duration", "of at least N seconds", "2", rows.at_least),
    _filter("secondsmax", "duration", "of at most N seconds", "16", rows.at_most),
    # Order
    Operation("sort", (), rows.sort_by(False), "largest of COLUMN first", "--sort aes", str, "COLUMN"),
    Operation(
        "sort-ascending", (), rows.sort_by(True), "smallest of COLUMN first", "--sort-ascending path", str, "COLUMN"
    ),
    Operation("shuffle", (), rows.shuffle, "any order, the same for the same --seed", "--shuffle"),
    Operation("sample", (), rows.sample, "N rows by chance, in their order", "--sample 1000", positive_int, "N"),
    Operation("head", (), rows.head, "the first N rows", "--head 100", positive_int, "N"),
)  # fmt: skip
