"""Ranks wait for slow ones, give up on dead ones, and lease rows, near and over TCP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.captioning.process.errors import RunError
from pipeline.captioning.process.watchdog import Watchdog
from pipeline.captioning.workers.heartbeat import Heartbeat, beat_seconds
from pipeline.captioning.workers.heartbeat_server import HeartbeatServer, RemoteRunState
from pipeline.captioning.workers.leases import PENDING, RowPool
from pipeline.captioning.workers.run_state import STALL_GRACE_SECONDS, RankStatus, RunState


@contextmanager
def _served(state: RunState) -> Iterator[HeartbeatServer]:
    server = HeartbeatServer(state, 2)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def _heartbeat(*args: object, **kwargs: object) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(*args, **kwargs)  # type: ignore[arg-type]
    try:
        yield heartbeat
    finally:
        heartbeat.close()


def _remote(server: HeartbeatServer) -> RemoteRunState:
    return RemoteRunState("127.0.0.1", server.port, server.token)


def test_over_tcp_all_meet_however_late() -> None:
    state = RunState(2)
    with _served(state) as server, _heartbeat(0, state) as near, _heartbeat(1, _remote(server)) as far:

        def late() -> None:
            time.sleep(1.5)
            far.report(3, 1)
            far.barrier()

        thread = threading.Thread(target=late)
        thread.start()
        begin = time.monotonic()
        near.report(2, 0)
        near.barrier()
        assert time.monotonic() - begin >= 1.4
        thread.join()
        assert near.snapshot.counts == (5, 1)
        state.decide(3)
        other = threading.Thread(target=near.barrier)
        other.start()
        far.barrier()
        other.join()
        assert far.exit_code() == 3


def test_a_barrier_opens_at_once_for_ranks_that_beat_seldom() -> None:
    """At 1,024 ranks a rank beats every eighth second; nobody waits so long for a barrier."""
    assert beat_seconds(1024) == 8
    state = RunState(2)
    with _served(state) as server, _heartbeat(1, _remote(server), seconds=30.0) as far:
        thread = threading.Thread(target=far.barrier)
        thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        state.beat(RankStatus(0, stage=1))
        thread.join()
        assert time.monotonic() - begin < 5


def test_a_silent_rank_is_taken_for_dead() -> None:
    with (
        _heartbeat(0, RunState(2, silence=0.3), silence=0.3) as waiting,
        pytest.raises(RunError, match=r"rank 1 has been silent for 0\.3 s"),
    ):
        waiting.barrier()


def test_a_broken_rank_ends_the_wait() -> None:
    state = RunState(2)
    with _heartbeat(0, state) as waiting, _heartbeat(1, state) as broken:
        broken.report_failure("RunError: disk full")
        with pytest.raises(RunError, match="rank 1: RunError: disk full"):
            waiting.barrier()


def test_a_rank_that_no_supervisor_has_ended_ends_the_run() -> None:
    """Its thread still beats, but what it does stands still."""
    state = RunState(2)
    with _heartbeat(0, state) as waiting:
        state.beat(RankStatus(1, stalled=(20.0, 30.0)))
        time.sleep(1.1)
        waiting.report(0)
        assert waiting._beat() and waiting.snapshot.late == ((1, 20),)
        waiting.check()
        state.beat(RankStatus(1, stalled=(31.0 + STALL_GRACE_SECONDS, 30.0)))
        with pytest.raises(RunError, match="rank 1 makes no progress"):
            waiting.barrier()


def test_heartbeats_tell_for_how_long_there_was_no_progress() -> None:
    state, watchdog = RunState(1), Watchdog()
    watchdog.timeout = 60.0
    with _heartbeat(0, state, watchdog=watchdog) as heartbeat:
        assert watchdog.stalled() is None, "loading is no stall"
        watchdog.progress()
        time.sleep(0.2)
        heartbeat._beat()
        report = state._ranks[0].report
        assert report.stalled is not None and 0.2 <= report.stalled[0] < 5 and report.stalled[1] == 60.0
        heartbeat.barrier()
        assert watchdog.stalled() is None, "waiting for others is no stall"


def test_a_report_that_comes_late_takes_nothing_back() -> None:
    state = RunState(1)
    assert state.beat(RankStatus(0, stage=2)).stage == 2
    assert state.beat(RankStatus(0, stage=1)).stage == 2


def test_rank_zero_out_of_reach() -> None:
    with _served(RunState(2)) as server:
        remote = _remote(server)
    with (
        _heartbeat(1, remote, silence=0.3) as lost,
        pytest.raises(RunError, match="rank 0 has been out of reach"),
    ):
        lost.barrier()


def test_neither_odd_messages_nor_idle_connections_stop_the_server() -> None:
    with _served(RunState(2)) as server:
        idle = socket.create_connection(("127.0.0.1", server.port))
        odd = socket.create_connection(("127.0.0.1", server.port))
        odd.sendall(server.token.encode() + b'\n["lease"]\nno json\n')
        with _heartbeat(1, _remote(server)) as broken:
            begin = time.monotonic()
            broken.report_failure("died:\x1b[31m red \0")
            assert time.monotonic() - begin < 5
            assert broken.snapshot.broken == ("rank 1: died: [31m red  ",)
        idle.close()
        odd.close()


def test_strangers_are_turned_away() -> None:
    state = RunState(1)
    with _served(state) as server:
        with pytest.raises(ConnectionError):
            RemoteRunState("127.0.0.1", server.port, "guess").beat(RankStatus(0, stage=9))
        assert state.beat(RankStatus(0)).stage == 0


def test_a_lost_connection_is_made_again_and_loses_no_row() -> None:
    state = RunState(1)
    state.offer(RowPool(["a", "b", "c"], {PENDING: [0, 1, 2]}, 2))
    with _served(state) as server:
        remote = _remote(server)
        with _heartbeat(0, remote, seconds=60.0) as heartbeat:
            assert heartbeat.lease(PENDING).rows == [(0, "a")]
            # The answer is lost on its way: the rows are given again.
            assert state.lease(0, 2, PENDING).rows == [(1, "b")]
            remote._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            assert heartbeat.lease(PENDING).rows == [(1, "b")]
            assert heartbeat.lease(PENDING).rows == [(2, "c")]
            assert heartbeat.lease(PENDING).rows == []


def test_the_server_is_reached_by_any_address_of_its_host() -> None:
    """The master's name may mean 127.0.1.1 on its own host, and another address elsewhere."""
    with _served(RunState(1)) as server:
        for address in ("127.0.1.1", "127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])):
            remote = RemoteRunState(address, server.port, server.token)
            assert remote.beat(RankStatus(0)).stage == 0
            remote.close()
