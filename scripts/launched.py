"""Starts the captioning command as users do, and finds its processes, for tests and scripts that kill them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from pipeline.captioning.journal.folder import journal_folder

_COMMANDS = Path(__file__).resolve().parent.parent / "pipeline" / "captioning"
COMMAND = str(_COMMANDS / "caption_pllava.py")
COMMAND_OF_FAMILIES = str(_COMMANDS / "caption.py")
OUTPUT = "meta_caption.csv"
BIN = Path(sys.executable).parent
IDLE_MSRUN = str(Path(__file__).resolve().parent / "idle_msrun.py")
CLUSTER = {"MS_RETRY_INTERVAL_LOWER": "1", "MS_RETRY_INTERVAL_UPPER": "1", "MS_NODE_TIMEOUT": "10"}
"""Seconds. A MindSpore worker often needs several attempts to register at its scheduler, by default 3 to 5 s apart. The
scheduler ends the run after a worker has been lost for the time-out, by default 30 s."""


def plain(*arguments: str, command: str = COMMAND) -> list[str]:
    """A command that captions `meta.csv` of the working folder in one process, on PyTorch."""
    return [sys.executable, command, "meta.csv", *arguments]


def msrun(
    workers: int, *arguments: str, port: int | None = None, options: Sequence[str] = (), command: str = COMMAND
) -> list[str]:
    """The same with msrun (see `idle_msrun`). port: of the cluster's scheduler; options: further options of msrun."""
    port = port or 9000 + os.getpid() % 500 + workers * 500
    launcher = [sys.executable, IDLE_MSRUN, f"--worker_num={workers}", f"--local_worker_num={workers}", "--join=True"]
    return [
        *launcher,
        f"--master_port={port}",
        "--log_dir=msrun_log",
        *options,
        *plain(*arguments, command=command)[1:],
    ]


def torchrun(workers: int, *arguments: str, command: str = COMMAND) -> list[str]:
    """The same on PyTorch with torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={workers}", "--master_port=29617"]
    return [*launcher, *plain(*arguments, command=command)[1:]]


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, with its output in `launcher.log`; at the end kill all its processes."""
    environment = {**CLUSTER, **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    with (folder / "launcher.log").open("wb") as log:
        # The parent of this process may have set SIGINT to be ignored, which children inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        launcher = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            yield launcher
        finally:
            for process in processes(folder):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            launcher.wait(timeout=60)


def run(command: list[str], folder: Path, timeout: float = 400) -> int:
    """Run a command to its end; returns its exit code."""
    with started(command, folder) as launcher:
        return launcher.wait(timeout=timeout)


def processes(folder: Path) -> list[psutil.Process]:
    """Every process whose working folder is `folder`: launcher, workers, decoding processes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.cwd() == str(folder) and process.pid != os.getpid():
                found.append(process)
    return found


def workers(folder: Path) -> dict[int, psutil.Process]:
    """The workers of msrun by rank: the processes that caption, not their supervisors."""
    found: dict[int, psutil.Process] = {}
    for process in processes(folder):
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if {COMMAND, COMMAND_OF_FAMILIES} & set(process.cmdline()) and environment.get("MS_ROLE") == "MS_WORKER":
                rank = int(environment["RANK_ID"])
                if rank not in found or process.ppid() == found[rank].pid:
                    found[rank] = process
    return found


def decoders(folder: Path, rank: int) -> list[psutil.Process]:
    """The decoding processes of a worker."""
    found = []
    with contextlib.suppress(KeyError, psutil.Error):
        for child in workers(folder)[rank].children():
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
    return found


def records(folder: Path) -> dict[str, list[dict]]:
    """The records of each journal of an unfinished run, without an incomplete last line."""
    found = {}
    for path in sorted(journal_folder(folder / OUTPUT).glob("rank-*.jsonl")):
        with contextlib.suppress(FileNotFoundError):  # the run has ended meanwhile
            found[path.name] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return found


def journaled(folder: Path) -> list[int]:
    """Rows in the journals that have a caption for each of their questions."""
    return [
        record["row"]
        for journal in records(folder).values()
        for record in journal
        if "captions" in record and all("caption" in result for result in record["captions"].values())
    ]


def wait_until_captioned(folder: Path, count: int, launcher: subprocess.Popen[bytes], patience: float = 300) -> None:
    """Return when the journals contain `count` captions.

    Raises:
        RuntimeError: the launcher ended before, or `patience` seconds have passed.
    """
    deadline = time.monotonic() + patience
    while len(journaled(folder)) < count:
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "launcher.log").read_text())
        time.sleep(0.1)


def captioned_in_last_run(folder: Path) -> int:
    report = json.loads((folder / "meta_caption_report.json").read_text(encoding="utf-8"))
    return int(report["captioned_in_this_run"])
