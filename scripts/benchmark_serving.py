"""Measures the captioning server: clips per second and latencies under load, several devices, and memory.

    python -m scripts.benchmark_serving load --seconds 120 --clients 32 --json load.json
    python -m scripts.benchmark_serving devices --seconds 60 --json devices.json
    python -m scripts.benchmark_serving memory --requests 10000 --json memory.json

- `load`: the server against the offline command, with the same clips, slots and cores, a random PLLaVA of the preset
  63m. The two alternate `--repeats` times, and the fastest of each counts, because other programs on the machine can
  only slow a run down. Captions of the two are compared.
- `devices`: a server with two device processes of one core each against one with one such process.
- `memory`: many requests to pllava-tiny. Every caption must be that of the offline command. The memory of the processes
  is measured in equal steps.

No request may be lost in any of them. Clips are rendered; clients run on the same machine as the server.
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
    server: RunningServer, bodies: Sequence[bytes], clients: int, seconds: float, captions: Sequence[str] | None = None
) -> Result:
    """Load the server for some seconds; returns its figures.

    Clips per second are those of the time in which all clients are busy: from the end of the first round of answers,
    one for each slot, to the last answer before clients stop. Both are answers, because those that began together end
    together, so that a count between two points of time would depend on where in a round these are.

    captions: of the offline command; None if they are not compared.

    Raises:
        SystemExit: the time is too short for two rounds of answers.
    """
    slots = int(server.metrics()["captioning_slots"])
    deadline = time.monotonic() + seconds
    answers = asyncio.run(serving_runs.send(server.url, bodies, clients, seconds=seconds))
    ended = [one for one in answers.ended if one <= deadline][slots - 1 :]
    if len(ended) <= slots:
        raise SystemExit(f"benchmark: {seconds:g} s are too short for two rounds of answers; give more --seconds")
    result = {
        "clips_per_second": (len(ended) - 1) / (ended[-1] - ended[0]),
        "answers": len(answers.ended),
        "problems": answers.problems,
        "median_seconds": statistics.median(answers.seconds),
        "p99_seconds": _quantile(answers.seconds, 0.99),
    }
    if captions is not None:
        result["other_captions"] = _other_captions(answers, captions)
    return result


def _other_captions(answers: Answers, captions: Sequence[str]) -> int:
    """Number of clips with a caption that differs from the offline command's."""
    return sum(found != [captions[number]] for number, found in answers.captions.items())


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


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
            captions = offline_runs[0]["captions"]
            server_runs.append(served(server, bodies, flags.clients, flags.seconds, captions))
    best_offline = max(run["clips_per_second"] for run in offline_runs)
    best = max(server_runs, key=lambda run: run["clips_per_second"])
    return {
        "offline_clips_per_second": [run["clips_per_second"] for run in offline_runs],
        "server": server_runs,
        "share_of_offline": best["clips_per_second"] / best_offline,
    }


def measure_devices(flags: argparse.Namespace, folder: Path) -> Result:
    """Two device processes of one core each against one."""
    checkpoint = folder / "checkpoint"
    scaling.write_checkpoint(checkpoint)
    write_clips(folder, (random_clip(3, number) for number in range(flags.clips)))
    bodies, rates = _bodies(folder, flags.clips), dict[str, list[Result]]()
    for _ in range(flags.repeats):
        for devices in ("cpu", "cpu,cpu"):
            with _server(checkpoint, folder, flags.bs, devices, _ONE_CORE) as server:
                rates.setdefault(devices, []).append(served(server, bodies, flags.clients, flags.seconds))
    one, two = (max(run["clips_per_second"] for run in runs) for runs in rates.values())
    return {"runs": rates, "two_devices_times_one": two / one}


def measure_memory(flags: argparse.Namespace, folder: Path) -> Result:
    """Many requests to pllava-tiny: memory by number of requests, and captions that differ from the offline ones."""
    meta = write_clips(folder, (random_clip(5, number) for number in range(flags.clips)))
    captions, bodies = offline(TINY, meta, flags.bs)["captions"], _bodies(folder, flags.clips)
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


def main() -> None:
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
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        result = {"part": flags.part, **_MEASURES[flags.part](flags, Path(name))}
    text = json.dumps(result, indent=1)
    if flags.json is not None:
        flags.json.write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
