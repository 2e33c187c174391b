"""Finds the chat template of a checkpoint folder and renders it to the text of a prompt.

A chat template is a Jinja template that a checkpoint contains. It is rendered with the settings of transformers, but
without transformers: its import takes seconds, and the prompt is made before a framework is imported. Knows nothing
about model families: the caller writes the messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..process.errors import UsageError
from .checkpoint_config import read_settings

Message = Mapping[str, Any]
"""One turn of a conversation: `role`, and `content`, which is a list of parts {"type": "image", "video" or "text"}."""

TOKENIZER_CONFIG = "tokenizer_config.json"

_RAW_FILE, _JSON_FILE = "chat_template.jinja", "chat_template.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, and the file that contains it."""

    text: str
    file: Path


def find_template(folder: Path) -> ChatTemplate | None:
    """The chat template of a checkpoint; None if it has none.

    The first of these files that contains one is used: `chat_template.jinja`, `chat_template.json`,
    `processor_config.json`, `tokenizer_config.json`. A file with several named templates must have one that is named
    "default".

    Raises:
        UsageError: a file can't be read, or its templates are not text, or none of several is named "default".
    """
    raw = folder / _RAW_FILE
    if raw.exists():
        try:
            return ChatTemplate(raw.read_text(encoding="utf-8"), raw)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{raw} can't be read: {error}") from error
    for name in (_JSON_FILE, "processor_config.json", TOKENIZER_CONFIG):
        path = folder / name
        text = _default_template(path, read_settings(path).get("chat_template"))
        if text is not None:
            return ChatTemplate(text, path)
    return None


def overridden_template(folder: Path) -> Path | None:
    """The `chat_template.json` that is not used because the folder has a different `chat_template.jinja`, or None.

    If a folder has both, tokenizers of transformers 4.55 use the second, and its processors the first.
    """
    used, other = find_template(folder), folder / _JSON_FILE
    if used is None or used.file.name != _RAW_FILE or not other.exists():
        return None
    return other if read_settings(other).get("chat_template") != used.text else None


def special_tokens(folder: Path) -> dict[str, Any]:
    """The special tokens of a checkpoint by their names in templates: `bos_token`, `eos_token`, and so on.

    Tokens of `tokenizer_config.json` under `extra_special_tokens` have the names that they have there. In folders of
    old versions of transformers, whose `tokenizer_config.json` has no `added_tokens_decoder`,
    `special_tokens_map.json` has precedence. Defaults of tokenizer classes are not known here.

    Raises:
        UsageError: one of the files can't be read.
    """
    settings = read_settings(folder / TOKENIZER_CONFIG)
    if "added_tokens_decoder" not in settings:
        settings = {**settings, **read_settings(folder / "special_tokens_map.json")}
    found = {name: token_text(settings.get(name)) for name in _SPECIAL_TOKENS}
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, dict):
        found |= {name: token_text(token) for name, token in extra.items()}
    tokens: dict[str, Any] = {name: text for name, text in found.items() if text}
    additional = settings.get("additional_special_tokens")
    if additional:
        tokens["additional_special_tokens"] = [token_text(token) for token in additional]
    return tokens


def token_text(token: Any) -> str | None:
    """The text of a token in a JSON file of a tokenizer, where it is a string or an object with `content`.

    Raises:
        UsageError: it is neither.
    """
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise UsageError(f"{TOKENIZER_CONFIG}: a special token is {token!r}; expected a text or an object with content")
    return text


def render(template: ChatTemplate, messages: Sequence[Message], special_tokens: Mapping[str, Any]) -> str:
    """The text that `apply_chat_template` of transformers returns; it ends with the beginning of the answer.

    special_tokens: variables of the template; see `special_tokens`.

    Raises:
        UsageError: the template does not compile, or its execution fails; names its file.
    """
    try:
        compiled = _compiled(template.text)
    except jinja2.TemplateError as error:
        raise UsageError(f"{template.file}: the chat template does not compile: {_one_line(error)}") from error
    try:
        return compiled.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **special_tokens,
        )
    except Exception as error:  # the template is a program of others; it can fail in any way
        raise UsageError(f"{template.file}: the chat template fails: {_one_line(error)}") from error


class _Generation(Extension):
    """The tag `generation`, which marks answers for training: its content is rendered as if the tag were not there.

    The content has a scope of its own, because it is a call block in transformers.
    """

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it without ClassVar

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


@lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(text)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replaces jinja2's filter, which escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _default_template(file: Path, value: Any) -> str | None:
    """The template among the values that a file may contain: text, or several with names."""
    if isinstance(value, list):
        try:
            value = {entry["name"]: entry["template"] for entry in value}
        except (TypeError, KeyError) as error:
            raise UsageError(f"{file}: chat_template is a list whose entries lack name or template") from error
    if isinstance(value, dict):
        if "default" not in value:
            names = ", ".join(map(str, value)) or "none"
            raise UsageError(f"{file}: no chat template is named default (there are: {names}); rename one")
        value = value["default"]
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{file}: chat_template is {type(value).__name__}, not text")
    return value


def _one_line(error: Exception) -> str:
    line = getattr(error, "lineno", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} (line {line})" if line else text
