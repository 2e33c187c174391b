"""Operations on captions, in the column `text`."""

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

from pipeline.captioning.process.errors import UsageError

from .operation import Settings
from .tables import as_numbers, as_text, with_column

OPENINGS = re.compile(
    r"^(?:in (?:the|this) (?:video|image|clip)(?: clip)?,?"
    r"|(?:the|this) (?:video|image|clip)(?: clip)? (?:shows|captures|features|depicts|presents|portrays|is)\b)\s*",
    re.IGNORECASE,
)
"""How language models like to begin; says nothing about the clip."""

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
"""Sentences for what the column `cmotion` holds; any other value adds none."""

_URL = r"(?:https?://|www\.)\S+"
_CLEANING: list[tuple[re.Pattern[str], str]] = [
    (re.compile(_URL), " "),
    (re.compile(r"\S+@\S+\.\w+"), " "),  # e-mail
    (re.compile(r"(?<!\w)[@#]\w+"), " "),  # handles and hash tags
    (re.compile(r"\S+\.(?:png|jpe?g|bmp|webp|gif|eps|pdf|apk|mp4|mov|avi|mkv|webm)\b"), " "),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), " "),  # addresses of hosts
    (re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{8,}\b|\b\d{6,}\b"), " "),  # product and other numbers
    (re.compile(r"[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"), "-"),
    (re.compile("[\u00ab\u00bb\u201c-\u201f\u2033]"), '"'),
    (re.compile("[\u2018-\u201b\u2032\u0060\u00b4]"), "'"),
    (re.compile(r"[®•©™·º½¾¿¡§~|\\/*<>{}\[\]()_]+"), " "),
    (re.compile(r"\.{2,}|…"), " "),
    (re.compile(r"([!?,;:\"'-])\1+"), r"\1"),
    (re.compile(r"\s+([.,;:!?])"), r"\1"),
    (re.compile(r"\s+"), " "),
]


def _texts(frame: pd.DataFrame) -> pd.Series:
    return as_text(frame["text"])


def _mapped(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """`change` of every caption; an empty one stays empty."""
    return with_column(frame, "text", [text and change(text) for text in _texts(frame).tolist()])


def remove_empty(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return frame[_texts(frame).str.strip() != ""]


def remove_duplicates(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    """Rows without a caption are no duplicates of each other."""
    texts = _texts(frame)
    return frame[~texts.duplicated() | (texts.str.strip() == "")]


def remove_urls(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return frame[~_texts(frame).str.contains(_URL, regex=True)]


def append(frame: pd.DataFrame, ending: str, _: Settings) -> pd.DataFrame:
    return _mapped(frame, lambda text: text + ending)


def remove_opening(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return _mapped(frame, without_opening)


def without_opening(text: str) -> str:
    """A caption without OPENINGS, with a capital letter; as it was, if nothing else is in it."""
    rest = OPENINGS.sub("", text)
    return rest[0].upper() + rest[1:] if rest else text


def clean(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return _mapped(frame, cleaned)


def cleaned(text: str) -> str:
    """A caption as text encoders of the T5 kind are fed: lower case, no markup, addresses, file names or numbers
    of articles, plain quotes and dashes, single spaces."""
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


def scores_to_text(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    """Appends `[aesthetic score: 5.3, motion score: 1.2]`, of the scores that a row has."""
    columns = [(name, column) for name, column in (("aesthetic", "aes"), ("motion", "flow")) if column in frame]
    if not columns:
        raise UsageError("--score-to-text needs a column 'aes' or 'flow'")
    scores = [(name, as_numbers(frame[column]).tolist()) for name, column in columns]
    texts = _texts(frame).tolist()
    for row, text in enumerate(texts):
        found = [f"{name} score: {values[row]:.1f}" for name, values in scores if values[row] == values[row]]
        if text and found:
            texts[row] = f"{text} [{', '.join(found)}]"
    return with_column(frame, "text", texts)


def merge_camera_motion(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    sentences = [CAMERA_MOTIONS.get(motion, "") for motion in as_text(frame["cmotion"]).tolist()]
    texts = [
        f"{text} {sentence}" if text and sentence else text
        for text, sentence in zip(_texts(frame).tolist(), sentences, strict=True)
    ]
    return with_column(frame, "text", texts)


def load(frame: pd.DataFrame, kind: str, settings: Settings) -> pd.DataFrame:
    """Captions from files beside the clips; rows without such a file keep the caption they have."""

    def beside(path: str) -> str:
        try:
            content = Path(os.path.splitext(path)[0] + f".{kind}").read_text(encoding="utf-8")
            return " ".join(str(json.loads(content)["caption"] if kind == "json" else content).split())
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    with ThreadPoolExecutor(settings.workers) as pool:
        found = list(pool.map(beside, as_text(frame["path"]).tolist(), chunksize=64))
    present = _texts(frame).tolist() if "text" in frame else [""] * len(frame)
    return with_column(frame, "text", [new or old for new, old in zip(found, present, strict=True)])


def in_language(frame: pd.DataFrame, code: str, _: Settings) -> pd.DataFrame:
    """Rows whose caption is in the language of this ISO 639-1 code, and rows without a caption."""
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError:
        raise UsageError("--lang needs the package lingua-language-detector: pip install it") from None
    try:
        wanted = IsoCode639_1.from_str(code.upper())
    except ValueError:
        raise UsageError(f"--lang {code}: not an ISO 639-1 code that lingua knows, such as en or zh") from None
    detector = LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()
    texts = _texts(frame).tolist()
    languages = detector.detect_languages_in_parallel_of(texts)
    return frame[
        [
            not text.strip() or (found is not None and found.iso_code_639_1 == wanted)
            for text, found in zip(texts, languages, strict=True)
        ]
    ]


def count_tokens(frame: pd.DataFrame, tokenizer: str, _: Settings) -> pd.DataFrame:
    """Tokens of each caption, special tokens included, by a `tokenizer.json` or the folder that holds one."""
    from tokenizers import Tokenizer

    file = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    if not file.is_file():
        raise UsageError(f"--count-num-token {tokenizer}: there is no {file}")
    encoder = Tokenizer.from_file(str(file))
    encoder.no_padding()
    encoder.no_truncation()
    texts, counts = _texts(frame).tolist(), []
    for start in range(0, len(texts), 10000):
        counts += [len(encoding.ids) for encoding in encoder.encode_batch(texts[start : start + 10000])]
    return with_column(frame, "text_len", counts, "Int64")
