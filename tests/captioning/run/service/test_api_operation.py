"""What happens around a run through a service: Ctrl-C, wrong settings, a dry run, questions that are asked again."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import service_runs
from scripts.coded_clips import coded_image
from scripts.service_runs import OUTPUT, Row
from tests.service_faults import expected_caption

pytestmark = pytest.mark.usefixtures("api_forks")

FLAGS = ("--model", "fake-vl", "--question", "{ask}")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A folder with a table of 24 rows: 8 clips, and three questions about each."""
    folder = tmp_path_factory.mktemp("clips")
    return folder, service_runs.make_table(folder, 24, 8)


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    (to / "meta.csv").write_bytes((folder / "meta.csv").read_bytes())
    return to


def _expected(rows: list[Row]) -> list[str]:
    return [expected_caption(row.codes, row.question) for row in rows]


def _captions(folder: Path) -> list[str]:
    return [row["text"] for row in service_runs.read_table(folder / OUTPUT)]


def test_after_ctrl_c_the_answers_in_flight_are_used(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    folder = _copy(table[0], tmp_path / "run")
    with service_runs.running_service(tmp_path / "service", latency=0.5) as service:

        def interrupt(process: subprocess.Popen[bytes]) -> None:
            service.wait(4, process)
            process.send_signal(signal.SIGINT)
            process.wait(30)

        stopped = service_runs.caption(service, folder, *FLAGS, "--concurrency", "4", until=interrupt)
        assert stopped.exit_code == 1 and "interrupted" in stopped.stderr and "Traceback" not in stopped.stderr
        assert 4 <= len(service.log().answered()) < 24
        done = service_runs.caption(service, folder, *FLAGS)
        log = service.log()
    assert done.exit_code == 0, done.stderr
    assert log.by_status() == {"answered": 24} and log.paid_twice() == 0
    assert _captions(folder) == _expected(table[1])


def test_a_wrong_model_is_corrected_without_restart(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """A row whose file is missing has failed before the service says that it does not know the model."""
    folder = _copy(table[0], tmp_path / "run")
    with (folder / "meta.csv").open("a") as file:
        file.write("missing.mp4,What?\n")
    with service_runs.running_service(tmp_path / "service") as service:
        wrong = service_runs.caption(service, folder, "--model", "nope", "--question", "{ask}")
        assert wrong.exit_code == 1 and "nope" in wrong.stderr, wrong.stderr
        assert "correct the command, and run it again" in wrong.stderr and "same command" not in wrong.stderr
        done = service_runs.caption(service, folder, *FLAGS)
    assert done.exit_code == 0, done.stderr
    assert _captions(folder)[:-1] == _expected(table[1])
    assert [failure["stage"] for failure in service_runs.failures(folder).values()] == ["path"]


def test_rows_that_were_refused_are_asked_again_each_time(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    folder = _copy(table[0], tmp_path / "run")
    limit = ("--limit", "3")
    with service_runs.running_service(tmp_path / "service", answers={"refusal_always": 1.0}) as service:
        for requests in (6, 12):  # each question is asked once more
            failed = service_runs.caption(service, folder, *FLAGS, *limit, "--skip_if_existing", "--pay_again")
            assert failed.exit_code == 1 and "refused" in failed.stderr, failed.stderr
            assert service.stats()["requests"] == requests
        again = service_runs.caption(service, folder, *FLAGS, *limit, "--skip_if_existing")
        assert again.exit_code == 1 and service.stats()["requests"] == 12, "the stored answers are used"


def test_a_dry_run_changes_nothing(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    folder = _copy(table[0], tmp_path / "run")
    prices = ("--price_in", "5", "--price_out", "10")
    with service_runs.running_service(tmp_path / "service", tokens=[1800, 100]) as service:
        stopped = service_runs.caption(service, folder, *FLAGS, *prices, "--max_cost", "0.05", "--concurrency", "1")
        assert stopped.exit_code == 1, stopped.stderr
        requests, before = service.stats()["requests"], _contents(folder)
        dry = service_runs.caption(service, folder, *FLAGS, *prices, "--dry_run", "--restart")
        assert dry.exit_code == 0, dry.stderr
        assert f"{24 - requests} requests" in dry.stderr and f"{requests} questions are answered" in dry.stderr
        assert service.stats()["requests"] == requests and _contents(folder) == before
        # The budget still counts what the interrupted run has spent.
        again = service_runs.caption(service, folder, *FLAGS, *prices, "--max_cost", "0.05", "--concurrency", "1")
        assert again.exit_code == 1 and service.stats()["requests"] == requests


def _contents(folder: Path) -> dict[str, bytes]:
    """All files, without the logs of the command and the index of SQLite's write-ahead log."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".stdout", ".stderr")]
    return {str(path): path.read_bytes() for path in files if not path.name.endswith(("-shm", "-wal"))}


def test_two_processes_share_a_store(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """They caption the same table at the same time; afterwards no question has to be asked."""
    folders = [_copy(table[0], tmp_path / name) for name in ("one", "two", "three")]
    answers = ("--answers", str(tmp_path / "answers.sqlite"))
    with service_runs.running_service(tmp_path / "service", latency=0.1) as service:
        second: list[service_runs.Done] = []

        def run_second(process: subprocess.Popen[bytes]) -> None:
            second.append(service_runs.caption(service, folders[1], *FLAGS, *answers, "--concurrency", "2"))
            process.wait(60)

        first = service_runs.caption(service, folders[0], *FLAGS, *answers, "--concurrency", "2", until=run_second)
        assert (first.exit_code, second[0].exit_code) == (0, 0), first.stderr + second[0].stderr
        requests = service.stats()["requests"]
        third = service_runs.caption(service, folders[2], *FLAGS, *answers)
        assert third.exit_code == 0 and service.stats()["requests"] == requests
    assert all(_captions(folder) == _expected(table[1]) for folder in folders)


def test_video_files_are_sent_with_their_options(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """And still images as images."""
    coded_image(5).save(tmp_path / "image.png")
    clip = service_runs.read_table(table[0] / "meta.csv")[0]["path"]
    (tmp_path / "meta.csv").write_text(f"path\n{clip}\n{tmp_path / 'image.png'}\n")
    with service_runs.running_service(tmp_path / "service") as service:
        done = service_runs.caption(
            service, tmp_path, "--model", "fake-vl", "--send", "video", "--num_frames", "3", frames=()
        )
    assert done.exit_code == 0, done.stderr
    first, second = _captions(tmp_path)
    digest = hashlib.sha256(Path(clip).read_bytes()).hexdigest()[:8]
    assert f"video {digest}" in first and '{"num_frames": 3}' in first
    assert second.startswith("1 shown")
    assert json.loads((tmp_path / "meta_caption_report.json").read_text())["images"] == 1


def test_progress_gallery_and_export_after_a_run(table: tuple[Path, list[Row]], tmp_path: Path) -> None:
    folder = _copy(table[0], tmp_path / "run")
    with service_runs.running_service(tmp_path / "service", tokens=[1000, 10]) as service:
        done = service_runs.caption(service, folder, *FLAGS, "--price_in", "1", "--price_out", "2")
    assert done.exit_code == 0, done.stderr
    assert "24,000 tokens in, 240 out, cost 0.0245" in done.stderr, "24,000 / 1e6 + 2 * 240 / 1e6"

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout

    progress = json.loads(run("pipeline.captioning.progress", "meta.csv", "--json", "--watch", "off"))
    assert progress["done"] == 24 and progress["service"]["prompt_tokens"] == 24_000
    run("pipeline.captioning.gallery", "meta_caption.csv", "--output", "gallery.html")
    assert _expected(table[1])[0] in (folder / "gallery.html").read_text()
    run("pipeline.datasets.export", "meta_caption.csv", "--to", "jsonl", "--output", "captions.jsonl")
    assert len((folder / "captions.jsonl").read_text().splitlines()) == 24
