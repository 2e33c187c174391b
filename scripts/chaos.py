"""Kills captioning runs at random moments and checks that nothing is lost.

    python -m scripts.chaos --runs 20 --seed 1

Every run captions the same clips with pllava-tiny. SIGKILL or SIGTERM is sent to one of its processes (a worker, msrun,
a decoding process). Then the run is resumed, with another number of workers, until it is finished. Checked are:

- the captions, failures and outcomes are, byte for byte, those of an undisturbed run;
- no process remains ten seconds after the launcher has ended;
- a row with a result in a journal is not captioned again: only rows in flight are.

A resumed run may be killed too, but only in ways that do not count as the death of a worker: a row that was in flight
at two deaths becomes a failure on purpose, which would change the table.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from scripts import launched
from scripts.clip_world import random_clip, write_clips

logger = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).resolve().parent.parent / "pretrained_models" / "pllava-tiny"
SLOTS = 4
FLAGS = ["--pretrained_model_name_or_path", str(CHECKPOINT), "--bs", str(SLOTS)]
TARGETS = ("worker", "launcher", "decoder")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
HARMLESS = [("launcher", signal.SIGTERM), ("decoder", signal.SIGKILL), ("worker", signal.SIGTERM)]
LEAVE_SECONDS = 10
PATIENCE = 600
"""Seconds. On a loaded machine MindSpore has taken minutes to form a cluster."""
OUTPUTS = (launched.OUTPUT, "meta_caption_failures.csv", "meta_caption_outcomes.jsonl")
STARTING = 0.2
"""Share of the kills that come before the first caption."""


class CheckFailed(AssertionError):
    """A check of this program failed."""


@dataclass
class Chaos:
    """Runs on the clips of `folder`/clips.

    undisturbed: the contents of OUTPUTS after a run that is not killed.
    start_seconds, caption_seconds: duration of such a run until its first caption, and from then on.
    most_in_flight: the most rows that one worker had in flight when it was killed; they were captioned again.
    """

    folder: Path
    seed: int
    clips: int
    undisturbed: list[bytes] = field(default_factory=list)
    start_seconds: float = 0.0
    caption_seconds: float = 0.0
    most_in_flight: int = 0

    def prepare(self, command: Sequence[str]) -> None:
        """Make the clips, and three that cannot be decoded, and caption them with `command`, which is not killed."""
        source = self.folder / "clips"
        meta = write_clips(source, (random_clip(self.seed, number) for number in range(self.clips)))
        with meta.open("a", newline="", encoding="utf-8") as file:
            for name in ("empty.mp4", "text.mp4"):
                (source / name).write_text("" if name == "empty.mp4" else "no video")
                csv.writer(file).writerow([str(source / name), ""])
            csv.writer(file).writerow([str(source / "absent.mp4"), ""])
        begin = time.monotonic()
        folder = self._new_folder("undisturbed")
        with launched.started(list(command), folder) as launcher:
            launched.wait_until_captioned(folder, 1, launcher, PATIENCE)
            self.start_seconds = time.monotonic() - begin
            _wait_until_written(folder, launcher)
            self.caption_seconds = time.monotonic() - begin - self.start_seconds
            _expect(launcher.wait(timeout=PATIENCE) == 0, "the undisturbed run failed", folder)
        self.undisturbed = [(folder / name).read_bytes() for name in OUTPUTS]

    def disturb(self, number: int, target: str, signal_number: signal.Signals, short: bool = False) -> None:
        """Start a run, kill `target`, and resume the run until it is finished.

        short: resume with one process, and do not kill it.

        Raises:
            CheckFailed: see the module's docstring.
        """
        rng = random.Random(f"{self.seed} {number}")
        folder = self._new_folder(f"run-{number}")
        finished = self._launch(folder, rng, self._any_msrun(rng), (target, signal_number), set())
        if not short and rng.random() < 0.5:
            finished = self._launch(folder, rng, self._any_msrun(rng), rng.choice(HARMLESS), finished)
        command = self._any_msrun(rng) if not short and rng.random() < 0.5 else launched.plain(*FLAGS)
        for _ in range(2):  # a run whose decoder was killed has finished; the second launch may have nothing to do
            if not (folder / launched.OUTPUT).exists():
                finished = self._launch(folder, rng, command, None, finished)
        found = [(folder / name).read_bytes() for name in OUTPUTS]
        _expect(found == self.undisturbed, "the outputs are not those of the undisturbed run", folder)

    def _launch(
        self,
        folder: Path,
        rng: random.Random,
        command: list[str],
        kill: tuple[str, signal.Signals] | None,
        finished: set[int],
    ) -> set[int]:
        """Start `command`, and kill one of its processes; returns the rows with a result in the journals.

        kill: target and signal; None to kill nothing.
        finished: the rows that had a result before.
        """
        if (folder / launched.OUTPUT).exists():
            return finished
        before = launched.records(folder)
        with launched.started(command, folder) as launcher:
            if kill is not None:
                self._kill(folder, rng, launcher, *kill)
            # MindSpore's scheduler notices a lost worker after MS_NODE_TIMEOUT.
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(timeout=PATIENCE)
            _expect(launcher.poll() is not None, "the launcher has not ended", folder)
            deadline = time.monotonic() + LEAVE_SECONDS
            while (left := launched.processes(folder)) and time.monotonic() < deadline:
                time.sleep(0.2)
            _expect(not left, f"processes remain: {left}", folder)
        if (folder / launched.OUTPUT).exists():
            left_to_do = self.clips - len(finished & set(range(self.clips)))
            captioned = launched.captioned_in_last_run(folder)
            _expect(captioned == left_to_do, f"{captioned} clips captioned, but {left_to_do} were pending", folder)
            return finished
        return self._check_journals(folder, before, finished)

    def _kill(
        self, folder: Path, rng: random.Random, launcher: subprocess.Popen[bytes], target: str, number: signal.Signals
    ) -> None:
        """Wait for a random time, then send the signal to a process of kind `target`, if there is one."""
        if rng.random() < STARTING:
            time.sleep(rng.uniform(0, self.start_seconds))
        else:
            with contextlib.suppress(RuntimeError):  # the launcher ended before: almost no row was pending
                before = len(launched.journaled(folder))
                launched.wait_until_captioned(folder, before + 1, launcher, PATIENCE)
            time.sleep(rng.uniform(0, self.caption_seconds))
        if target == "launcher":
            victims = [psutil.Process(launcher.pid)] if launcher.poll() is None else []
        else:
            workers = launched.workers(folder)
            victims = list(workers.values())
            if target == "decoder":
                victims = [process for rank in workers for process in launched.decoders(folder, rank)]
        logger.info("%d captions; %s to %s of %d", len(launched.journaled(folder)), number.name, target, len(victims))
        if victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(victims).send_signal(number)

    def _check_journals(self, folder: Path, before: Mapping[str, list[dict]], finished: set[int]) -> set[int]:
        """Check what a launch has added to the journals, which were `before`; returns the rows with a result."""
        done = set(finished)
        for name, journal in launched.records(folder).items():
            new = journal[len(before.get(name, [])) :]
            started = {row for record in new for row in record.get("start", [])}
            results = {record["row"] for record in new if "row" in record}
            _expect(not started & finished, "finished rows were captioned again", folder)
            in_flight = started - results
            _expect(len(in_flight) <= SLOTS, f"{len(in_flight)} rows were in flight in {SLOTS} slots", folder)
            self.most_in_flight = max(self.most_in_flight, len(in_flight))
            done |= results
        return done

    def _any_msrun(self, rng: random.Random) -> list[str]:
        return launched.msrun(rng.randint(1, 3), *FLAGS, port=rng.randint(9000, 9900))

    def _new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "meta.csv").write_bytes((self.folder / "clips" / "meta.csv").read_bytes())
        return folder


def _wait_until_written(folder: Path, launcher: subprocess.Popen[bytes]) -> None:
    while not (folder / launched.OUTPUT).exists() and launcher.poll() is None:
        time.sleep(0.1)


def _expect(holds: bool, problem: str, folder: Path) -> None:
    if not holds:
        logs = [folder / "launcher.log", *sorted((folder / "msrun_log").glob("*.log"))]
        texts = [f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs if path.exists()]
        raise CheckFailed("\n".join([f"{folder.name}: {problem}", *texts]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    ways = list(product(TARGETS, SIGNALS))
    with TemporaryDirectory() as name:
        chaos = Chaos(Path(name).resolve(), flags.seed, flags.clips)
        chaos.prepare(launched.msrun(2, *FLAGS))
        logger.info("undisturbed: %.0f s + %.0f s", chaos.start_seconds, chaos.caption_seconds)
        for number in range(flags.runs):
            target, signal_number = ways[number % len(ways)]
            chaos.disturb(number, target, signal_number)
            logger.info("run %d of %d: same outputs", number + 1, flags.runs)
        logger.info("at most %d rows of a worker were captioned again", chaos.most_in_flight)
    return 0


if __name__ == "__main__":
    sys.exit(main())
