"""Operations on captions, which are in the column `text`, or in another one (`Settings.column`)."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_plus

import pandas as pd

from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.process.errors import UsageError

from .operation import Settings
from .ranges import row_suffixes
from .tables import as_numbers, as_text, with_column

OPENINGS = re.compile(
    r"^(?:in (?:the|this) (?:video|image|clip)(?: clip)?,?"
    r"|(?:the|this) (?:video|image|clip)(?: clip)? (?:shows|captures|features|depicts|presents|portrays|is)\b)\s*",
    re.IGNORECASE,
)
"""Phrases with which language models often begin a caption. They say nothing about the clip."""

CAMERA_MOTIONS = {
    "static": "The camera is static.",
    "dynamic": "The camera is moving.",
    "zoom in": "The camera is zooming in.",
    "zoom out": "The camera is zooming out.",
    "pan left": "The camera is panning left.",
    "pan right": "The camera is panning right.",
    "tilt up": "The camera is tilting up.",
    "tilt down": "The camera is tilting down.",
    "pan/tilt": "The camera is panning.",
}
"""A sentence for each known value of the column `cmotion`. Other values add no sentence."""

_URL = r"(?:https?://|www\.)\S+"
_CLEANING: list[tuple[re.Pattern[str], str]] = [
    (re.compile(_URL), " "),
    (re.compile(r"\S+@\S+\.\w+"), " "),  # e-mail
    (re.compile(r"(?<!\w)[@#]\w+"), " "),  # user names and hash tags
    (re.compile(r"\S+\.(?:png|jpe?g|bmp|webp|gif|eps|pdf|apk|mp4|mov|avi|mkv|webm)\b"), " "),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), " "),  # IPv4 addresses
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{8,}\b|\b\d{6,}\b"), " "),  # codes such as product numbers
    (re.compile(r"[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"), "-"),
    (re.compile("[\u00ab\u00bb\u201c-\u201f\u2033]"), '"'),
    (re.compile("[\u2018-\u201b\u2032\u0060\u00b4]"), "'"),
    (re.compile(r"[®•©™·º½¾¿¡§~|\\/*<>{}\[\]()_]+"), " "),
    (re.compile(r"\.{2,}|…"), " "),
    (re.compile(r"([!?,;:\"'-])\1+"), r"\1"),
    (re.compile(r"\s+([.,;:!?])"), r"\1"),
    (re.compile(r"\s+"), " "),
]


def _captions(frame: pd.DataFrame, settings: Settings) -> pd.Series:
    return as_text(frame[settings.column])


def _change_captions(frame: pd.DataFrame, settings: Settings, change: Callable[[str], str]) -> pd.DataFrame:
    """Apply `change` to every caption. Empty captions stay empty."""
    return with_column(frame, settings.column, [text and change(text) for text in _captions(frame, settings).tolist()])


def remove_empty(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return frame[_captions(frame, settings).str.strip() != ""]


def remove_duplicates(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    """Keeps all rows without a caption: they are not duplicates of each other."""
    texts = _captions(frame, settings)
    return frame[~texts.duplicated() | (texts.str.strip() == "")]


def remove_urls(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return frame[~_captions(frame, settings).str.contains(_URL, regex=True)]


def append_text(frame: pd.DataFrame, ending: str, settings: Settings) -> pd.DataFrame:
    return _change_captions(frame, settings, lambda text: text + ending)


def remove_opening(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return _change_captions(frame, settings, without_opening)


def without_opening(text: str) -> str:
    """A caption without its opening, see OPENINGS, with a capital first letter. Unchanged if it has nothing else."""
    rest = OPENINGS.sub("", text)
    return rest[0].upper() + rest[1:] if rest else text


def clean(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return _change_captions(frame, settings, cleaned)


def cleaned(text: str) -> str:
    """A caption as input for text encoders such as T5.

    Lower case, plain quotes and dashes, single spaces; no markup, web or e-mail addresses, file names or product
    numbers.
    """
    import ftfy

    text = ftfy.fix_text(html.unescape(html.unescape(unquote_plus(text) if "%" in text else text)))
    stripper = _TagStripper()
    stripper.feed(text)
    stripper.close()
    text = " ".join(stripper.parts).lower()
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = text.strip(" ,;:-_'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text.strip()


class _TagStripper(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def scores_to_text(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    """Appends the scores that a row has, as `[aesthetic score: 5.3, motion score: 1.2]`."""
    columns = [(name, column) for name, column in (("aesthetic", "aes"), ("motion", "flow")) if column in frame]
    if not columns:
        raise UsageError("--score-to-text needs a column 'aes' or 'flow'")
    scores = [(name, as_numbers(frame[column]).tolist()) for name, column in columns]
    texts = _captions(frame, settings).tolist()
    for row, text in enumerate(texts):
        found = [f"{name} score: {values[row]:.1f}" for name, values in scores if values[row] == values[row]]
        if text and found:
            texts[row] = f"{text} [{', '.join(found)}]"
    return with_column(frame, settings.column, texts)


def merge_camera_motion(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    sentences = [CAMERA_MOTIONS.get(motion, "") for motion in as_text(frame["cmotion"]).tolist()]
    texts = [
        f"{text} {sentence}" if text and sentence else text
        for text, sentence in zip(_captions(frame, settings).tolist(), sentences, strict=True)
    ]
    return with_column(frame, settings.column, texts)


def load_captions(frame: pd.DataFrame, kind: str, settings: Settings) -> pd.DataFrame:
    """Reads captions from sidecar files: same folder and name as the clip, suffix `.json` or `.txt`.

    Of text files, NAME.COLUMN.txt comes first: the export of several columns writes these. For a part of a file, the
    range is in NAME, as the export writes it: `a_12.500-20.000.txt`.

    Rows without a readable sidecar file, and rows whose path is a URL, keep their caption.
    """

    def sidecar_caption(path: str, suffix: str) -> str:
        if is_url(path):
            return ""
        name = os.path.splitext(path)[0] + suffix
        if kind == "json":
            return read(name + ".json")
        return read(f"{name}.{settings.column}.txt") or read(name + ".txt")

    def read(file: str) -> str:
        try:
            content = Path(file).read_text(encoding="utf-8")
            return " ".join(str(json.loads(content)["caption"] if kind == "json" else content).split())
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    with ThreadPoolExecutor(settings.workers) as pool:
        clips = as_text(frame["path"]).tolist(), row_suffixes(frame, settings)
        found = list(pool.map(sidecar_caption, *clips, chunksize=64))
    current = _captions(frame, settings).tolist() if settings.column in frame else [""] * len(frame)
    return with_column(frame, settings.column, [new or old for new, old in zip(found, current, strict=True)])


def in_language(frame: pd.DataFrame, code: str, settings: Settings) -> pd.DataFrame:
    """Keeps rows whose caption is in the language with this ISO 639-1 code, and rows without a caption."""
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError:
        raise UsageError("--lang needs a package: pip install lingua-language-detector") from None
    try:
        wanted = IsoCode639_1.from_str(code.upper())
    except ValueError:
        raise UsageError(
            f"--lang {code}: this is not an ISO 639-1 code that lingua supports, such as en or zh"
        ) from None
    detector = LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()
    texts = _captions(frame, settings).tolist()
    languages = detector.detect_languages_in_parallel_of(texts)
    return frame[
        [
            not text.strip() or (found is not None and found.iso_code_639_1 == wanted)
            for text, found in zip(texts, languages, strict=True)
        ]
    ]


def count_tokens(frame: pd.DataFrame, tokenizer: str, settings: Settings) -> pd.DataFrame:
    """Number of tokens of each caption, special tokens included. Column `text_len`.

    tokenizer: path of a `tokenizer.json`, or of the folder that contains it.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("--count-num-token needs a package: pip install tokenizers") from None
    file = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    if not file.is_file():
        raise UsageError(f"--count-num-token {tokenizer}: there is no {file}")
    encoder = Tokenizer.from_file(str(file))
    encoder.no_padding()
    encoder.no_truncation()
    texts, counts = _captions(frame, settings).tolist(), []
    for start in range(0, len(texts), 10000):
        counts += [len(encoding.ids) for encoding in encoder.encode_batch(texts[start : start + 10000])]
    return with_column(frame, "text_len", counts, "Int64")
