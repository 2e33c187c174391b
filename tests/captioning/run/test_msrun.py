"""The real command with msrun, torchrun and without a launcher writes the same bytes, also if it is interrupted."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.captioning.journal.folder import journal_folder
from scripts import launched
from tests.captioning.run.forked import TorchRuns
from tests.fakes import render_clip
from tests.golden import DATA, VIDEOS

FLAGS = ["--pretrained_model_name_or_path", str(DATA / "mini-a"), "--lora_alpha", "2"]
FLAGS += ["--pooling_shape", "4-6-6", "--max_new_tokens", "16", "--decode_workers", "1"]
pytestmark = pytest.mark.msrun


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Rendered clips, two that cannot be decoded, and the real videos if this checkout has them."""
    folder = tmp_path_factory.mktemp("clips")
    made = [str(render_clip(folder / f"clip {i}, ü.mp4", i)) for i in range(6)]
    (folder / "empty.mp4").touch()
    videos = sorted(str(path) for path in VIDEOS.glob("*.*") if path.suffix != ".md")
    return [*made, str(folder / "empty.mp4"), "/nowhere.mp4", *videos]


@pytest.fixture(scope="module")
def undisturbed(clips: list[str], tmp_path_factory: pytest.TempPathFactory, torch_run: TorchRuns) -> bytes:
    """The table that one plain process on PyTorch writes, with one clip in flight at a time."""
    folder = tmp_path_factory.mktemp("plain")
    _write_meta(folder, clips)
    torch_run(folder, *FLAGS, "--bs", "1")
    failures = list(csv.DictReader((folder / "meta_caption_failures.csv").open()))
    undecodable = [path for path in clips if Path(path).name in ("empty.mp4", "nowhere.mp4")]
    assert [failure["path"] for failure in failures] == undecodable
    return (folder / "meta_caption.csv").read_bytes()


def _write_meta(folder: Path, clips: list[str]) -> None:
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "note"])
        writer.writerows([i, path, f'a "{i}",\nü'] for i, path in enumerate(clips))


def _msrun(workers: int, *flags: str) -> list[str]:
    return launched.msrun(workers, *FLAGS, *flags)


def _torchrun(*flags: str) -> list[str]:
    return launched.torchrun(2, *FLAGS, *flags)


def _decoder(folder: Path, rank: int) -> psutil.Process:
    """Wait for a decoding process of a worker."""
    deadline = time.monotonic() + 300
    while not (found := launched.decoders(folder, rank)):
        assert time.monotonic() < deadline, f"rank {rank} started no decoding process"
        time.sleep(0.05)
    return found[0]


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The figures that the progress command shows of a run, from now until its end; filled when the block ends."""
    figures: list[dict[str, Any]] = []
    command = [sys.executable, "-m", "pipeline.captioning.progress", "meta.csv", "--json", "--watch", "on"]
    with (folder / "watched.jsonl").open("w+") as shown:
        with subprocess.Popen([*command, "--interval", "0.1"], cwd=folder, stdout=shown) as watcher:
            try:
                yield figures
                assert watcher.wait(timeout=60) == 0
            finally:
                watcher.kill()
        shown.seek(0)
        figures += [json.loads(line) for line in shown]


def test_two_workers_one_of_them_35_seconds_late(tmp_path: Path, clips: list[str], undisturbed: bytes) -> None:
    """Two workers write what one process writes, although one waits 35 s for a clip: a collective on the CPU backend
    fails after 30 s, so the ranks wait outside of it. What the progress command shows agrees with the report."""
    _write_meta(tmp_path, clips)
    flags = ["--bs", "5", "--decode_timeout", "200"]
    with launched.started(_msrun(2, *flags), tmp_path) as launcher, _watched(tmp_path) as seen:
        decoder = _decoder(tmp_path, 1)
        decoder.suspend()
        time.sleep(35)
        decoder.resume()
        assert launcher.wait(timeout=400) == 0
    assert (tmp_path / "meta_caption.csv").read_bytes() == undisturbed
    report = json.loads((tmp_path / "meta_caption_report.json").read_text())
    assert [figures["state"] for figures in (seen[0], seen[-1])] == ["waiting", "finished"]
    of_journals = seen[1:-1]
    assert len(of_journals) > 3 and {figures["state"] for figures in of_journals} <= {"running", "finishing"}
    done = [figures["done"] for figures in of_journals]
    assert done == sorted(done)
    assert [rank["rank"] for rank in of_journals[-1]["ranks"]] == [0, 1]
    assert of_journals[-1]["rows"] == len(clips)
    finishing = [figures for figures in of_journals if figures["left"] == 0][-1:]  # missed if the machine is slow
    for figures in (*finishing, seen[-1]):
        assert (figures["captioned"], figures["failed"]) == (report["captioned"], report["failed"])
        assert figures["failures_by_stage"] == report["failures_by_stage"]
    assert seen[-1]["clips_per_second"] == report["clips_per_second"]
    assert not journal_folder(tmp_path / "meta_caption.csv").exists()
    log = (tmp_path / "msrun_log" / "worker_0.log").read_text()
    assert "captions in" in log and "clips/s" in log and "device time" in log
    assert "time left" in log


def test_fewer_rows_than_workers_and_then_nothing(tmp_path: Path, clips: list[str]) -> None:
    _write_meta(tmp_path, clips[:1])
    assert launched.run(_torchrun("--skip_if_existing"), tmp_path) == 0
    first = (tmp_path / "meta_caption.csv").read_bytes()
    assert launched.run(_torchrun("--skip_if_existing"), tmp_path) == 0
    assert "nothing is left" in (tmp_path / "launcher.log").read_text()
    assert (tmp_path / "meta_caption.csv").read_bytes() == first


def test_usage_error_ends_all_of_msrun(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("name\na\n")
    _, _, *arguments = _msrun(2)
    assert launched.run([str(launched.BIN / "msrun"), *arguments], tmp_path, timeout=120) == 1
    assert "no 'path' column" in (tmp_path / "msrun_log" / "worker_0.log").read_text()
    assert "path" not in (tmp_path / "msrun_log" / "scheduler.log").read_text()


def test_torchrun_writes_the_same(tmp_path: Path, clips: list[str], undisturbed: bytes) -> None:
    _write_meta(tmp_path, clips)
    assert launched.run(_torchrun("--bs", "2"), tmp_path) == 0, (tmp_path / "launcher.log").read_text()
    assert (tmp_path / "meta_caption.csv").read_bytes() == undisturbed


def test_a_plain_process_interrupted_twice_resumes(
    tmp_path: Path, clips: list[str], undisturbed: bytes, torch_run: TorchRuns
) -> None:
    _write_meta(tmp_path, clips)
    done: set[int] = set()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # MindSpore is slow enough here to be interrupted in the middle of the run.
        with launched.started(launched.plain(*FLAGS, "--framework", "mindspore"), tmp_path) as launcher:
            launched.wait_until_captioned(tmp_path, len(done) + 2, launcher)
            launcher.send_signal(signal_number)
            assert launcher.wait(timeout=60) == 1
        assert "run the same command again" in (tmp_path / "launcher.log").read_text()
        captioned = launched.journaled(tmp_path)
        assert len(captioned) == len(set(captioned))
        done = set(captioned)
    # The command of all families resumes the run.
    torch_run(tmp_path, *FLAGS, "--bs", "3", command=launched.COMMAND_OF_FAMILIES)
    assert "family pllava: architecture PllavaForConditionalGeneration" in (tmp_path / "launcher.log").read_text()
    assert (tmp_path / "meta_caption.csv").read_bytes() == undisturbed
    assert launched.captioned_in_last_run(tmp_path) == len(clips) - 2 - len(done)


def test_two_hosts_that_share_nothing_and_one_goes_down(tmp_path: Path, clips: list[str], undisturbed: bytes) -> None:
    """Two msrun nodes, each in a folder of its own; only node 0 has the meta table."""
    hosts = [tmp_path / "host-0", tmp_path / "host-1"]
    for host in hosts:
        host.mkdir()
    _write_meta(hosts[0], clips)
    node = ["--local_worker_num=1", "--master_addr=127.0.0.1"]
    commands = [
        launched.msrun(2, *FLAGS, "--bs", "1", options=[*node, f"--node_rank={rank}"]) for rank in range(len(hosts))
    ]
    with launched.started(commands[0], hosts[0]) as first, launched.started(commands[1], hosts[1]) as second:
        launched.wait_until_captioned(hosts[0], 1, first)
        launched.wait_until_captioned(hosts[1], 1, second)
        for process in launched.processes(hosts[1]):
            process.kill()
        first.wait(timeout=300)
    assert not (hosts[0] / launched.OUTPUT).exists()
    done = {row for host in hosts for row in launched.journaled(host)}
    with launched.started(commands[0], hosts[0]) as first, launched.started(commands[1], hosts[1]) as second:
        first.wait(timeout=400)
        second.wait(timeout=60)
    assert (hosts[0] / launched.OUTPUT).read_bytes() == undisturbed
    assert launched.captioned_in_last_run(hosts[0]) == len(clips) - 2 - len(done)
    assert not journal_folder(hosts[0] / launched.OUTPUT).exists()
    assert [path.name for path in hosts[1].iterdir() if path.name.startswith("meta")] == []
