"""Measures `caption_api.py`: answers per second, time to start, and memory.

    python -m scripts.benchmark_api --json api.json
    python -m scripts.benchmark_api --memory --rows 100000 --json api-memory.json

The service is `waiting_service`, in a process of its own: it answers every request after `--latency` seconds. Two
figures are compared with what is possible:

- with each `--concurrency`: the answers per second, as a share of concurrency / latency;
- with the largest: as a share of `bare_openai_loop`, which sends bodies of the same size that were made before. The two
  alternate `--repeats` times, and the fastest run of each counts, because other programs on the machine can only slow a
  run down.

Answers per second are those of the steady state, counted by the service: without the first two rounds of
`--concurrency` answers, and without those to requests after which no further request came. The clips are small and
short, so that decoding is not what is measured; every row asks another question, so no answer is used twice.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from scripts.clip_world import ClipFormat, RenderedClip, write_clip
from scripts.scenes import random_scene
from scripts.waiting_service import MODEL, Figures, RunningService, running

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ROOT / "pipeline" / "captioning" / "caption_api.py"
DISTINCT_CLIPS = 16
FRAMES = 3
START_RUNS = 5
ROUNDS_OF_RAMP = 2
"""Rounds of answers, one for each request in flight, before the steady state: the first clips are decoded then."""
_CLIP = ClipFormat(width=320, height=240, rate=2, frames=4, codec="mpeg4", quality=2, noise=8.0)
"""Three frames of it as JPEG are about 60 kB in a request."""
_REPORTED = ("seconds", "captioned", "failed", "decode_seconds", "decode_wait_share", "service")

Result = dict[str, Any]


@dataclass(frozen=True)
class SteadyState:
    """answers: counted in the steady state, whole rounds. seconds: how long it was."""

    answers: int
    seconds: float

    @property
    def answers_per_second(self) -> float:
        return self.answers / self.seconds


def steady_state(figures: Figures, concurrency: int) -> SteadyState:
    """The steady state of a run with so many requests in flight.

    It begins and ends with an answer, whole rounds of `concurrency` answers apart: requests that began together end
    together, so a count between two points of time would depend on where in a round these are.

    Raises:
        ValueError: the run was too short.
    """
    first = ROUNDS_OF_RAMP * concurrency - 1
    last = sum(answer <= figures.arrivals[-1] for answer in figures.answers) - 1
    rounds = (last - first) // concurrency
    if rounds < 1:
        raise ValueError(f"{len(figures.answers)} answers are too few for a steady state with {concurrency} in flight")
    answers = rounds * concurrency
    return SteadyState(answers, figures.answers[first + answers] - figures.answers[first])


def write_table(folder: Path, rows: int) -> Path:
    """Render clips into a new folder, and write `meta.csv` (path, number); the rows share `DISTINCT_CLIPS` clips."""
    folder.mkdir(parents=True)
    for number in range(DISTINCT_CLIPS):
        scene = random_scene(np.random.default_rng([5, number]))
        write_clip(folder / f"clip_{number:02d}.mp4", RenderedClip(scene, _CLIP, (5, number)))
    meta = folder / "meta.csv"
    with meta.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "number"])
        writer.writerows((folder / f"clip_{row % DISTINCT_CLIPS:02d}.mp4", row) for row in range(rows))
    return meta


class _MemoryWatch:
    """Follows the memory of a process and of its children. most: bytes, of all together; most_of_one: of the process.

    Pages that several processes share are counted for each of them.
    """

    def __init__(self, pid: int) -> None:
        self.most = self.most_of_one = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            try:
                one = self._process.memory_info().rss
                children = self._process.children(recursive=True)
            except psutil.Error:
                return
            self.most_of_one = max(self.most_of_one, one)
            self.most = max(self.most, one + sum(map(_memory_of, children)))


def _memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0


def run_command(service: RunningService, meta: Path, concurrency: int, flags: Sequence[str]) -> Result:
    """Caption a table; returns what the service, the operating system and the report say about the run.

    Raises:
        SystemExit: the command failed.
    """
    service.reset()
    output = meta.with_name("captioned.csv")
    arguments = [str(meta), "--base_url", service.base_url, "--model", MODEL, "--output", str(output)]
    arguments += ["--num_frames", str(FRAMES), "--question", "Describe video {number}.", *flags]
    command = [sys.executable, str(COMMAND), *arguments, "--concurrency", str(concurrency)]
    with (meta.parent / "log.txt").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=meta.parent, stderr=log, env=_environment())
        memory = _MemoryWatch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.end()
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"benchmark: the command failed with code {process.returncode}:\n{log.read()[-3000:]}")
    report = json.loads(output.with_name("captioned_report.json").read_text(encoding="utf-8"))
    return {
        **_rates(service.figures(), concurrency),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory": memory.most,
        "peak_memory_of_main_process": memory.most_of_one,
        "report": {name: report[name] for name in _REPORTED if name in report},
    }


def run_bare_loop(service: RunningService, requests: int, concurrency: int, body_bytes: int) -> Result:
    """Send requests of this size with nothing but the `openai` library, in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    service.reset()
    command = [sys.executable, "-m", "scripts.bare_openai_loop", service.base_url, "--model", MODEL]
    command += ["--requests", str(requests), "--concurrency", str(concurrency), "--body_bytes", str(body_bytes)]
    before = os.times()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, env=_environment())
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {**_rates(service.figures(), concurrency), "cpu_seconds": cpu}


def _environment() -> dict[str, str]:
    return {**os.environ, "NO_PROXY": "127.0.0.1"}


def _rates(figures: Figures, concurrency: int) -> Result:
    steady = steady_state(figures, concurrency)
    return {
        "concurrency": concurrency,
        "requests": len(figures.arrivals),
        "answers": len(figures.answers),
        "most_in_flight": figures.most_in_flight,
        "body_bytes": round(figures.body_bytes / len(figures.arrivals)),
        "answers_per_second": steady.answers_per_second,
        "steady_state": asdict(steady),
    }


def start_seconds(arguments: Sequence[str], folder: Path, expected_code: int) -> Result:
    """The time from the start of the command to its end, the fastest of `START_RUNS`."""
    wall, cpu = [], []
    for _ in range(START_RUNS):
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(COMMAND), *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        message = process.stderr.read()
        process.stderr.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != expected_code:
            raise SystemExit(f"benchmark: code {process.returncode}, not {expected_code}: {message.decode()[-2000:]}")
        wall.append(time.monotonic() - begin)
        cpu.append(usage.ru_utime + usage.ru_stime)
    return {"seconds": min(wall), "cpu_seconds": min(cpu)}


def measure_start(folder: Path) -> Result:
    """Seconds until `--help`, and until a usage error after all flags have been read."""
    meta = write_table(folder / "start", 1)
    wrong = [str(meta), "--base_url", "http://127.0.0.1:9/v1", "--model", MODEL, "--max_cost", "1"]
    return {"--help": start_seconds(["--help"], folder, 0), "usage error": start_seconds(wrong, folder, 2)}


def measure_speed(flags: argparse.Namespace, folder: Path) -> Result:
    """Run the command with every concurrency, and the bare loop with the largest one."""
    counts = sorted(int(part) for part in flags.concurrency.split(","))
    result: Result = {"command": {}}
    with running(flags.latency) as service:
        for count in counts:
            ideal = count / flags.latency
            rows = round(ideal * flags.seconds) + (ROUNDS_OF_RAMP + 2) * count
            repeats = flags.repeats if count == counts[-1] else 1
            runs, loops = [], []
            for number in range(repeats):
                print(f"  {count} in flight, {rows} rows …", file=sys.stderr)
                meta = write_table(folder / f"{count}-{number}", rows)
                runs.append(run_command(service, meta, count, flags.command_flags))
                if count == counts[-1]:
                    loops.append(run_bare_loop(service, rows, count, runs[-1]["body_bytes"]))
            best = max(runs, key=lambda one: float(one["answers_per_second"]))
            best["share_of_ideal"] = best["answers_per_second"] / ideal
            result["command"][str(count)] = best
    result["bare_loop"] = max(loops, key=lambda one: float(one["answers_per_second"]))
    result["bare_loop"]["share_of_ideal"] = result["bare_loop"]["answers_per_second"] / ideal
    result["share_of_bare_loop"] = best["answers_per_second"] / result["bare_loop"]["answers_per_second"]
    return result


def measure_memory(flags: argparse.Namespace, folder: Path) -> Result:
    """Caption one large table."""
    count = max(int(part) for part in flags.concurrency.split(","))
    meta = write_table(folder / "memory", flags.rows)
    with running(flags.latency) as service:
        return run_command(service, meta, count, flags.command_flags)


MAX_START_SECONDS = 2.0
IDEAL_CONCURRENCY, LEAST_SHARE_OF_IDEAL = 64, 0.95
LEAST_SHARE_OF_LOOP = 0.9
MAX_MEMORY = 2**30
"""The limits of `shortfalls`; the share of the ideal is limited with IDEAL_CONCURRENCY requests in flight only."""


def markdown_tables(result: Result) -> str:
    """The measurements as Markdown tables."""
    lines = []
    if "start" in result:
        lines += ["| start | seconds | CPU seconds |", "|---|---|---|"]
        lines += [f"| {n} | {one['seconds']:.2f} | {one['cpu_seconds']:.2f} |" for n, one in result["start"].items()]
        lines.append("")
    rows = {f"caption_api.py, {count} in flight": one for count, one in result.get("command", {}).items()}
    if "bare_loop" in result:
        rows[f"bare loop, {result['bare_loop']['concurrency']} in flight"] = result["bare_loop"]
    if "memory" in result:
        rows["caption_api.py, memory"] = result["memory"]
    lines.append("| | " + " | ".join(_HEADS) + " |")
    lines.append("|---" * (len(_HEADS) + 1) + "|")
    lines += [f"| {name} | {' | '.join(_cells(one))} |" for name, one in rows.items()]
    if "share_of_bare_loop" in result:
        lines += ["", f"share of the bare loop: {result['share_of_bare_loop']:.1%}"]
    return "\n".join(lines)


_HEADS = ("requests", "kB each", "answers/s", "share of ideal", "CPU ms each", "memory of all", "of the main process")


def _cells(one: Result) -> list[str]:
    share = f"{one['share_of_ideal']:.1%}" if "share_of_ideal" in one else ""
    size, cpu = one["body_bytes"] / 1000, 1000 * one["cpu_seconds"] / one["requests"]
    peaks = [one.get(name, 0) for name in ("peak_memory", "peak_memory_of_main_process")]
    memory = [f"{peak / 2**20:.0f} MiB" if peak else "" for peak in peaks]
    return [str(one["requests"]), f"{size:.0f}", f"{one['answers_per_second']:.1f}", share, f"{cpu:.1f}", *memory]


def shortfalls(result: Result) -> list[str]:
    """The figures that are worse than their limits, as text."""
    found = [
        f"{name}: started in {one['seconds']:.2f} s, more than {MAX_START_SECONDS:g} s"
        for name, one in result.get("start", {}).items()
        if one["seconds"] > MAX_START_SECONDS
    ]
    least = {str(IDEAL_CONCURRENCY): LEAST_SHARE_OF_IDEAL}
    found += [
        f"{count} in flight: {one['share_of_ideal']:.1%} of the ideal, less than {least[count]:.0%}"
        for count, one in result.get("command", {}).items()
        if one["share_of_ideal"] < least.get(count, 0)
    ]
    if result.get("share_of_bare_loop", 1.0) < LEAST_SHARE_OF_LOOP:
        found.append(f"{result['share_of_bare_loop']:.1%} of the bare loop, less than {LEAST_SHARE_OF_LOOP:.0%}")
    memory = result.get("memory", {}).get("peak_memory", 0)
    if memory > MAX_MEMORY:
        found.append(f"memory: {memory / 2**20:.0f} MiB, more than {MAX_MEMORY // 2**20} MiB")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, help="seconds until an answer (default: 2; with --memory 0.1)")
    parser.add_argument("--concurrency", default="64,256", help="requests in flight (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of steady state (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="with the largest concurrency (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="measure the memory for a large table only")
    parser.add_argument("--rows", type=int, default=100_000, help="with --memory (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("command_flags", nargs="*", help="after --: further flags of caption_api.py")
    flags = parser.parse_args()
    if flags.latency is None:
        flags.latency = 0.1 if flags.memory else 2.0
    result: Result = {
        "flags": {name: value for name, value in vars(flags).items() if name != "json"},
        "machine": {"cpus": os.cpu_count(), "load_average": os.getloadavg()},
    }
    with TemporaryDirectory() as name:
        if flags.memory:
            result["memory"] = measure_memory(flags, Path(name))
        else:
            result["start"] = measure_start(Path(name))
            result.update(measure_speed(flags, Path(name)))
    print(markdown_tables(result))
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    problems = shortfalls(result)
    for problem in problems:
        print(f"below the limit: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
