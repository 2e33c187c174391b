"""Who may use the server: the API key, and protection from pages of other web sites. Reads no body.

A server without a key listens on the loopback address only, but a browser on the same host could be made to send
requests by any web page that it shows. So without a key the `Host` must be a loopback address or `localhost` (a page
may point a name of its own at 127.0.0.1), and the `Origin`, if the browser sends one, must be the server itself.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import RequestError


class Guard:
    """ASGI middleware that answers 401 or 403 to requests which may not pass. key: empty for none."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except RequestError as error:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if path == "/health":
            return
        if not self._key:
            _check_browser(headers)
        elif path != "/" and not path.startswith("/page/"):
            self._check_key(headers)

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        if not (is_bearer and hmac.compare_digest(given.strip().encode("latin-1"), self._key)):
            what = "the API key is wrong" if is_bearer else "the request has no API key"
            raise RequestError(f"{what}; send the header Authorization: Bearer KEY", None, "invalid_api_key", 401)


def _check_browser(headers: Headers) -> None:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        message = "a server without an API key answers only if the Host header is localhost or a loopback address"
        raise RequestError(message, None, "forbidden_host", 403)
    origins = headers.getlist("origin")
    if origins and any(not _is_same(origin, hosts[0]) for origin in origins):
        message = "a server without an API key refuses requests that a page of another site sends"
        raise RequestError(message, None, "forbidden_origin", 403)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and rest.lower() == host.lower()
