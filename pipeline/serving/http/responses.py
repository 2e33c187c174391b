"""The forms of an answer: chat completions, whole and in chunks, and captions. Knows no question and no connection."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..messages import Done

JsonObject = Mapping[str, Any]


class AnswerForm(Protocol):
    """How an answer is written. Each event becomes one event of a stream."""

    def whole(self, done: Done) -> JsonObject:
        """The answer as one object."""

    def first_events(self) -> Iterator[JsonObject | str]:
        """Events before the text."""

    def text_event(self, text: str) -> JsonObject:
        """A part of the text."""

    def last_events(self, done: Done) -> Iterator[JsonObject | str]:
        """Events after the text."""


class ChatForm:
    """OpenAI's `chat.completion` and `chat.completion.chunk`. includes_usage: the last chunk is the usage."""

    def __init__(self, model: str, includes_usage: bool) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(16)}"
        self._model = model
        self._created = int(time.time())
        self._includes_usage = includes_usage

    def whole(self, done: Done) -> JsonObject:
        message = {"role": "assistant", "content": done.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason.value}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(done)}

    def first_events(self) -> Iterator[JsonObject | str]:
        yield self._chunk({"role": "assistant", "content": ""})

    def text_event(self, text: str) -> JsonObject:
        return self._chunk({"content": text})

    def last_events(self, done: Done) -> Iterator[JsonObject | str]:
        yield self._chunk({}, done.finish_reason.value)
        if self._includes_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(done)}
        yield "[DONE]"

    def _chunk(self, delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [choice], **({"usage": None} if self._includes_usage else {})}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


class CaptionForm:
    """The answer of `POST /caption`. file: the names of the files, as the client sent them."""

    def __init__(self, file: str) -> None:
        self._file = file

    def whole(self, done: Done) -> JsonObject:
        reason = done.finish_reason.value
        return {"file": self._file, "caption": done.text, "finish_reason": reason, "usage": usage(done)}

    def first_events(self) -> Iterator[JsonObject | str]:
        return iter(())

    def text_event(self, text: str) -> JsonObject:
        return {"text": text}

    def last_events(self, done: Done) -> Iterator[JsonObject | str]:
        yield self.whole(done)


def usage(done: Done) -> JsonObject:
    """OpenAI's `usage` of an answer."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


def event_bytes(data: JsonObject | str, name: str = "") -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{f'event: {name}' + chr(10) if name else ''}data: {text}\n\n".encode()
