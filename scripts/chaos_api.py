"""Kills captioning runs through a misbehaving service at random moments, and checks that nothing is lost or paid twice.

    python -m scripts.chaos_api --rows 1000 --kills 10 --seed 1

The service has every fault that `tests/service_faults.py` knows, and counts on its side. One run is not disturbed. A
second one gets SIGKILL at random moments, some of them during its start, and is resumed until it is finished. Checked:

- the captioned table is, byte for byte, that of the undisturbed run, and the same rows failed for the same reasons;
- at most the requests in flight at the kills are paid twice, and in the undisturbed run none;
- no process remains ten seconds after the last run.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from scripts import launched, service_runs
from scripts.service_runs import FAILURES, OUTPUT, Log, RunningService

logger = logging.getLogger(__name__)

KEY = "sk-key-of-the-chaos"
QUESTIONS = 10
"""Rows with the same clip."""
STARTING = 0.2
"""Share of the kills that come during the start of the command."""
START_SECONDS = 3.0
ANSWER_SECONDS = 0.3
LEAVE_SECONDS = 10
TIMEOUT = 5
"""Seconds after which the client gives up a request that hangs."""
FAULTS: dict[str, Any] = {
    "transient": {
        **{"500": 0.04, "502": 0.02, "503": 0.02, "408": 0.01, "409": 0.01, "hang": 0.005},
        **{"cut_before": 0.02, "cut_body": 0.02, "invalid_json": 0.02, "html": 0.01, "no_choices": 0.01},
    },
    "answers": {
        **{"empty": 0.04, "refusal": 0.04, "empty_always": 0.02, "refusal_always": 0.02},
        **{"filter": 0.02, "filter_400": 0.02, "bad_request": 0.02, "length": 0.04},
    },
    "usage": {"missing": 0.02, "null": 0.02, "negative": 0.02, "text": 0.02},
    "latency": 0.3,
    "latency_spread": 1.0,
    "limit_headers": True,
    "echoes_key": True,
}
PAUSES = ("429_seconds", "429_date", "429")
REQUESTS_BETWEEN_PAUSES = 200


Moment: TypeAlias = Callable[[subprocess.Popen[bytes]], None]
"""Returns when the process is to be killed."""


class CheckFailed(AssertionError):
    """A check of this program failed."""


@dataclass
class Chaos:
    """Runs over the same table, each in its own folder below `folder`."""

    folder: Path
    seed: int
    rows: int
    concurrency: int

    def prepare(self) -> None:
        """Make the clips and the table."""
        service_runs.make_table(self.folder / "source", self.rows, -(-self.rows // QUESTIONS))

    def run(self, name: str, kills: int) -> tuple[Path, Log]:
        """Caption the table, and kill the command `kills` times; returns the folder of the outputs, and what was asked.

        Raises:
            CheckFailed: the command fails, ends before a kill, or leaves processes.
        """
        folder = self.folder / name
        folder.mkdir()
        (folder / "meta.csv").write_bytes((self.folder / "source" / "meta.csv").read_bytes())
        rng = random.Random(f"{self.seed} {name}")
        pauses = itertools.cycle(PAUSES)
        numbers = range(REQUESTS_BETWEEN_PAUSES, 2 * self.rows, REQUESTS_BETWEEN_PAUSES)
        config = {**FAULTS, "seed": self.seed, "schedule": {str(number): next(pauses) for number in numbers}}
        with service_runs.running_service(self.folder / f"{name}-service", **config) as service:
            for number, wait in enumerate(self._moments(service, rng, kills)):
                killed = self._caption(service, folder, wait)
                _expect(killed.exit_code == -9, f"it ended before kill {number + 1}", killed)
                logger.info("kill %d of %d after %d answers", number + 1, kills, len(service.log().answered()))
            done = self._caption(service, folder)
            _expect(done.exit_code == 0, f"exit code {done.exit_code}", done)
            deadline = time.monotonic() + LEAVE_SECONDS
            while (left := launched.processes(folder)) and time.monotonic() < deadline:
                time.sleep(0.2)
            _expect(not left, f"processes remain: {left}", done)
            return folder, service.log()

    def _moments(self, service: RunningService, rng: random.Random, kills: int) -> Iterator[Moment]:
        """The moments of the kills, in order."""
        for answers in sorted(rng.sample(range(1, int(0.95 * self.rows)), kills)):
            if rng.random() < STARTING:
                yield functools.partial(_wait, service, 0, rng.uniform(0, START_SECONDS))
            else:
                yield functools.partial(_wait, service, answers, rng.uniform(0, ANSWER_SECONDS))

    def _caption(self, service: RunningService, folder: Path, until: Moment | None = None) -> service_runs.Done:
        flags = ["--model", "fake-vl", "--question", "{ask}", "--timeout", str(TIMEOUT)]
        flags += ["--concurrency", str(self.concurrency)]
        return service_runs.caption(service, folder, *flags, key=KEY, until=until, timeout=1800)


def _wait(service: RunningService, answers: int, seconds: float, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service has given this many answers, then for `seconds`."""
    service.wait(answers, process)
    time.sleep(seconds)


def _expect(holds: bool, problem: str, done: service_runs.Done) -> None:
    if not holds:
        raise CheckFailed(f"{problem}\n{done.stderr[-5000:]}")


def compare(found: Path, wanted: Path) -> None:
    """Check that two runs have the same captions, and that the same rows failed for the same reasons.

    Raises:
        CheckFailed: they differ.
    """
    if (found / OUTPUT).read_bytes() != (wanted / OUTPUT).read_bytes():
        raise CheckFailed(f"{found / OUTPUT} is not the table of the undisturbed run")
    if stages(found) != stages(wanted):
        raise CheckFailed(f"{found / FAILURES} has other failures than those of the undisturbed run")


def stages(folder: Path) -> dict[int, str]:
    """The stage of each failed row."""
    return {row: failure["stage"] for row, failure in service_runs.failures(folder).items()}


def log_figures(name: str, kills: int, seconds: float, log: Log, folder: Path) -> None:
    failed = Counter(stages(folder).values())
    logger.info("%s: %d kills, %.0f s", name, kills, seconds)
    logger.info("  requests %d, answered %d", len(log.requests), len(log.answered()))
    logger.info("  paid twice %d, of these delivered twice %d", log.paid_twice(), log.answered_twice())
    logger.info("  other requests: %s", _counts({k: n for k, n in log.by_status().items() if k != "answered"}))
    logger.info("  failures: %s", _counts(failed))


def _counts(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with TemporaryDirectory() as name:
        chaos = Chaos(Path(name).resolve(), flags.seed, flags.rows, flags.concurrency)
        chaos.prepare()
        folders = []
        for run, kills in (("undisturbed", 0), ("killed", flags.kills)):
            begin = time.monotonic()
            folder, log = chaos.run(run, kills)
            log_figures(run, kills, time.monotonic() - begin, log, folder)
            if log.paid_twice() > kills * flags.concurrency:
                raise CheckFailed(f"{log.paid_twice()} answers were paid twice, with {kills} kills")
            folders.append(folder)
        compare(folders[1], folders[0])
        logger.info("both runs: the same table and the same failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
