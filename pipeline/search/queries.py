"""Checks a query and makes the expression that FTS5 searches for. Knows nothing about the database.

The language is that of FTS5 (https://www.sqlite.org/fts5.html#full_text_query_syntax), without column filters.
"""

from __future__ import annotations

import re
import sqlite3
from itertools import pairwise

from pipeline.captioning.process.errors import UsageError

from .fts import TOKENIZER

_SHOWN = 60
_MAX_CHARACTERS = 10_000
_NEAR = re.compile(r'near "(.*)"$', re.DOTALL)
_WORD = re.compile(r"\S+")
_TOKEN = re.compile(r'"[^"]*"|[()]|[^\s()"]+')
_OPERATORS = "()+*^,"


def expression_of(text: str, as_words: bool = False) -> str:
    """The expression for a query.

    as_words: `text` is no query but plain words, all of which must occur, in any order.

    Raises:
        UsageError: the query can't be understood, or has no words.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(f"the query has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are allowed")
    if not any(character.isalnum() for character in text):
        raise UsageError(f"query {_shown(text)} has no word; write one, for example: red AND star")
    text = text.encode("utf-8", "replace").decode().replace("\0", " ")
    expression = " ".join(map(quoted, _WORD.findall(text))) if as_words else text
    if not as_words and (found := _forbidden(text)) is not None:
        raise UsageError(_forbidden_message(text, found))
    problem = _problem(expression)
    if problem:
        raise UsageError(
            f'query {_shown(text)}: {problem}; put words that are no operators into double quotes ("AND"), or give '
            "--words to search for all words of the query"
        )
    return expression


def quoted(text: str) -> str:
    """A text as a phrase of a query: its words must occur one after another."""
    return '"' + text.replace('"', '""') + '"'


def _problem(expression: str) -> str:
    """What SQLite says against an expression; '' for nothing."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE VIRTUAL TABLE probe USING fts5(text, tokenize='{TOKENIZER}')")
        connection.execute("SELECT count(*) FROM probe WHERE probe MATCH ?", (expression,)).fetchall()
    except sqlite3.Error as error:
        message = str(error)
        found = _NEAR.search(message)
        if found is None:
            return "'*' follows a word, as in star*" if "special query" in message else message.removeprefix("fts5: ")
        if not found[1]:
            return f"it ends where a word is expected, at character {len(expression) + 1}"
        if _lacks_operator(expression):
            return "there must be an operator, such as AND, between a word and a parenthesis"
        places = [place.start() + 1 for place in re.finditer(re.escape(found[1]), expression)]
        at = (
            f"character {places[0]}" if len(places) == 1 else f"one of the characters {', '.join(map(str, places[:5]))}"
        )
        return f"{found[1]!r} is not expected at {at}"
    finally:
        connection.close()
    return ""


def _lacks_operator(expression: str) -> bool:
    """Whether a word and a parenthesis are neighbours: FTS5 takes a missing operator for AND between words only."""
    pairs = list(pairwise(_TOKEN.findall(expression)))
    operators = {"AND", "OR", "NOT"}
    before = any(after == "(" and word not in operators | {"NEAR", "("} for word, after in pairs)
    return before or any(parenthesis == ")" and word not in operators | {")"} for parenthesis, word in pairs)


def _forbidden(text: str) -> int | None:
    """The index of the first character that may only be in double quotes, or of a quote that is not closed."""
    place = 0
    while place < len(text):
        character = text[place]
        if character == '"':
            end = text.find('"', place + 1)
            if end < 0:
                return place
            place = end
        elif not (character.isspace() or _is_of_word(character) or character in _OPERATORS):
            return place
        place += 1
    return None


def _is_of_word(character: str) -> bool:
    return character == "_" or ord(character) > 127 or character.isalnum()


def _forbidden_message(text: str, place: int) -> str:
    shown = f"query {_shown(text)}, character {place + 1}: "
    if text[place] == '"':
        return f"{shown}this double quote is not closed; close it, or give --words to search for all words of the query"
    word = next(found for found in _WORD.finditer(text) if found.start() <= place < found.end())
    bare = word[0].strip("()")
    fix = text.replace(bare, quoted(bare), 1) if '"' not in bare else quoted(text.replace('"', " "))
    return (
        f"{shown}{text[place]!r} must be in double quotes: {_shown(fix)}; or give --words to search for all words of "
        "the query"
    )


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
