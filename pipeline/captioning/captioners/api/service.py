"""The service, through the `openai` library: one completion, the list of models. Its own retries are off.

Only this module and `batch/` import the library. Knows nothing about pace, retries and clips.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from .answer import Answer
from .errors import RequestFailed, ServiceStop, TryAgain
from .requests import LargeFile, json_parts
from .responses import (
    ErrorResponse,
    answer_of,
    error_status,
    has_error,
    one_line,
    problem_of,
    read_json,
    says_max_completion_tokens,
)

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_OPENAI_HOST = "api.openai.com"
_NO_KEY = "EMPTY"  # The library refuses an empty key. Services without keys ignore it.
_LEAST_KEY = 8  # Shorter keys are no secrets, and could be a part of any word.
_CONNECT_TIMEOUT = 30.0
_MODELS_TIMEOUT = 30.0
# Below the 5 s after which uvicorn, the server of vLLM and SGLang, closes a connection: a request that is sent at the
# same moment would be lost.
_KEEPALIVE = 4.0
NETWORK_ERRORS = (openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError, OSError)
"""Errors of a call that got no response. The library does not convert all errors of its transports."""


class Service:
    """A service that speaks OpenAI's protocol. Use it in one event loop.

    The library reads organisation, project, key, headers and URL from `OPENAI_…` variables of the environment. They are
    hidden from it, so that nothing of them is sent to another service. Only with `api.openai.com`, `OPENAI_ORG_ID` and
    `OPENAI_PROJECT_ID` are used.

    client: the library's client, for its other calls. Errors of those calls: see `problem`.

    base_url: with the version, for example `http://localhost:8000/v1`. api_key: empty for none.
    timeout: of one request until its whole answer is here, in seconds.
    connections: requests that can be in flight at the same time.
    """

    def __init__(self, base_url: str, api_key: str, timeout: float, connections: int) -> None:
        self._base_url, self._key, self._timeout = base_url.rstrip("/"), api_key, timeout
        self._max_tokens_field = "max_tokens"
        for name in ("httpx2", "httpcore2"):  # They log every request.
            logging.getLogger(name).setLevel(logging.WARNING)
        official = urlsplit(base_url).hostname == _OPENAI_HOST
        organization = os.environ.get("OPENAI_ORG_ID") if official else None
        project = os.environ.get("OPENAI_PROJECT_ID") if official else None
        # The transport through aiohttp takes less than half the CPU time of the default one. The deadline of a request
        # is ours: a time-out of the transport begins anew with every byte that arrives.
        http_client = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEPALIVE
            ),
            timeout=httpx2.Timeout(None, connect=min(timeout, _CONNECT_TIMEOUT)),
            follow_redirects=False,  # A redirected POST becomes a GET.
        )
        with _openai_variables_hidden():
            self.client = openai.AsyncOpenAI(
                api_key=api_key or _NO_KEY,
                base_url=base_url,
                organization=organization,
                project=project,
                max_retries=0,
                timeout=httpx2.Timeout(None, connect=min(timeout, _CONNECT_TIMEOUT)),
                http_client=http_client,
            )

    async def complete(self, body: dict[str, Any]) -> Answer:
        """Ask for one completion. body: of `requests.body`; its large files are encoded while they are sent.

        A model that takes `max_completion_tokens` instead of `max_tokens` is asked again at once, and all later
        requests are sent with the other name.

        Raises:
            TryAgain, RequestFailed, ServiceStop: see their docstrings. No message contains the key. After a TryAgain
                because of a time-out or a cut connection, the service may have charged the request.
        """
        try:
            return await self._complete(_with_max_tokens_field(body, self._max_tokens_field))
        except _OtherMaxTokensField:
            if self._max_tokens_field == "max_tokens":
                self._max_tokens_field = "max_completion_tokens"
                logger.info("model %s takes max_completion_tokens instead of max_tokens", body.get("model"))
        return await self._complete(_with_max_tokens_field(body, self._max_tokens_field))

    async def models(self) -> list[str]:
        """The ids of the models that the service lists.

        Raises:
            ServiceStop: it can't be reached, or does not list models.
        """
        get = self.client.get("/models", cast_to=httpx2.Response)
        try:
            value = read_json((await self._within(get, min(self._timeout, _MODELS_TIMEOUT))).content)
            models = value.get("data") if isinstance(value, dict) else value
            if isinstance(models, list) and all(isinstance(model, dict) for model in models):
                return [model["id"] for model in models if isinstance(model.get("id"), str)]
            reason = "the answer is not a list of models"
        except openai.APIStatusError as error:
            if error.status_code in (401, 402):
                raise ServiceStop(str(self.problem(error))) from None
            reason = f"HTTP {error.status_code}"
        except (TryAgain, *NETWORK_ERRORS) as error:
            text = f"{self._base_url}/models gives no answer: {self._said(error)}. Check --base_url and the service."
            raise ServiceStop(one_line(self.redacted(text))) from None
        except ValueError:
            reason = "the answer is not JSON"
        text = f"{self._base_url}/models lists no models: {reason}. Check --base_url, or give --model."
        raise ServiceStop(one_line(self.redacted(text))) from None

    def problem(self, error: Exception, model: str = "") -> TryAgain | RequestFailed | ServiceStop:
        """What an error of the library or of the network means. No message contains the key."""
        if isinstance(error, openai.APIStatusError):
            response = ErrorResponse(error.status_code, error.response.content, error.response.headers)
            return problem_of(response, self._base_url, model, self.redacted)
        return TryAgain(self._said(error))

    def redacted(self, text: str) -> str:
        """The text without the key, and without a key that the service has shortened (`sk-ab***xyz`)."""
        if len(self._key) < _LEAST_KEY:
            return text
        text = text.replace(self._key, "[key]")
        return re.sub(re.escape(self._key[:3]) + r"[^\s*.…]*(?:\*+|\.{2,}|…)\S*", "[key]", text)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    async def _complete(self, body: dict[str, Any]) -> Answer:
        model = str(body.get("model", ""))
        parts = json_parts(body)
        headers = {"Content-Type": "application/json"}
        if len(parts) > 1:
            # Otherwise it would be sent in chunks without a length, which many proxies do not accept.
            headers["Content-Length"] = str(sum(map(len, parts)))
        # The cheapest way through the library: `chat.completions.create` walks over the body and builds objects.
        post = self.client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=_pieces(parts) if len(parts) > 1 else b"".join(_pieces_of(parts[0])),
            options={"headers": headers},
        )
        try:
            response = await self._within(post, self._timeout)
        except openai.APIStatusError as error:
            refused = ErrorResponse(error.status_code, error.response.content, error.response.headers)
            if says_max_completion_tokens(refused) and "max_tokens" in body:
                raise _OtherMaxTokensField from None
            raise self.problem(error, model) from None
        except NETWORK_ERRORS as error:
            raise self.problem(error, model) from None
        return self._answer(response, model)

    def _answer(self, response: httpx2.Response, model: str) -> Answer:
        try:
            value = read_json(response.content)
        except ValueError:
            text = one_line(self.redacted(response.content.decode("utf-8", "replace")), 100)
            raise TryAgain(f"unusable answer: it is not JSON: {text!r}") from None
        if has_error(value):
            failed = ErrorResponse(error_status(value), response.content, response.headers)
            raise problem_of(failed, self._base_url, model, self.redacted)
        return answer_of(value)

    async def _within(self, call: Awaitable[_T], seconds: float) -> _T:
        try:
            return await asyncio.wait_for(call, seconds)
        except asyncio.TimeoutError:
            raise TryAgain(f"no answer within {seconds:g} s (--timeout)") from None

    def _said(self, error: BaseException) -> str:
        """What the errors below an error of the library say: its own text is only "Connection error."."""
        texts: list[str] = []
        inner: BaseException | None = error
        while inner is not None:
            text = str(inner).strip() or type(inner).__name__
            # Repeated by the layers above; and a lost connection is called a time-out by the library.
            if text not in texts and text not in ("Connection error.", "Request timed out."):
                texts.append(text)
            inner = inner.__cause__ or inner.__context__
        return one_line(self.redacted("no connection: " + ": ".join(texts) if texts else "no connection"))


class _OtherMaxTokensField(Exception):
    """The model takes `max_completion_tokens` instead of `max_tokens`."""


def _with_max_tokens_field(body: dict[str, Any], field: str) -> dict[str, Any]:
    if field == "max_tokens" or "max_tokens" not in body:
        return body
    renamed = {name: value for name, value in body.items() if name != "max_tokens"}
    renamed.setdefault(field, body["max_tokens"])
    return renamed


async def _pieces(parts: Iterable[bytes | LargeFile]) -> AsyncIterator[bytes]:
    for part in parts:
        for piece in _pieces_of(part):
            yield piece
            await asyncio.sleep(0)  # a fast connection takes all pieces without a wait


def _pieces_of(part: bytes | LargeFile) -> Iterable[bytes]:
    return part.pieces() if isinstance(part, LargeFile) else (part,)


@contextlib.contextmanager
def _openai_variables_hidden() -> Iterator[None]:
    """Hide the variables of the environment from the library while it makes a client."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
