"""Runs through a service that are killed or stopped, and resumed: the same output, and nothing is paid twice."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.journal.folder import journal_folder
from scripts import service_runs
from scripts.service_runs import OUTPUT, Row, RunningService
from tests.service_faults import expected_caption

pytestmark = pytest.mark.usefixtures("api_forks")

FLAGS = ("--model", "fake-vl", "--question", "{ask}")
CONCURRENCY = 16
FAULTS: dict[str, Any] = {
    "transient": {"500": 0.05, "cut_before": 0.03, "cut_body": 0.03, "invalid_json": 0.03},
    "answers": {"empty": 0.05, "refusal": 0.05, "refusal_always": 0.05, "filter": 0.05, "length": 0.05},
    "latency": 0.1,
    "latency_spread": 1.0,
}
FIRST_KEY, SECOND_KEY = "sk-the-first-key", "sk-the-second-key"


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A run of 300 rows that was not killed. folder: of its table and output; requests: that it sent."""

    service: RunningService
    folder: Path
    requests: int

    def __post_init__(self) -> None:
        assert service_runs.failures(self.folder), "some rows of this run fail"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    root = tmp_path_factory.mktemp("undisturbed")
    service_runs.make_table(root / "run", 300, 60)
    with service_runs.running_service(root / "service", **FAULTS) as service:
        done = service_runs.caption(service, root / "run", *FLAGS)
        assert done.exit_code == 0, done.stderr
        yield Undisturbed(service, root / "run", len(service.log().requests))


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A folder with a table of 60 rows, and these rows."""
    folder = tmp_path_factory.mktemp("sixty")
    return folder, service_runs.make_table(folder, 60, 12)


def _copy_of_table(folder: Path, to: Path) -> Path:
    to.mkdir()
    (to / "meta.csv").write_bytes((folder / "meta.csv").read_bytes())
    return to


def _captions(folder: Path, name: str = OUTPUT) -> list[str]:
    return [row["text"] for row in service_runs.read_table(folder / name)]


def test_a_run_that_is_killed_twice_writes_the_same_table(undisturbed: Undisturbed, tmp_path: Path) -> None:
    folder, kills = _copy_of_table(undisturbed.folder, tmp_path / "run"), (60, 170)
    flags = (*FLAGS, "--concurrency", str(CONCURRENCY))
    with service_runs.running_service(tmp_path / "service", **FAULTS) as service:
        for answers in kills:

            def until(process: subprocess.Popen[bytes], answers: int = answers) -> None:
                service.wait(answers, process)

            killed = service_runs.caption(service, folder, *flags, until=until)
            assert killed.exit_code == -9, f"it ended before it was killed: {killed.stderr}"
            assert not (folder / OUTPUT).exists()
        done = service_runs.caption(service, folder, *flags)
        log = service.log()
    assert done.exit_code == 0, done.stderr
    assert (folder / OUTPUT).read_bytes() == (undisturbed.folder / OUTPUT).read_bytes()
    found, wanted = (
        {row: failure["stage"] for row, failure in service_runs.failures(one).items()}
        for one in (folder, undisturbed.folder)
    )
    assert found == wanted
    assert log.paid_twice() <= CONCURRENCY * len(kills), "only requests in flight may be paid twice"


def test_a_later_run_uses_the_answers_until_pay_again(undisturbed: Undisturbed) -> None:
    """In another order of rows, with another output, and with another concurrency."""
    service, folder = undisturbed.service, undisturbed.folder
    lines = (folder / "meta.csv").read_text().splitlines(keepends=True)
    (folder / "reversed.csv").write_text("".join([lines[0], *lines[:0:-1]]))
    begin = len(service.log().requests)
    flags = (*FLAGS, "--answers", "meta_answers.sqlite", "--output", "other.csv", "--concurrency", "5")
    done = service_runs.caption(service, folder, *flags, table="reversed.csv")
    assert done.exit_code == 0, done.stderr
    assert service.log(begin).requests == [], "nothing is sent"
    assert _captions(folder, "other.csv") == _captions(folder)[::-1]
    report = service_runs.service_report(folder, "other_report.json")
    assert report["answers_paid"] == 0 and report["answers_from_store"] > 0

    again = service_runs.caption(service, folder, *flags, "--pay_again", "--limit", "60", table="reversed.csv")
    assert again.exit_code == 0, again.stderr
    asked = {one["key"] for one in service.log(begin).requests}
    assert len(asked) == 60, "every row is asked again"
    assert _captions(folder, "other.csv")[:60] == _captions(folder)[:-61:-1]
    assert service.log(begin).answered_twice() == 0


@pytest.mark.parametrize(("fault", "status"), [("key_stops_after", "key"), ("quota_after", "quota")])
def test_a_key_that_stops_working_ends_the_run_and_another_one_completes_it(
    sixty: tuple[Path, list[Row]], tmp_path: Path, fault: str, status: str
) -> None:
    folder = _copy_of_table(sixty[0], tmp_path / "run")
    flags = (*FLAGS, "--concurrency", "8")
    config: dict[str, Any] = {fault: {FIRST_KEY: 30}, "echoes_key": True, "latency": 0.1, "latency_spread": 1.0}
    with service_runs.running_service(tmp_path / "service", **config) as service:
        stopped = service_runs.caption(service, folder, *flags, key=FIRST_KEY)
        assert stopped.exit_code == 1, stopped.stderr
        errors = [line for line in stopped.stderr.splitlines() if " ERROR " in line or "Traceback" in line]
        assert len(errors) == 1 and "run the same command again to resume" in errors[0], stopped.stderr
        assert not (folder / OUTPUT).exists() and journal_folder(folder / OUTPUT).exists()
        first = service.log()
        assert first.by_status()["answered"] == 30 and 1 <= first.by_status()[status] <= 8

        done = service_runs.caption(service, folder, *flags, key=SECOND_KEY)
        assert done.exit_code == 0, done.stderr
        log = service.log()
    assert log.by_status()["answered"] == 60 and log.paid_twice() == 0, "nothing is paid twice"
    assert _captions(folder) == [expected_caption(row.codes, row.question) for row in sixty[1]]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for key in (FIRST_KEY, SECOND_KEY):
        assert key not in stopped.stdout + stopped.stderr + done.stdout + done.stderr
        assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_max_cost_stops_the_run_and_a_larger_one_completes_it(sixty: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """An answer costs 0.01; the budget is spent but not exceeded, although eight requests are in flight."""
    folder = _copy_of_table(sixty[0], tmp_path / "run")
    flags = (*FLAGS, "--concurrency", "8", "--price_in", "5", "--price_out", "10")
    with service_runs.running_service(tmp_path / "service", tokens=[1800, 100], latency=0.1) as service:
        stopped = service_runs.caption(service, folder, *flags, "--max_cost", "0.25")
        assert stopped.exit_code == 1, stopped.stderr
        assert "--max_cost" in stopped.stderr and "Traceback" not in stopped.stderr
        assert not (folder / OUTPUT).exists()
        paid = len(service.log().answered())
        assert 15 <= paid <= 25, "the budget is not exceeded"

        again = service_runs.caption(service, folder, *flags, "--max_cost", "0.25")
        assert again.exit_code == 1, again.stderr
        paid = len(service.log().answered())
        assert paid <= 25, "the interrupted run counts"

        done = service_runs.caption(service, folder, *flags, "--max_cost", "5")
        assert done.exit_code == 0, done.stderr
        log = service.log()
    assert log.by_status() == {"answered": 60} and log.paid_twice() == 0
    assert _captions(folder) == [expected_caption(row.codes, row.question) for row in sixty[1]]
    report = service_runs.service_report(folder)
    assert report["cost"] == pytest.approx(0.01 * (60 - paid))
