"""The values of a service's flags, as argparse types: URL, JSON, schema. They keep keys and passwords out of messages.

Knows nothing about flags that go together, and sends nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ...clips.downloads.urls import is_url, scheme_of, url_problem
from ...process.arguments import number, positive_int
from ..prompt_flags import utf8

MAX_ANSWER_TOKENS = 1 << 17
"""More than any model generates in one answer."""
DEFAULT_OF_SERVICE = "default"
"""The value of `--temperature` that leaves it to the service."""
OWN_FIELDS = ("messages", "model", "stream", "n")
"""Fields of a request that `--extra_body` may not replace."""
_ENDPOINTS = ("/chat/completions", "/completions", "/chat", "/responses", "/models", "/batches", "/files")
_URL_FIX = "give the URL up to the version, as in http://localhost:8000/v1"
_MAX_JSON_BYTES = 1 << 20
_MAX_SHOWN = 200


def base_url(text: str) -> str:
    """An argparse type: the URL of a service without credentials, query and endpoint; a `/` at its end is removed."""
    shown = "the value" if any(sign in text for sign in "@?#") else repr(text)  # it could contain a key
    if not is_url(text) or scheme_of(text) not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{shown} is not an http:// or https:// URL; {_URL_FIX}")
    problem = "the URL contains white space" if " " in text else url_problem(text)
    if problem:
        raise argparse.ArgumentTypeError(f"{shown}: {problem}; {_URL_FIX}")
    if "@" in urlsplit(text).netloc:
        raise argparse.ArgumentTypeError(
            "the URL contains a user or a password; leave them out: the key is read from the environment variable "
            "that --api_key_env names"
        )
    if "?" in text or "#" in text:
        raise argparse.ArgumentTypeError(f"the URL has a query or a fragment, which could contain a key; {_URL_FIX}")
    url = text.rstrip("/")
    for endpoint in _ENDPOINTS:
        if url.endswith(endpoint):
            fix = url.removesuffix(endpoint)
            raise argparse.ArgumentTypeError(f"{url} is a full endpoint; leave {endpoint} out: {fix}")
    return url


def no_key(text: str) -> NoReturn:
    """An argparse type that refuses every value and does not show it: a key on a command line is visible to others."""
    raise argparse.ArgumentTypeError(
        "a key is not given on the command line, where others can read it; store it in an environment variable, and "
        "give the name of the variable with --api_key_env"
    )


def name(text: str) -> str:
    """An argparse type: a text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is blank; give a name, or leave the flag out")
    return utf8(text)


def temperature(text: str) -> float | None:
    """An argparse type: a number of at least 0, or `default`, which becomes None."""
    if text == DEFAULT_OF_SERVICE:
        return None
    try:
        return number(minimum=0)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor is it {DEFAULT_OF_SERVICE}") from None


def answer_tokens(text: str) -> int:
    """An argparse type: a whole number from 1 to MAX_ANSWER_TOKENS."""
    return _at_most(text, MAX_ANSWER_TOKENS)


def jpeg_quality(text: str) -> int:
    """An argparse type: a whole number from 1 to 95."""
    return _at_most(text, 95)


def extra_body(text: str) -> dict[str, Any]:
    """An argparse type: a JSON object, or `@` and the name of a file with one; without OWN_FIELDS."""
    is_file = text.startswith("@")
    fields = _json_object(_text_of(Path(text[1:])) if is_file else utf8(text), text[1:] if is_file else "the value")
    for field in OWN_FIELDS:
        if field in fields:
            raise argparse.ArgumentTypeError(f"the field {field!r} is set by the command itself; leave it out")
    return fields


def json_schema(text: str) -> dict[str, Any]:
    """An argparse type: the name of a file with a JSON schema whose references stay within the file."""
    import jsonschema  # slow to import, and most runs have no schema

    schema = _json_object(_text_of(Path(text)), text)
    if not isinstance(schema.get("$schema", ""), str):
        raise argparse.ArgumentTypeError(f"{text}: $schema is not a text; leave it out")
    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        place = f" at {error.json_path}" if error.path else ""
        raise argparse.ArgumentTypeError(
            f"{text} is not a valid JSON schema{place}: {error.message[:_MAX_SHOWN]}"
        ) from error
    problem = next(_reference_problems(schema), "")
    if problem:
        raise argparse.ArgumentTypeError(f"{text}: {problem}; define the part under $defs, and refer to #/$defs/NAME")
    return schema


def _reference_problems(schema: Mapping[str, Any]) -> Iterator[str]:
    """The references of a schema that can't be followed without the network, or lead nowhere."""
    import referencing
    import referencing.jsonschema

    resource = referencing.Resource.from_contents(schema, referencing.jsonschema.DRAFT202012)
    resolver = referencing.Registry().resolver_with_root(resource)
    for reference in _references(schema):
        if not reference.startswith("#"):
            yield f"the reference {reference[:_MAX_SHOWN]!r} leads out of the file"
            continue
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable:
            yield f"the reference {reference[:_MAX_SHOWN]!r} leads nowhere"


def _references(value: Any) -> Iterator[str]:
    """The texts of all references in a schema. A property may be named `$ref`; its value is an object."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for key, inner in part.items():
                if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(inner, str):
                    yield inner
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _at_most(text: str, maximum: int) -> int:
    value = positive_int(text)
    if value > maximum:
        raise argparse.ArgumentTypeError(f"{value} is more than {maximum}")
    return value


def _text_of(path: Path) -> str:
    """The text of a file of JSON; raises ArgumentTypeError if it can't be read."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"{path} is not a file; give a file with JSON")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} can't be read: {error.strerror}; give a file with JSON") from error
    if len(data) > _MAX_JSON_BYTES:
        raise argparse.ArgumentTypeError(f"{path} is larger than 1 MiB; give a smaller file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{path} is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from error


def _json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object that a text is. what: names it in messages."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f'{what} is not JSON: {error}; write an object, as in {{"a": 1}}') from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"{what} is not a JSON object but {json.dumps(value)[:_MAX_SHOWN]}; write {{…}}"
        )
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
