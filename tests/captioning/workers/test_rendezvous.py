"""Ranks wait for slow ones and give up on dead ones."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from pipeline.captioning.errors import RunError
from pipeline.captioning.workers.rendezvous import RemoteRoster, Rendezvous, Roster, RosterServer


def test_over_tcp_all_meet_however_late() -> None:
    roster = Roster(2)
    server = RosterServer(roster, "127.0.0.1")
    near = Rendezvous(0, roster)
    far = Rendezvous(1, RemoteRoster("127.0.0.1", server.port, server.token))
    arrived: list[float] = []

    def late() -> None:
        time.sleep(1.5)
        far.report(3, 1)
        far.meet()

    thread = threading.Thread(target=late)
    thread.start()
    begin = time.monotonic()
    near.report(2, 0)
    near.meet()
    arrived.append(time.monotonic() - begin)
    thread.join()
    assert arrived[0] >= 1.4
    assert near.state["counts"] == [5, 1]
    roster.decide({"exit_code": 0})
    other = threading.Thread(target=near.meet)
    other.start()
    far.meet()
    other.join()
    assert far.state["verdict"] == {"exit_code": 0}
    for side in (near, far):
        side.close()
    server.close()


def test_a_silent_rank_is_taken_for_dead() -> None:
    roster = Roster(2, silence=0.3)
    waiting = Rendezvous(0, roster, silence=0.3)
    with pytest.raises(RunError, match=r"rank 1 has been silent for 0\.3 s"):
        waiting.meet()
    waiting.close()


def test_a_broken_rank_ends_the_wait() -> None:
    roster = Roster(2)
    waiting, broken = Rendezvous(0, roster), Rendezvous(1, roster)
    broken.report_broken("RunError: disk full")
    with pytest.raises(RunError, match="rank 1: RunError: disk full"):
        waiting.meet()
    waiting.close()
    broken.close()


def test_rank_zero_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RosterServer(Roster(2), "127.0.0.1")
    port, token = server.port, server.token
    server.close()
    lost = Rendezvous(1, RemoteRoster("127.0.0.1", port, token), silence=0.3)
    with pytest.raises(RunError, match="rank 0 has been out of reach"):
        lost.meet()
    lost.close()


def test_neither_odd_messages_nor_idle_connections_stop_the_roster() -> None:
    server = RosterServer(Roster(2), "127.0.0.1")
    with socket.create_connection(("127.0.0.1", server.port)):  # says nothing
        broken = Rendezvous(1, RemoteRoster("127.0.0.1", server.port, server.token))
        begin = time.monotonic()
        broken.report_broken("died:\x1b[31m red \0")
        assert time.monotonic() - begin < 5
        assert broken.state["broken"] == ["rank 1: died: [31m red  "]
    broken.close()
    server.close()


def test_strangers_are_turned_away() -> None:
    server = RosterServer(Roster(1), "127.0.0.1")
    with pytest.raises(Exception, match="404"):
        RemoteRoster("127.0.0.1", server.port, "guess").beat(0, 9, [], "")
    server.close()
