"""Downloads by HTTP: the file system of fsspec for http and https, and what its errors mean."""

from __future__ import annotations

import os
import re
import socket
from http import HTTPStatus
from typing import Any

import aiohttp
import fsspec

from .attempt import Failure, Progress, Refused, is_temporary_status
from .limits import DownloadLimits
from .redirects import SAME_HOST

_PLAIN = ("", "identity", "aws-chunked")
"""Values of Content-Encoding with which the content is the file. Some S3 servers keep the last one from the upload."""
_ENCODED_URL = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")


def file_system(url: str, limits: DownloadLimits) -> Any:
    """The file system that fetches `url`; fsspec keeps it, with its connections, for the next URL."""
    return fsspec.filesystem(
        "http",
        # A URL that needs no quoting is sent as it is, because a signature may cover its exact characters.
        encoded=_ENCODED_URL.fullmatch(url) is not None,
        client_kwargs={
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=limits.stall, sock_read=limits.stall),
            "trust_env": True,  # proxies, and passwords in .netrc, as curl does with its usual settings
            # A clip is stored as it is received, so that its size can be compared with the announced one.
            "headers": {"Accept-Encoding": "identity"},
            "auto_decompress": False,
            "trace_configs": [SAME_HOST] if limits.same_host else [],
        },
    )


def arguments(progress: Progress) -> dict[str, Any]:
    """Arguments of `get_file` for one attempt, which `progress` counts."""

    async def check(response: aiohttp.ClientResponse) -> None:
        _check_answer(response)
        progress.has_known_end = response.headers.get("Transfer-Encoding", "").lower() == "chunked"

    return {"chunk_size": 2**18, "raise_for_status": check}  # aiohttp calls it before the content is read


def _check_answer(response: aiohttp.ClientResponse) -> None:
    """
    Raises:
        Refused: the content would not be the file.
    """
    if response.status >= 400:  # fsspec raises an error
        return
    if response.status == HTTPStatus.PARTIAL_CONTENT and "Range" not in response.request_info.headers:
        raise Refused("the server sent a part of the file only (HTTP 206), although the whole file was requested")
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _PLAIN:
        raise Refused(
            f"the server sent the file compressed (Content-Encoding: {encoding[:40]}), which was not requested"
        )


def failure(error: BaseException | None, limits: DownloadLimits) -> Failure | None:
    """What an error of aiohttp means; None if it is another error.

    The texts of aiohttp's errors are avoided where they contain the URL.
    """
    if isinstance(error, FileNotFoundError):
        return Failure(_status_text(404))
    if isinstance(error, aiohttp.TooManyRedirects):
        return Failure("too many redirects")
    if isinstance(error, aiohttp.ClientResponseError):
        return Failure(_status_text(error.status), is_temporary_status(error.status), _retry_after(error))
    if isinstance(error, aiohttp.NonHttpUrlRedirectClientError):
        scheme = str(error).partition(":")[0]
        return Failure(f"the server redirects to {scheme}:, and only redirects to http:// and https:// are followed")
    if isinstance(error, aiohttp.RedirectClientError):
        return Failure("the server redirects to something that is not a URL")
    if isinstance(error, aiohttp.InvalidURL):
        return Failure("not a URL")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Failure(f"no connection within {limits.stall:g} s", is_temporary=True)
    if isinstance(error, aiohttp.ServerTimeoutError):
        return Failure(f"no data for {limits.stall:g} s", is_temporary=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Failure("the connection was cut", is_temporary=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        is_unknown = isinstance(error.os_error, socket.gaierror) and error.os_error.errno == socket.EAI_NONAME
        return Failure(f"the host {error.host} is not found", not is_unknown)
    if isinstance(error, aiohttp.ClientSSLError):
        return Failure(f"no secure connection to {error.host}", detail=str(error.os_error or error))
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
        return Failure(f"no connection to {error.host}:{error.port}", is_temporary=True, detail=reason)
    if isinstance(error, aiohttp.ClientConnectionError):
        return Failure("the connection was cut", is_temporary=True, detail=str(error))
    if isinstance(error, aiohttp.ClientError):
        return Failure(type(error).__name__, detail=str(error))
    return None


def _status_text(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _retry_after(error: aiohttp.ClientResponseError) -> float:
    """Seconds that the server asks to wait; 0.0 if it does not say, or gives a date."""
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return float(text) if text.isascii() and text.isdigit() else 0.0
