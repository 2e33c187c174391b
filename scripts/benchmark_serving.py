"""Measures the captioning server: clips per second and latencies under load, several devices, and memory.

    python -m scripts.benchmark_serving load --seconds 120 --clients 32 --json load.json
    python -m scripts.benchmark_serving devices --seconds 60 --json devices.json
    python -m scripts.benchmark_serving memory --requests 10000 --json memory.json

- `load`: the server against the offline command, with the same clips, slots and cores, a random PLLaVA of the preset
  63m. The two alternate `--repeats` times, and the fastest of each counts, because other programs on the machine can
  only slow a run down. Captions of the two are compared.
- `devices`: a server with two device processes of one core each against one with one such process. Captions of the two
  are compared.
- `memory`: many requests to pllava-tiny. Every caption must be that of the offline command. The memory of the processes
  is measured in equal steps.

No request may be lost in any of them, and no caption may differ: otherwise the exit code is 1. Clips are rendered;
clients run on the same machine as the server.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts import scaling, serving_runs
from scripts.clip_world import random_clip, write_clips
from scripts.serving_runs import Answers, RunningServer

COMMAND = serving_runs.ROOT / "pipeline" / "captioning" / "caption_pllava.py"
TINY = serving_runs.ROOT / "pretrained_models" / "pllava-tiny"
NEW_TOKENS = 64
_ONE_CORE = {"OMP_NUM_THREADS": "1"}
_MIB = 2**20

Result = dict[str, Any]


def offline(checkpoint: Path, meta: Path, slots: int, environment: Mapping[str, str] | None = None) -> Result:
    """Run the offline command; returns its captions, and clips per second without loading the model.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    output = meta.with_name("offline.csv")
    command = [sys.executable, str(COMMAND), str(meta), "--pretrained_model_name_or_path", str(checkpoint), "--restart"]
    flags = ["--output", str(output), "--bs", str(slots), "--max_new_tokens", str(NEW_TOKENS)]
    subprocess.run([*command, *flags], env={**os.environ, **(environment or {})}, check=True, capture_output=True)
    report = json.loads(output.with_name("offline_report.json").read_text(encoding="utf-8"))
    with output.open(newline="", encoding="utf-8") as file:
        captions = [row["text"] for row in csv.DictReader(file)]
    seconds = report["device_seconds"] + report["decode_wait_seconds"]
    return {"captions": captions, "clips_per_second": report["captioned_in_this_run"] / seconds}


def served(
    server: RunningServer, bodies: Sequence[bytes], clients: int, seconds: float, captions: dict[int, str]
) -> Result:
    """Load the server for some seconds; returns its figures.

    Clips per second are those of the time in which all clients are busy: from the end of the first round of answers,
    one for each slot, to the last answer before clients stop. Both are answers, because those that began together end
    together, so that a count between two points of time would depend on where in a round these are.

    captions: of the clips, by their numbers, that answers are compared with. Those of other clips are added.

    Raises:
        SystemExit: the time is too short for two rounds of answers. But if requests failed, the clips per second are
            None.
    """
    slots = int(server.metrics()["captioning_slots"])
    deadline = time.monotonic() + seconds
    answers = asyncio.run(serving_runs.send(server.url, bodies, clients, seconds=seconds))
    ended = [one for one in answers.ended if one <= deadline][slots - 1 :]
    has_rounds = len(ended) > slots
    if not has_rounds and not answers.problems:
        raise SystemExit(f"benchmark: {seconds:g} s are too short for two rounds of answers; give more --seconds")
    return {
        "clips_per_second": (len(ended) - 1) / (ended[-1] - ended[0]) if has_rounds else None,
        "answers": len(answers.ended),
        "problems": answers.problems,
        "median_seconds": statistics.median(answers.seconds) if answers.seconds else None,
        "p99_seconds": _quantile(answers.seconds, 0.99),
        "other_captions": _other_captions(answers, captions),
    }


def _other_captions(answers: Answers, captions: dict[int, str]) -> int:
    """Number of clips with a caption that differs from that in `captions`. Clips that are not in it are added."""
    return sum(found != [captions.setdefault(number, found[0])] for number, found in answers.captions.items())


def _quantile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _fastest(runs: Sequence[Result]) -> float | None:
    """The most clips per second of runs; None if no run has them."""
    return max((run["clips_per_second"] for run in runs if run["clips_per_second"] is not None), default=None)


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def faults(result: object) -> list[str]:
    """What no measurement may have: lost requests and captions that differ. result: of a part, or something in it."""
    if isinstance(result, list):
        return [fault for one in result for fault in faults(one)]
    if not isinstance(result, dict):
        return []
    found = [fault for one in result.values() for fault in faults(one)]
    if problems := result.get("problems"):
        found.append(f"requests that were lost: {len(problems)}; the first one: {problems[0]}")
    if other := result.get("other_captions"):
        found.append(f"clips with captions that differ: {other}")
    return found


def measure_load(flags: argparse.Namespace, folder: Path) -> Result:
    """The server against the offline command."""
    checkpoint = folder / "checkpoint"
    scaling.write_checkpoint(checkpoint)
    clips = write_clips(folder, (random_clip(3, number) for number in range(flags.clips)))
    bodies = _bodies(folder, flags.clips)
    offline_runs, server_runs = [], []
    for _ in range(flags.repeats):
        offline_runs.append(offline(checkpoint, clips, flags.bs))
        with _server(checkpoint, folder, flags.bs, "cpu") as server:
            captions = dict(enumerate(offline_runs[0]["captions"]))
            server_runs.append(served(server, bodies, flags.clients, flags.seconds, captions))
    return {
        "offline_clips_per_second": [run["clips_per_second"] for run in offline_runs],
        "server": server_runs,
        "share_of_offline": _ratio(_fastest(server_runs), _fastest(offline_runs)),
    }


def measure_devices(flags: argparse.Namespace, folder: Path) -> Result:
    """Two device processes of one core each against one."""
    checkpoint = folder / "checkpoint"
    scaling.write_checkpoint(checkpoint)
    write_clips(folder, (random_clip(3, number) for number in range(flags.clips)))
    bodies, rates, captions = _bodies(folder, flags.clips), dict[str, list[Result]](), dict[int, str]()
    for _ in range(flags.repeats):
        for devices in ("cpu", "cpu,cpu"):
            with _server(checkpoint, folder, flags.bs, devices, _ONE_CORE) as server:
                rates.setdefault(devices, []).append(served(server, bodies, flags.clients, flags.seconds, captions))
    one, two = (_fastest(runs) for runs in rates.values())
    return {"runs": rates, "two_devices_times_one": _ratio(two, one)}


def measure_memory(flags: argparse.Namespace, folder: Path) -> Result:
    """Many requests to pllava-tiny: memory by number of requests, and captions that differ from the offline ones."""
    meta = write_clips(folder, (random_clip(5, number) for number in range(flags.clips)))
    captions = dict(enumerate(offline(TINY, meta, flags.bs)["captions"]))
    bodies = _bodies(folder, flags.clips)
    steps: list[Result] = []
    other = answered = 0
    problems: list[str] = []
    begin = time.monotonic()
    with _server(TINY, folder, flags.bs, "cpu") as server:
        for _ in range(flags.steps):
            sent = flags.requests // flags.steps
            answers = asyncio.run(serving_runs.send(server.url, bodies, flags.clients, requests=sent))
            other += _other_captions(answers, captions)
            answered += len(answers.ended)
            problems += answers.problems
            memory = {kind: round(size / _MIB, 1) for kind, size in server.memory().items()}
            steps.append({"requests": answered, **memory})
            print(f"  {steps[-1]}", file=sys.stderr)
        running = server.metrics()["captioning_requests_running"]
    return {
        "memory_mib": steps,
        "answers": answered,
        "problems": problems,
        "other_captions": other,
        "slots_in_use_at_the_end": running,
        "answers_per_second": answered / (time.monotonic() - begin),
    }


def _server(
    checkpoint: Path, folder: Path, slots: int, devices: str, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[RunningServer]:
    flags = ("--devices", devices, "--bs", str(slots), "--max_new_tokens", str(NEW_TOKENS))
    return serving_runs.running_server(checkpoint, folder, *flags, environment=environment)


def _bodies(folder: Path, clips: int) -> list[bytes]:
    return [serving_runs.video_body(folder / f"clip_{number:05d}.mp4") for number in range(clips)]


_MEASURES = {"load": measure_load, "devices": measure_devices, "memory": measure_memory}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=_MEASURES)
    parser.add_argument("--clients", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=48, help="different clips (default: %(default)s)")
    parser.add_argument("--bs", type=int, default=8, help="slots of each device (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of load in each run (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=10000, help="memory: number (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="memory: measurements (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    flags = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        result = {"part": flags.part, **_MEASURES[flags.part](flags, Path(name))}
    text = json.dumps(result, indent=1)
    if flags.json is not None:
        flags.json.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    found = faults(result)
    for fault in found:
        print(f"benchmark: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
