"""Ranks wait for each other outside of collectives, however long it takes.

A collective breaks when a rank is late (30 s on MindSpore's CPU backend), and ranks finish minutes or
hours apart. So rank 0 keeps a roster, served by the standard library's XML-RPC; every rank reports to
it from a thread of its own (its stage, its counts) and learns who else has come how far. A rank that
has been silent for ten minutes counts as dead.
"""

from __future__ import annotations

import logging
import secrets
import socketserver
import threading
import time
import xmlrpc.client
from dataclasses import dataclass, field
from typing import Any, Protocol
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from ..errors import RunError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
_PATIENCE_AFTER_VERDICT = 30.0
SILENCE_SECONDS = 600.0


@dataclass
class _Entry:
    stage: int = 0
    counts: tuple[int, ...] = ()
    broken: str = ""
    seen: float = field(default_factory=time.monotonic)


class Roster:
    """What every rank last reported. Lives on rank 0."""

    def __init__(self, world_size: int, silence: float = SILENCE_SECONDS) -> None:
        self._entries = [_Entry() for _ in range(world_size)]
        self._silence = silence
        self._lock = threading.Lock()
        self._verdict: dict[str, Any] = {}

    def beat(self, rank: int, stage: int, counts: list[int], broken: str) -> dict[str, Any]:
        """Note a rank's report; answers with the state of the run."""
        with self._lock:
            self._entries[rank] = _Entry(stage, tuple(counts), broken, time.monotonic())
            return self._state()

    def decide(self, verdict: dict[str, Any]) -> None:
        """Rank 0's word to all, delivered with the next answers."""
        with self._lock:
            self._verdict = verdict

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        stage = min(entry.stage for entry in self._entries)
        silent = [rank for rank, entry in enumerate(self._entries) if now - entry.seen > self._silence]
        broken = [f"rank {rank}: {entry.broken}" for rank, entry in enumerate(self._entries) if entry.broken]
        counts = [entry.counts for entry in self._entries if entry.counts]
        return {
            "stage": stage,
            "waiting_for": [rank for rank, entry in enumerate(self._entries) if entry.stage == stage][:8],
            "silent": silent,
            "broken": broken,
            "counts": [sum(column) for column in zip(*counts, strict=True)],
            "verdict": self._verdict,
        }


class _RosterLike(Protocol):
    def beat(self, rank: int, stage: int, counts: list[int], broken: str) -> Any: ...


class Rendezvous:
    """One rank's side: reports from a thread, and waits."""

    def __init__(self, rank: int, roster: _RosterLike, silence: float = SILENCE_SECONDS) -> None:
        self._rank = rank
        self._roster = roster
        self._silence = silence
        self._stage = 0
        self._counts: list[int] = []
        self._broken = ""
        self._state: dict[str, Any] = {}
        self._answered = time.monotonic()
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._report, name="rendezvous", daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Return when all ranks have called this as often as this one has.

        Raises:
            RunError: a rank broke or has been silent too long, or rank 0 is out of reach.
        """
        with self._guard:
            self._stage += 1
            wanted = self._stage
        begin, told = time.monotonic(), 0.0
        pause = 0.01
        while True:
            self._beat()
            state = self.state
            waited = time.monotonic() - begin
            if state.get("stage", 0) >= wanted:
                return
            if not state.get("verdict"):
                self.check()
            elif waited > _PATIENCE_AFTER_VERDICT:
                return  # all is decided and written; whoever is missing has left already
            if waited - told >= 60:
                told = waited
                logger.info("waiting for rank %s (%d s)", ", ".join(map(str, state.get("waiting_for", ()))), waited)
            time.sleep(pause)
            pause = min(2 * pause, BEAT_SECONDS)

    def depart(self, patience: float) -> None:
        """Say that this rank needs no more answers; rank 0 waits for all to say so, `patience` seconds at most."""
        with self._guard:
            self._stage += 1
            wanted = self._stage
        deadline = time.monotonic() + patience
        self._beat()
        while self._rank == 0 and self.state.get("stage", 0) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
            self._beat()

    def check(self) -> None:
        """Whether the run can still go on.

        Raises:
            RunError: as `meet`.
        """
        state = self.state
        if state.get("broken"):
            raise RunError("the run broke on " + "; ".join(state["broken"]))
        if state.get("silent"):
            ranks = ", ".join(map(str, state["silent"]))
            raise RunError(f"rank {ranks} has been silent for {self._silence:g} s")
        if time.monotonic() - self._answered > self._silence:
            raise RunError(f"rank 0 has been out of reach for {self._silence:g} s")

    @property
    def state(self) -> dict[str, Any]:
        """The last answer: counts summed over the ranks, stages, the verdict."""
        with self._guard:
            return self._state

    def report(self, *counts: int) -> None:
        """Set this rank's counts, which `state` sums over all ranks."""
        with self._guard:
            self._counts = list(counts)

    def report_broken(self, message: str) -> None:
        """Tell the others that this rank is giving up."""
        with self._guard:
            # XML can't hold control characters.
            self._broken = "".join(c if c.isprintable() else " " for c in message)[:1000]
        self._beat()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)

    def _report(self) -> None:
        while not self._closing.is_set():
            self._beat()
            self._closing.wait(BEAT_SECONDS)

    def _beat(self) -> None:
        with self._guard:
            arguments = (self._rank, self._stage, self._counts, self._broken)
        try:
            state = self._roster.beat(*arguments)
        except Exception as error:  # the network's, XML's or the other side's: this thread must live on
            logger.debug("rank 0 does not answer: %s", error)
            return
        with self._guard:
            self._state = state
            self._answered = time.monotonic()


class _ThreadingServer(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    """A connection that says nothing must not keep the others waiting."""

    daemon_threads = True
    request_queue_size = 256


class RosterServer:
    """Serves a roster over TCP to the run's own ranks: a path that only they know."""

    def __init__(self, roster: Roster, host: str) -> None:
        self.token = secrets.token_hex(16)
        settings = {"rpc_paths": (f"/{self.token}",), "timeout": 10}
        handler = type("Handler", (SimpleXMLRPCRequestHandler,), settings)
        self._server = _ThreadingServer((host, 0), handler, logRequests=False, allow_none=True)
        self._server.register_function(roster.beat)  # type: ignore[arg-type]  # any number of arguments
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="roster", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class RemoteRoster:
    """The roster as seen from another rank. A call takes at most a few seconds."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._url = f"http://{host}:{port}/{token}"

    def beat(self, rank: int, stage: int, counts: list[int], broken: str) -> Any:
        with xmlrpc.client.ServerProxy(self._url, transport=_Transport(), allow_none=True) as proxy:
            return proxy.beat(rank, stage, counts, broken)


class _Transport(xmlrpc.client.Transport):
    """Gives up on a dead host instead of waiting for TCP's own patience."""

    def make_connection(self, host):  # type: ignore[no-untyped-def]
        connection = super().make_connection(host)
        connection.timeout = 10
        return connection
