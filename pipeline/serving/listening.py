"""The address and the key of the server: checks both, and opens the socket on which it listens."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping

from ..captioning.process.errors import UsageError

_BACKLOG = 2048


def read_key(variable: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The key that clients must send; empty for none. variable: of --api_key_env; None if it is not given.

    Raises:
        UsageError: the variable is missing or empty, or a client could not send its value in a header.
    """
    if variable is None:
        return ""
    key = environment.get(variable, "")
    if not key:
        state = "is empty" if variable in environment else "is not set"
        raise UsageError(f"--api_key_env {variable}: the environment variable {state}; export it with the key")
    if not all("!" <= character <= "~" for character in key):
        raise UsageError(
            f"--api_key_env {variable}: the key contains a space or a character that is not ASCII, which no client "
            "can send; export another key"
        )
    return key


def listen(host: str, port: int, has_key: bool) -> socket.socket:
    """Open the socket of the server. port: 0 for any free one.

    Raises:
        UsageError: the host has no such address, it is not a loopback address and there is no key, or the port can't
            be used.
    """
    family, address = _resolve(host, port)
    if not has_key and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            f"--host {host}: without a key the server listens on the loopback address only; give --api_key_env, or "
            "--host 127.0.0.1"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # At once: another server could be bound to the same port without listening yet.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        fix = "give another --host" if error.errno == errno.EADDRNOTAVAIL else "give another --port"
        cause = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used: {error.strerror}"
        raise UsageError(f"port {port} of {host} {cause}; {fix}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The address of the server, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The first address of a host, of IPv4 if it has one."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: there is no such address: {error}; give an address of this host") from error
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address  # type: ignore[return-value]  # of IPv6: with two more numbers
