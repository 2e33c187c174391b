"""Ranks wait for slow ranks, fail if a rank is dead, and lease rows, on rank 0 itself and over TCP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.captioning.process.errors import RunError
from pipeline.captioning.process.watchdog import Watchdog
from pipeline.captioning.workers.heartbeat import Heartbeat, beat_interval
from pipeline.captioning.workers.heartbeat_server import HeartbeatServer, RemoteRunState
from pipeline.captioning.workers.leases import PENDING, RowPool, RowTask
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


def test_a_barrier_over_tcp_waits_for_a_late_rank() -> None:
    state = RunState(2)
    with _served(state) as server, _heartbeat(0, state) as local, _heartbeat(1, _remote(server)) as remote:

        def reach_barrier_late() -> None:
            time.sleep(1.5)
            remote.report_counts(3, 1)
            remote.barrier()

        thread = threading.Thread(target=reach_barrier_late)
        thread.start()
        begin = time.monotonic()
        local.report_counts(2, 0)
        local.barrier()
        assert time.monotonic() - begin >= 1.4
        thread.join()
        assert local.snapshot.counts == (5, 1)
        state.decide(3)
        other = threading.Thread(target=local.barrier)
        other.start()
        remote.barrier()
        other.join()
        assert remote.exit_code() == 3


def test_a_barrier_ends_immediately_for_ranks_with_rare_heartbeats() -> None:
    """With 1,024 ranks a rank sends a heartbeat every 8 s, but a barrier must not take that long."""
    assert beat_interval(1024) == 8
    state = RunState(2)
    with _served(state) as server, _heartbeat(1, _remote(server), interval=90.0) as remote:
        thread = threading.Thread(target=remote.barrier)
        thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        state.beat(RankStatus(0, barriers=1))
        thread.join()
        assert time.monotonic() - begin < 30


def test_a_silent_rank_counts_as_dead() -> None:
    with (
        _heartbeat(0, RunState(2, silence=0.3), silence=0.3) as waiting,
        pytest.raises(RunError, match=r"rank 1 has been silent for 0\.3 s"),
    ):
        waiting.barrier()


def test_a_failed_rank_ends_the_wait_at_a_barrier() -> None:
    state = RunState(2)
    with _heartbeat(0, state) as waiting, _heartbeat(1, state) as failed:
        failed.report_failure("RunError: disk full")
        with pytest.raises(RunError, match="rank 1: RunError: disk full"):
            waiting.barrier()


def test_a_stalled_rank_that_its_supervisor_did_not_end_fails_the_run() -> None:
    """Its thread still sends heartbeats, but its work makes no progress."""
    state = RunState(2)
    with _heartbeat(0, state) as waiting:
        state.beat(RankStatus(1, since_progress=(20.0, 30.0)))
        time.sleep(1.1)
        waiting.report_counts(0)
        assert waiting._beat() and waiting.snapshot.late == ((1, 20),)
        waiting.check()
        state.beat(RankStatus(1, since_progress=(31.0 + STALL_GRACE_SECONDS, 30.0)))
        with pytest.raises(RunError, match="rank 1 makes no progress"):
            waiting.barrier()


def test_heartbeats_contain_the_time_since_the_last_progress() -> None:
    state, watchdog = RunState(1), Watchdog()
    watchdog.timeout = 60.0
    with _heartbeat(0, state, watchdog=watchdog) as heartbeat:
        assert watchdog.since_progress() is None, "not measured while loading"
        watchdog.progress()
        time.sleep(0.2)
        heartbeat._beat()
        status = state._ranks[0].status
        assert status.since_progress is not None and 0.2 <= status.since_progress[0] < 5
        assert status.since_progress[1] == 60.0
        heartbeat.barrier()
        assert watchdog.since_progress() is None, "not measured while waiting for other ranks"


def test_an_old_heartbeat_that_arrives_late_changes_nothing() -> None:
    state = RunState(1)
    assert state.beat(RankStatus(0, barriers=2)).barriers == 2
    assert state.beat(RankStatus(0, barriers=1)).barriers == 2


def test_a_rank_fails_if_rank_0_is_out_of_reach() -> None:
    with _served(RunState(2)) as server:
        remote = _remote(server)
    with (
        _heartbeat(1, remote, silence=0.3) as lost,
        pytest.raises(RunError, match="rank 0 has been out of reach"),
    ):
        lost.barrier()


def test_invalid_requests_and_idle_connections_do_not_stop_the_server() -> None:
    with _served(RunState(2)) as server:
        idle = socket.create_connection(("127.0.0.1", server.port))
        invalid = socket.create_connection(("127.0.0.1", server.port))
        invalid.sendall(server.token.encode() + b'\n["lease"]\nno json\n')
        with _heartbeat(1, _remote(server)) as failed:
            begin = time.monotonic()
            failed.report_failure("died:\x1b[31m red \0")
            assert time.monotonic() - begin < 30
            assert failed.snapshot.failures == ("rank 1: died: [31m red  ",)
        idle.close()
        invalid.close()


def test_a_connection_with_a_wrong_token_is_closed() -> None:
    state = RunState(1)
    with _served(state) as server:
        with pytest.raises(ConnectionError):
            RemoteRunState("127.0.0.1", server.port, "guess").beat(RankStatus(0, barriers=9))
        assert state.beat(RankStatus(0)).barriers == 0


def test_a_rank_connects_again_after_a_lost_connection_and_loses_no_row() -> None:
    state = RunState(1)
    state.offer(RowPool(lambda row: RowTask(row, "abc"[row]), {PENDING: [0, 1, 2]}, 2))
    with _served(state) as server:
        remote = _remote(server)
        with _heartbeat(0, remote, interval=60.0) as heartbeat:
            assert heartbeat.lease(PENDING).rows == [RowTask(0, "a")]
            # The answer to this request is lost, so the next request gets the same rows.
            assert state.lease(0, 2, PENDING).rows == [RowTask(1, "b")]
            remote._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            assert heartbeat.lease(PENDING).rows == [RowTask(1, "b")]
            assert heartbeat.lease(PENDING).rows == [RowTask(2, "c")]
            assert heartbeat.lease(PENDING).rows == []


def test_the_server_accepts_connections_on_any_address_of_its_host() -> None:
    """The host name of rank 0 may stand for 127.0.1.1 on its own host, and for another address on other hosts."""
    with _served(RunState(1)) as server:
        for address in ("127.0.1.1", "127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])):
            remote = RemoteRunState(address, server.port, server.token)
            assert remote.beat(RankStatus(0)).barriers == 0
            remote.close()
