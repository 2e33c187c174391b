"""What a response of a service means: an answer, or what went wrong. Knows nothing about the library and the network.

The same bodies are in the output files of the Batch API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...process.errors import RunError
from .answer import Answer, well_formed
from .errors import BLOCKED, SERVICE, RequestFailed, ServiceStop, TryAgain
from .retry_after import reset_hint, retry_after

MAX_MESSAGE = 500
"""Characters of a message at most."""

MAX_TOKENS = 10_000_000
"""A usage with more tokens than this for one answer makes no sense."""

_QUOTA = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "quota_exceeded",
    "insufficient_balance",
}
_FILTERS = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_UNKNOWN_MODEL_CODES = {"model_not_found", "deployment_not_found", "deploymentnotfound"}
# Only in a message that has the model's name: others may be about one input.
_UNKNOWN = re.compile(
    r"\bnot (?:be )?(?:exist|found)\b|\bunknown model\b(?! error)|\bis unknown\b|\binvalid model (?:name|id)\b"
    r"|\bno such model\b|\bnot a valid model\b",
    re.IGNORECASE,
)
_NAMELESS_UNKNOWN_MODEL = re.compile(r"(?:the )?model (?:does )?not (?:exist|found)\W*", re.IGNORECASE)
"""The whole message of services that do not repeat the name."""
_INPUT = re.compile(r"\b(?:image|video|picture|frame|media)(?:s|_urls?)?\b", re.IGNORECASE)
_NOT_READ = re.compile(r"\bnot (?:be )?found\b|fetch|download|load|open|decod|retriev|access|\bread\b", re.IGNORECASE)

_BROKEN_OFF = frozenset(("abort", "aborted", "cancelled", "canceled", "error", "failed"))
"""Finish reasons of an answer that the service has not finished; a server that stops gives them, too."""
_MAX_SAID = 300
"""Characters of a service's own message at most: there is room for what follows from it."""
_MAX_TARGET = 200


@dataclass(frozen=True)
class ErrorResponse:
    """A response that is no answer.

    headers: should ignore the case of names. body: as it came.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]


def read_json(body: bytes) -> object:
    """The value of a JSON body.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text in one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def answer_of(value: object) -> Answer:
    """The answer in the JSON value of a response with status 200.

    Raises:
        TryAgain: there is no usable answer in it, or only a part of one. The service may have charged it.
    """
    if not isinstance(value, dict):
        raise TryAgain(f"unusable answer: the JSON is {_kind(value)}, not an object")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise TryAgain("unusable answer: it has no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise TryAgain("unusable answer: its choice has no message")
    text, refusal = _content(message.get("content"))
    stated_refusal = message.get("refusal")
    if isinstance(stated_refusal, str) and stated_refusal:
        refusal = stated_refusal
    reason = choices[0].get("finish_reason")
    reason = well_formed(reason) if isinstance(reason, str) else ""
    if reason.strip().lower() in _BROKEN_OFF:
        raise TryAgain(one_line(f"the service broke off the answer (finish reason {reason!r})"))
    usage = _usage(value.get("usage"))
    return Answer(
        text=well_formed(text),
        finish_reason=reason,
        refusal=well_formed(refusal),
        prompt_tokens=usage[0] if usage else 0,
        completion_tokens=usage[1] if usage else 0,
        has_usage=usage is not None,
    )


def has_error(value: object) -> bool:
    """Whether the JSON value of a response states an error, which some services send with status 200."""
    return isinstance(value, dict) and bool(value.get("error")) and not value.get("choices")


def error_status(value: object) -> int:
    """The HTTP status in an error that came with status 200; 502 if it states none: the request may succeed later."""
    error = error_object(value)
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 502


def says_max_completion_tokens(response: ErrorResponse) -> bool:
    """Whether the model takes `max_completion_tokens` instead of `max_tokens`."""
    return response.status == 400 and b"max_tokens" in response.body and b"max_completion_tokens" in response.body


def problem_of(
    response: ErrorResponse, base_url: str, model: str, redacted: Callable[[str], str]
) -> TryAgain | RequestFailed | ServiceStop:
    """What an error response means.

    redacted: removes the key from a text of the service.
    """
    status = response.status
    error = error_object(_json_or_text(response.body))
    codes = _codes(error)
    said = one_line(redacted(error_message(error)), _MAX_SAID)
    text = f"HTTP {status}" + (f": {said}" if said else "")

    if status == 402 or codes & _QUOTA:
        return ServiceStop(one_line(f"{base_url}: the quota or the credit of the key is used up. {text}"))
    if is_filtered(error):
        return RequestFailed(one_line(f"blocked by a filter of the service. {text}"), BLOCKED)
    # Without the query: it may contain a token.
    target = one_line(redacted(response.headers.get("location", "").split("?")[0]), _MAX_TARGET)
    stop = _stop(status, target, base_url, model, codes, said)
    if stop:
        # The same command helps only after something else than the command was changed: the key and its rights.
        hint = RunError.hint if status in (401, 403) else "correct the command, and run it again"
        return ServiceStop(one_line(f"{stop} {text}"), hint)
    if status == 429:
        wait = retry_after(response.headers)
        return TryAgain(one_line(text), True, reset_hint(response.headers) if wait is None else wait)
    if status >= 500 and response.headers.get("x-should-retry", "").lower() == "false":
        return RequestFailed(one_line(text), SERVICE)  # the request does harm, or can't succeed
    if status in (408, 409, 425) or status >= 500:
        return TryAgain(one_line(text), False, retry_after(response.headers))
    return RequestFailed(one_line(text))


def _stop(status: int, target: str, base_url: str, model: str, codes: set[str], said: str) -> str:
    """Why no request can succeed, and what to do; empty if others may succeed. target: of a redirection."""
    if 300 <= status < 400:
        return f"{base_url} redirects to {target or 'another address'}: give that one as --base_url."
    if status == 401:
        return f"{base_url} does not accept the key: check the environment variable that --api_key_env names."
    if status == 403:
        return f"{base_url} does not allow the key to use model {model!r}: check --model and --api_key_env."
    is_about_input = _is_about_input(said, model)
    unknown_model = codes & _UNKNOWN_MODEL_CODES or (not is_about_input and _says_unknown_model(said, model))
    if unknown_model and status in (400, 404, 422):
        return f"{base_url} does not know model {model!r}: check --model."
    if status == 404 and not is_about_input:
        return f"{base_url}/chat/completions is not found, or model {model!r} is unknown: check --base_url, --model."
    return ""


def _says_unknown_model(said: str, model: str) -> bool:
    if _NAMELESS_UNKNOWN_MODEL.fullmatch(said):
        return True
    return bool(model and _name(model).search(said) and _UNKNOWN.search(said))


def _is_about_input(said: str, model: str) -> bool:
    """Whether a message is about an image or a video that could not be read, so that other requests may succeed."""
    without_name = _name(model).sub("", said) if model else said  # the name may be "video-llava"
    return bool(_INPUT.search(without_name) and _NOT_READ.search(without_name))


def _name(model: str) -> re.Pattern[str]:
    """Finds the name of the model, not as a part of a longer name."""
    return re.compile(rf"(?<![\w/-]){re.escape(model)}(?![\w/-]|\.\w)", re.IGNORECASE)


def is_filtered(error: Mapping[str, Any]) -> bool:
    """Whether a filter of the service blocked the request. error: of `error_object`."""
    inner = error.get("innererror")
    if isinstance(inner, dict) and str(inner.get("code", "")).lower() in _FILTERS:
        return True
    metadata = error.get("metadata")  # OpenRouter: status 403 with the reasons of the moderation
    return bool(_codes(error) & _FILTERS) or (isinstance(metadata, dict) and "flagged_input" in metadata)


def _json_or_text(body: bytes) -> object:
    try:
        return read_json(body)
    except ValueError:
        # An HTML page of a proxy: without its tags.
        return re.sub(r"<[^<>]*>", " ", body.decode("utf-8", "replace"))


def error_object(value: object) -> dict[str, Any]:
    """The object that describes the error in the JSON value of a response; services put it at different places."""
    if isinstance(value, list) and value:
        value = value[0]
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        return error
    return {"message": error if isinstance(error, str) else ""}


def error_message(error: Mapping[str, Any]) -> str:
    """What an error says; empty if it says nothing. error: of `error_object`."""
    for name in ("message", "detail", "error", "msg"):
        value = error.get(name)
        if isinstance(value, str) and value:
            return value
    return json.dumps(error, ensure_ascii=False) if any(name != "message" for name in error) else ""


def _codes(error: Mapping[str, Any]) -> set[str]:
    return {str(error.get(name)).lower() for name in ("code", "type", "status") if error.get(name) is not None}


def _content(content: object) -> tuple[str, str]:
    """Text and refusal of a message's content: nothing, a text, or parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TryAgain(f"unusable answer: its content is {_kind(content)}, not text")
    parts = [part for part in content if isinstance(part, dict)]
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    refusal = "".join(part["refusal"] for part in parts if isinstance(part.get("refusal"), str))
    return text, refusal


def _usage(usage: object) -> tuple[int, int] | None:
    """Prompt and completion tokens; None if they are missing or make no sense."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    return prompt, completion


def _count(value: object) -> int | None:
    # `True` is an int, too.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
