"""The state of the run over TCP: a server on rank 0, and what the other ranks see of it.

Each rank keeps one connection open. A request is one line of JSON, an answer as well. The first line of a connection is
the run's token; whoever does not know it is turned away.
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
"""For an answer of rank 0, beside the time that it may wait."""
_BACKLOG = 1024
_SPARE_FILES = 256


class HeartbeatServer:
    """Serves a state of the run to the run's own ranks, from a thread.

    It listens on all interfaces, of both versions of IP: the name by which other hosts know this one may mean the
    loopback address here.
    """

    def __init__(self, state: RunState, world_size: int) -> None:
        self.token = secrets.token_hex(16)
        self._state = state
        self._answer = (Snapshot(), b"")
        _allow_files(world_size + _SPARE_FILES)
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
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection that breaks, or says what is no request, ends alone.
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
            return _line(self._state.lease(*values).to_json())
        report, known, seconds = values
        snapshot = self._state.beat(RankStatus.from_json(report))
        if snapshot.version == known:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
            snapshot = self._state.snapshot
        if self._answer[0] is not snapshot:
            self._answer = snapshot, _line(snapshot.to_json())
        return self._answer[1]


class RemoteRunState:
    """The state of the run as seen from another rank. Safe for threads.

    A call raises OSError or ValueError if rank 0 is out of reach; the next one connects anew.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self._address, self._token = (host, port), token
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def beat(self, report: RankStatus, known: int | None = None, seconds: float = 0.0) -> Snapshot:
        return Snapshot.from_json(self._call(["beat", report.to_json(), known, seconds], seconds))

    def lease(self, rank: int, number: int, kind: str) -> Lease:
        return Lease.from_json(self._call(["lease", rank, number, kind]))

    def close(self) -> None:
        if self._socket is not None:
            self._lines.close()
            self._socket.close()
            self._socket = None

    def _call(self, request: list[Any], seconds: float = 0.0) -> Any:
        with self._lock:
            try:
                if self._socket is None:
                    self._connect()
                assert self._socket is not None
                self._socket.settimeout(CALL_SECONDS + seconds)
                self._socket.sendall(_line(request))
                line = self._lines.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionError("rank 0 has closed the connection")
                return json.loads(line)
            except (OSError, ValueError):
                self.close()
                raise

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, CALL_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")
        self._socket.sendall(self._token.encode() + b"\n")


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _allow_files(wanted: int) -> None:
    """A process may often open 1,024 files only, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
