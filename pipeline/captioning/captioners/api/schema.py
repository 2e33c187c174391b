"""Answers that must be JSON and fit a JSON schema. Knows nothing about services.

`jsonschema` is imported when the first answer is checked, because few runs need it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...process.errors import RunError

MAX_REASON_LENGTH = 300
"""Reasons of `jsonschema` contain the value that does not fit, which may be long."""
_FENCE = re.compile(r"\s*```(?:json|JSON)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_STRICT_KEYWORDS = {
    *("$schema", "$ref", "$defs", "definitions", "title", "description", "type", "enum", "const", "anyOf"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems", "pattern", "format"),
    *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
"""What `strict` allows in a schema: https://platform.openai.com/docs/guides/structured-outputs."""


def checked(text: str, schema: Mapping[str, Any]) -> Any:
    """The value of an answer. A Markdown fence around the JSON is ignored.

    Raises:
        ValueError: it is not JSON, or does not fit; the message is a sentence without a full stop.
        RunError: the schema refers to something that is not in it.
    """
    value = _parsed(text)
    import jsonschema
    import referencing

    # With a registry of its own, the validator does not fetch schemas from the network.
    validator = jsonschema.validators.validator_for(schema)(schema, registry=referencing.Registry())
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except referencing.exceptions.Unresolvable as unresolvable:
        problem = f"--json_schema: the schema refers to {unresolvable.ref!r}, which is not in it"
        raise RunError(problem) from unresolvable
    if error is None:
        return value
    reason = error.message if len(error.message) <= MAX_REASON_LENGTH else f"{error.message[:MAX_REASON_LENGTH]}…"
    raise ValueError(f"it does not fit the JSON schema at {error.json_path}: {reason}")


def fits_strict(schema: Mapping[str, Any]) -> bool:
    """Whether a service may be asked to be `strict`: OpenAI refuses schemas that have anything else.

    The root is an object; every object has all its properties in `required`, and no additional ones.
    """
    return schema.get("type") == "object" and _fits_strict(schema)


def _parsed(text: str) -> Any:
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
        json.dumps(value, allow_nan=False)  # Python reads NaN and Infinity, which are not JSON
    except RecursionError as error:
        raise ValueError("it is not JSON that can be read: it is too deeply nested") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    return value


def _fits_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not _STRICT_KEYWORDS.issuperset(schema):
        return False
    properties = schema.get("properties", {})
    if "object" in (schema.get("type"), *_listed(schema.get("type"))) and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties)
    ):
        return False
    parts = [*properties.values(), *schema.get("anyOf", ()), *schema.get("$defs", {}).values()]
    parts += schema.get("definitions", {}).values()
    parts += [schema["items"]] if "items" in schema else []
    return all(_fits_strict(part) for part in parts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
