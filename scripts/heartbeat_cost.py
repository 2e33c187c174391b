"""Measures the processor time that heartbeats cost rank 0, which also feeds a device.

    python -m scripts.heartbeat_cost --ranks 64,256,1024 --seconds 30

Rank 0's heartbeat server runs in a process of its own. This process sends it the heartbeats of all ranks over TCP, as
often as in a run with this number of ranks. The script prints two figures of the server: its processor time for
heartbeats as a share of one core, and its processor time for one barrier of all ranks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

from pipeline.captioning.workers.heartbeat import beat_interval
from pipeline.captioning.workers.heartbeat_server import HeartbeatServer, RemoteRunState
from pipeline.captioning.workers.run_state import RankStatus, RunState


def _serve(ranks: int, connection: Connection) -> None:
    """Run rank 0's process: the heartbeat server. It sends its processor time through `connection` on each request."""
    server = HeartbeatServer(RunState(ranks), ranks)
    connection.send((server.port, server.token))
    while connection.recv() != "end":
        connection.send(time.process_time())
    server.close()


def measure(ranks: int, seconds: float) -> dict[str, float]:
    """Measure a run with `ranks` ranks for `seconds` seconds.

    Returns the figures of one row of the printed table, by column title.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * ranks + 256)), hard))
    context = multiprocessing.get_context("spawn")
    connection, server_connection = context.Pipe()
    process = context.Process(target=_serve, args=(ranks, server_connection), daemon=True)
    process.start()
    port, token = connection.recv()

    def server_seconds() -> float:
        connection.send("time")
        return float(connection.recv())

    clients = [RemoteRunState("127.0.0.1", port, token) for _ in range(ranks)]
    for rank, client in enumerate(clients):
        client.beat(RankStatus(rank, counts=(0, 0, 1), since_progress=(0.5, 1800.0)))
    interval = beat_interval(ranks) / ranks
    before, begin, beats = server_seconds(), time.monotonic(), 0
    while (now := time.monotonic() - begin) < seconds:
        if beats * interval > now:
            time.sleep(beats * interval - now)
        rank = beats % ranks
        clients[rank].beat(RankStatus(rank, counts=(beats // ranks, 0, 1), since_progress=(0.5, 1800.0)))
        beats += 1
    share = (server_seconds() - before) / (time.monotonic() - begin)
    before = server_seconds()
    last_answer: Any = None
    for rank, client in enumerate(clients):
        last_answer = client.beat(RankStatus(rank, barriers=1))
    assert last_answer.barriers == 1, "all ranks have reached the barrier"
    barrier = server_seconds() - before
    for client in clients:
        client.close()
    connection.send("end")
    process.join()
    return {"beats a second": beats / seconds, "share of a core, %": 100 * share, "barrier, s": barrier}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="64,256,1024", help="numbers of ranks, separated by commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="measuring time for each number of ranks")
    flags = parser.parse_args()
    figures = {ranks: measure(ranks, flags.seconds) for ranks in map(int, flags.ranks.split(","))}
    print("| ranks | " + " | ".join(next(iter(figures.values()))) + " |")
    print("|---" * (1 + len(next(iter(figures.values())))) + "|")
    for ranks, row in figures.items():
        print(f"| {ranks:,} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
