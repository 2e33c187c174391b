"""The errors that a client sees: their status codes, in the form of OpenAI's protocol. Knows no endpoint."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..messages import Failed, Problem

_RESTART_SECONDS = 10
"""After which a server that is ending may have been started again."""
_TYPES = {401: "authentication_error", 403: "permission_error"}


class RequestError(Exception):
    """A request that is refused or failed.

    status: of HTTP. param: the field of the request that is the cause. code: a word for programs.
    retry_after: seconds; 0 for no such header. outcome: the label in the metrics.
    must_not_repeat: the same request would do harm again; the `openai` library obeys the header that says so.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_after: int = 0,
        outcome: str = "refused",
        must_not_repeat: bool = False,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.outcome = outcome
        self.must_not_repeat = must_not_repeat

    def body(self) -> dict[str, object]:
        """The error in OpenAI's form."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        param = None if self.param is None else _writable(self.param)
        return {"error": {"message": _writable(str(self)), "type": kind, "param": param, "code": self.code}}

    def response(self) -> Response:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.must_not_repeat:
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def _writable(text: str) -> str:
    """A text that may quote the client, without half characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ClientGone(Exception):
    """The client closed the connection, or does not read the answer; nobody waits for a response."""


def busy(message: str, retry_after: int) -> RequestError:
    """The server has no room for the request at present."""
    return RequestError(message, None, "queue_full", 503, max(1, retry_after), "queue_full")


def not_read() -> RequestError:
    """The client did not read the response until the time was over."""
    return RequestError("the response was not read in time", None, "request_timeout", 504, outcome="disconnected")


def error_of(failed: Failed) -> RequestError:
    """The error of a question that has no answer."""
    outcome = failed.problem.value
    if failed.problem is Problem.DEVICE:
        return RequestError(failed.message, None, "device_error", 503, 0, outcome, must_not_repeat=True)
    if failed.problem is Problem.SHUTDOWN:
        return RequestError(failed.message, None, "shutting_down", 503, _RESTART_SECONDS, outcome)
    if failed.problem is Problem.MODEL:
        return RequestError(failed.message, None, "model_error", 500, 0, outcome, must_not_repeat=True)
    if failed.problem is Problem.TOO_LONG:
        return RequestError(_too_long(failed.message), "messages", "context_length_exceeded", 400, 0, outcome)
    code = "invalid_media" if failed.problem is Problem.MEDIA else "invalid_prompt"
    return RequestError(failed.message, "messages", code, 400, 0, outcome)


def _too_long(message: str) -> str:
    """The numbers of a message about lengths, with advice in the words of a request instead of flags."""
    numbers = message.partition(": use ")[0].replace("--max_new_tokens", "max_tokens").replace("--", "")
    return f"{numbers}; send fewer or smaller frames, a shorter question, or a lower max_tokens"


async def http_exception(request: Request, error: Exception) -> Response:
    """The response to an `HTTPException` of Starlette: unknown paths and wrong methods."""
    status: int = getattr(error, "status_code", 500)
    messages = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(status)
    response = RequestError(messages.get(status, str(error)), None, code, status).response()
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def internal_error() -> RequestError:
    """An error of the server's own code; its details are in the log alone."""
    return RequestError(
        "the server failed to answer; its log says why", None, "internal_error", 500, outcome="internal_error"
    )
