"""Transfers the run state over TCP: a server on rank 0, and a client on each other rank.

Each rank keeps one connection open. A request is one line of JSON, and so is an answer. The first line of a connection
is the run's token; the server closes a connection that does not send it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import secrets
import socket
import threading
from typing import Any

from .leases import Lease
from .run_state import RankStatus, RunState, Snapshot

CALL_SECONDS = 10.0
"""Timeout for an answer of rank 0, in addition to the time that the request allows rank 0 to wait."""
_BACKLOG = 1024
_SPARE_FILES = 256


class HeartbeatServer:
    """Serves the run state to the ranks of the run, from a thread.

    It listens on all interfaces, for IPv4 and IPv6: the host name by which other hosts reach this host may stand for a
    loopback address here.

    port, token: what `RemoteRunState` needs to connect.
    """

    def __init__(self, state: RunState, world_size: int) -> None:
        self.token = secrets.token_hex(16)
        self._state = state
        self._encoded = (Snapshot(), b"")
        _raise_open_files_limit(world_size + _SPARE_FILES)
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        dual = family == socket.AF_INET6
        listener = socket.create_server(("", 0), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
        self.port: int = listener.getsockname()[1]
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        state.on_change(self._notify)
        self._thread = threading.Thread(target=self._run, name="heartbeat-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake_waiting)

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A lost connection or an invalid request ends this connection only, not the server.
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError, TypeError, asyncio.CancelledError):
            token = await asyncio.wait_for(reader.readline(), CALL_SECONDS)
            if not secrets.compare_digest(token.strip(), self.token.encode()):
                return
            while line := await reader.readline():
                writer.write(await self._reply(json.loads(line)))
                await writer.drain()

    async def _reply(self, request: list[Any]) -> bytes:
        kind, *values = request
        if kind == "lease":
            return _encode(self._state.lease(*values).to_json())
        status, known_version, wait_seconds = values
        snapshot = self._state.beat(RankStatus.from_json(status))
        if snapshot.version == known_version:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_seconds)
            snapshot = self._state.snapshot
        if self._encoded[0] is not snapshot:
            self._encoded = snapshot, _encode(snapshot.to_json())
        return self._encoded[1]


class RemoteRunState:
    """The run state of rank 0, on another rank. Thread-safe.

    A call raises OSError or ValueError if rank 0 does not answer or its answer is invalid. The next call then connects
    again.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self._address, self._token = (host, port), token
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def beat(self, status: RankStatus, known_version: int | None = None, wait_seconds: float = 0.0) -> Snapshot:
        return Snapshot.from_json(self._call(["beat", status.to_json(), known_version, wait_seconds], wait_seconds))

    def lease(self, rank: int, request_number: int, kind: str) -> Lease:
        return Lease.from_json(self._call(["lease", rank, request_number, kind]))

    def close(self) -> None:
        if self._socket is not None:
            self._reader.close()
            self._socket.close()
            self._socket = None

    def _call(self, request: list[Any], wait_seconds: float = 0.0) -> Any:
        with self._lock:
            try:
                if self._socket is None:
                    self._connect()
                assert self._socket is not None
                self._socket.settimeout(CALL_SECONDS + wait_seconds)
                self._socket.sendall(_encode(request))
                line = self._reader.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionError("rank 0 has closed the connection")
                return json.loads(line)
            except (OSError, ValueError):
                self.close()
                raise

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, CALL_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self._socket.sendall(self._token.encode() + b"\n")


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _raise_open_files_limit(wanted: int) -> None:
    """The default limit is often 1,024 open files, and a process may raise it to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
