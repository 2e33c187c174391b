"""Refuses redirects of a web server to another host, before a connection to it is made. Knows nothing about limits."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp
from yarl import URL

from .attempt import Refused


async def _check(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    """Called by aiohttp before it follows a redirect.

    Raises:
        Refused: the redirect leads to another host.
    """
    assert isinstance(params, aiohttp.TraceRequestRedirectParams)
    headers = params.response.headers
    location = headers.get("Location") or headers.get("URI")  # as aiohttp reads it
    if not location:
        return
    try:
        target = params.url.join(URL(location))
    except ValueError:  # aiohttp raises its own error
        return
    if target.scheme not in ("http", "https") or _is_same(params.url, target):
        return  # aiohttp refuses other schemes
    params.response.close()
    host = str(target.raw_host)[:100]
    raise Refused(f"the server redirects to another host, {host}:{target.port}, which is not followed")


def _is_same(url: URL, target: URL) -> bool:
    """Whether scheme, host and port are the same, or the target is the host's https at the default port."""
    if url.raw_host != target.raw_host:
        return False
    if (url.scheme, url.port) == (target.scheme, target.port):
        return True
    return (url.scheme, target.scheme) == ("http", "https") and url.is_default_port() and target.is_default_port()


SAME_HOST = aiohttp.TraceConfig()
"""For a session of aiohttp. One object, because fsspec recognises a session by its arguments."""
SAME_HOST.on_request_redirect.append(_check)
