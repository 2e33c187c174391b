"""Summaries and titles through the test service: texts, parts, failures, what is paid, and runs that end early."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.api.options import Generation, ServiceOptions
from pipeline.captioning.captioners.api.source import ServiceSource
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.long_videos.division import TimedText
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.meta.names import TEXT_COLUMN
from pipeline.captioning.meta.results import CaptionResult, Failure, RowResult
from pipeline.captioning.process.watchdog import Watchdog
from pipeline.captioning.run import job, run_flags
from pipeline.captioning.run.finished_rows import FinishedRows
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.options import job_options as options_of
from pipeline.captioning.run.service.summaries import SummaryServiceWork
from pipeline.captioning.run.service.summary_source import SummaryServiceSource
from pipeline.captioning.run.service.work import ServiceWork
from pipeline.captioning.run.summaries.row import SummaryRow
from pipeline.captioning.run.summaries.settings import SUMMARY, TITLE, SummarySettings
from pipeline.captioning.workers.launch import Launch
from scripts import service_runs
from scripts.coded_clips import render_coded_clip
from scripts.service_runs import KEY_VARIABLE, ROOT, RunningService, read_table
from tests.captioning.run import forked
from tests.service_faults import GOOD, Faults, caption_of

COMMAND = ROOT / "pipeline" / "captioning" / "summarize.py"
MODULES = ("pipeline.captioning.run.service.summary_command", "pipeline.captioning.captioners.api.service")
TABLE, OUTPUT, FAILURES, REPORT = (
    f"segments{end}.csv" if not end.endswith(".json") else f"segments{end}"
    for end in ("", "_summary", "_summary_failures", "_summary_report.json")
)
PARTS = SummarySettings(summary_tokens=60, title_tokens=20, context_tokens=700)
PARTS_FLAGS = ("--summary_tokens", "60", "--title_tokens", "20", "--context_tokens", "700")
KEY = "sk-of-the-tests"
WORDS = 16
"""Of an answer at most, so that summaries of parts are shorter than the parts."""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        with forked.serve(COMMAND, *MODULES) as server:
            yield server


@dataclass
class Runs:
    """Runs of the command in a folder. output: what the last one printed."""

    server: subprocess.Popen[str]
    folder: Path
    output: str = ""
    count: int = 0

    def run(self, service: RunningService, *flags: str, until: Callable[[], None] | None = None) -> int:
        self.count += 1
        printed = self.folder / f"printed_{self.count}"
        printed.mkdir()
        arguments = [TABLE, "--base_url", service.url, "--model", "fake-vl", *flags]
        exit_code = forked.run(self.server, arguments, self.folder, printed, until)
        self.output = (printed / "stderr").read_text()
        return exit_code

    def table(self) -> dict[str, dict[str, str]]:
        """The rows of the output by the names of their videos."""
        return {Path(row["path"]).name: row for row in read_table(self.folder / OUTPUT)}

    def report(self) -> dict[str, Any]:
        return service_runs.service_report(self.folder, REPORT)


@pytest.fixture
def runs(server: subprocess.Popen[str], tmp_path: Path) -> Runs:
    (tmp_path / "run").mkdir()
    return Runs(server, tmp_path / "run")


def _write(folder: Path, captions: dict[str, Sequence[str]]) -> None:
    """Write the table of segments: those of each video have four seconds."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "text"])
        for video, texts in captions.items():
            writer.writerows([video, 4 * i, 4 * i + 4, text] for i, text in enumerate(texts))


def _texts(captions: Sequence[str]) -> list[TimedText]:
    return [TimedText(4000 * i, 4000 * i + 4000, text) for i, text in enumerate(captions) if text]


def _long(videos: int, segments: int = 40) -> dict[str, Sequence[str]]:
    """Videos whose captions do not fit into the window of PARTS."""
    sentence = "a person walks past a tall house and two birds fly over the trees"
    return {f"{v}.mp4": [f"Clip {v} {i}: {sentence}." for i in range(segments)] for v in range(videos)}


def _expected(captions: Sequence[str], faults: Faults, settings: SummarySettings = PARTS) -> tuple[RowResult, int]:
    """What the test service makes of a video's captions, and the number of questions."""
    options = ServiceOptions("http://host/v1", Generation("m"), Path("answers.sqlite"))
    window, questions = SummaryServiceSource(options, settings).window, 0
    row = SummaryRow(0, "", _texts(captions), (SUMMARY, TITLE), settings, window)
    while not row.is_answered:
        for number, question in enumerate(row.ask()):
            questions += 1
            answer = caption_of([], question)
            words = answer.split()[: faults.words]
            is_good = faults.kind(answer) == GOOD
            row.answer(number, CaptionResult(" ".join(words), 1) if is_good else Failure("blocked", ("filter",)))
    return row.result(), questions


def _caption(result: RowResult, column: str) -> str:
    found = result.results[column]
    return found.caption if isinstance(found, CaptionResult) else ""


def test_summary_and_title_of_each_video(runs: Runs, tmp_path: Path) -> None:
    captions = {"a.mp4": ["A dog.", "", "A cat, and a bird."], "b.mp4": ["草地上有一只狗。"], "none.mp4": ["", ""]}
    _write(runs.folder, captions)
    with service_runs.running_service(tmp_path / "service") as service:
        assert runs.run(service, "--dry_run") == 0, runs.output
        assert "about 4 requests about 2 videos" in runs.output
        assert service.log().requests == [] and not (runs.folder / "segments_answers.sqlite").exists()
        assert runs.run(service) == 0, runs.output
        log = service.log()
        assert sorted(request["max_tokens"] for request in log.requests) == [40, 40, 200, 200]
        assert len(log.answered()) == 4
        table = runs.table()
        for video in ("a.mp4", "b.mp4"):
            expected, _ = _expected(captions[video], Faults(), SummarySettings())
            for column in (SUMMARY, TITLE):
                assert table[video][column] == _caption(expected, column)
        assert "[0:00 - 0:04] A dog. [0:08 - 0:12] A cat, and a bird." in table["a.mp4"][SUMMARY]
        assert (table["a.mp4"]["segments"], table["a.mp4"]["missing_segments"]) == ("3", "4.000-8.000")
        failure = service_runs.failures(runs.folder, FAILURES)[2]
        assert failure["stage"] == "segments" and "no segment of this video has a caption" in str(failure)
        assert runs.report()["answers_paid"] == 4

        assert runs.run(service, "--output", "again.csv") == 0, runs.output
        assert len(service.log().requests) == 4, "the store has all answers"
        assert (runs.folder / "again.csv").read_bytes() == (runs.folder / OUTPUT).read_bytes()


def test_long_texts_are_summarised_in_parts_and_then_together(runs: Runs, tmp_path: Path) -> None:
    captions = _long(2)
    _write(runs.folder, captions)
    with service_runs.running_service(tmp_path / "service", words=WORDS, latency=0.05) as service:
        assert runs.run(service, *PARTS_FLAGS, "--concurrency", "3") == 0, runs.output
        log, figures = service.log(), service.stats()
    assert 2 <= figures["max_in_flight"] <= 3
    questions = 0
    for video, row in runs.table().items():
        expected, count = _expected(captions[video], Faults(words=WORDS))
        assert count > 4, "there are parts"
        questions += count
        assert [row[SUMMARY], row[TITLE]] == [_caption(expected, SUMMARY), _caption(expected, TITLE)]
    assert log.by_status() == {"answered": questions}
    assert {request["max_tokens"] for request in log.requests} == {60, 20}


def test_a_run_that_is_killed_writes_the_same_and_uses_the_summaries_of_parts(runs: Runs, tmp_path: Path) -> None:
    captions, concurrency = _long(3), 2
    _write(runs.folder, captions)
    expected = {video: _expected(texts, Faults(words=WORDS)) for video, texts in captions.items()}
    flags = (*PARTS_FLAGS, "--concurrency", str(concurrency))
    with service_runs.running_service(tmp_path / "service", words=WORDS, latency=0.1) as service:

        def until() -> None:
            deadline = time.monotonic() + 60
            while service.stats()["statuses"].get("answered", 0) < 4 and time.monotonic() < deadline:
                time.sleep(0.02)

        assert runs.run(service, *flags, until=until) == -9, runs.output
        assert not (runs.folder / OUTPUT).exists()
        before = len(service.log().requests)
        assert before < sum(count for _, count in expected.values())
        assert runs.run(service, *flags) == 0, runs.output
        log = service.log()
    assert log.paid_twice() <= concurrency, "only requests in flight may be paid twice"
    assert runs.report()["answers_from_store"] > 0
    for video, row in runs.table().items():
        assert row[TITLE] == _caption(expected[video][0], TITLE)


def test_a_refused_key_ends_the_run_and_another_service_completes_it(runs: Runs, tmp_path: Path) -> None:
    captions = _long(4, 12)
    _write(runs.folder, captions)
    flags = (*PARTS_FLAGS, "--concurrency", "2", "--api_key_env", KEY_VARIABLE)
    stops: dict[str, Any] = {"words": WORDS, "latency": 0.05, "key_stops_after": {KEY: 5}}
    with service_runs.running_service(tmp_path / "first", **stops) as service:
        assert runs.run(service, *flags) == 1
        first = service.log()
    errors = [line for line in runs.output.splitlines() if " ERROR " in line or "Traceback" in line]
    assert len(errors) == 1 and "run the same command again to resume" in errors[0], runs.output
    assert first.by_status()["answered"] == 5 and not (runs.folder / OUTPUT).exists()
    with service_runs.running_service(tmp_path / "second", words=WORDS) as service:
        assert runs.run(service, *flags) == 0, runs.output
        second = service.log()
    assert not {one["key"] for one in first.answered()} & {one["key"] for one in second.requests}
    assert len(runs.table()) == 4


def test_max_cost_ends_the_run_and_a_larger_one_completes_it(runs: Runs, tmp_path: Path) -> None:
    """An answer costs 0.01."""
    _write(runs.folder, {f"{v}.mp4": [f"A dog with {v} balls."] for v in range(8)})
    flags = ("--concurrency", "4", "--price_in", "5", "--price_out", "10")
    with service_runs.running_service(tmp_path / "service", tokens=[1800, 100]) as service:
        assert runs.run(service, *flags, "--max_cost", "0.07") == 1
        assert "--max_cost" in runs.output and "Traceback" not in runs.output
        paid = len(service.log().answered())
        assert 4 <= paid <= 7
        assert runs.run(service, *flags, "--max_cost", "1") == 0, runs.output
        log = service.log()
    assert log.by_status() == {"answered": 16} and log.paid_twice() == 0
    assert runs.report()["cost"] == pytest.approx(0.01 * (16 - paid))


def test_failures_cost_their_own_videos(runs: Runs, tmp_path: Path) -> None:
    captions: dict[str, Sequence[str]] = {f"{v}.mp4": [f"A dog with {v} balls."] for v in range(12)}
    _write(runs.folder, captions)
    faults: dict[str, Any] = {"answers": {"filter_400": 0.3}, "transient": {"500": 0.2}}
    with service_runs.running_service(tmp_path / "service", **faults) as service:
        assert runs.run(service) == 0, runs.output
    kinds = set()
    for video, row in runs.table().items():
        expected, _ = _expected(captions[video], Faults(**faults), SummarySettings())
        found = _caption(expected, SUMMARY), _caption(expected, TITLE)
        assert (row[SUMMARY], row[TITLE]) == found, video
        kinds.add(tuple(map(bool, found)))
    assert kinds == {(True, True), (True, False), (False, False)}, "a failed title leaves the summary"
    stages = {failure["stage"] for failure in read_table(runs.folder / FAILURES)}
    assert stages == {"blocked"}


SERVICE = (TABLE, "--base_url", "http://127.0.0.1:1/v1", "--model", "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TABLE, "--base_url=ftp://host/v1"], "ftp://host/v1"),
        ([*SERVICE, "--batch"], "--batch is not possible"),
        ([*SERVICE, "--send", "video"], "--send"),
        ([*SERVICE, "--max_new_tokens", "9"], "give --summary_tokens"),
        ([*SERVICE, "--bs", "4"], "--bs is a flag of models"),
        ([*SERVICE, "--pretrained_model_name_or_path", "folder"], "leave it or --base_url out"),
        ([*SERVICE, "--context_tokens", "300"], "a window of 300 tokens"),
        ([*SERVICE, "--column", "caption"], "'caption'"),
        ([*SERVICE, "--summary_question", "{x}"], "--summary_question"),
        ([*SERVICE, "--max_cost", "1"], "--price_in"),
        ([*SERVICE, "--answers", TABLE], "is the meta table"),
        ([TABLE, "--model", "m"], "give --base_url URL, too"),
    ],
)
def test_usage_errors(server: subprocess.Popen[str], tmp_path: Path, arguments: list[str], message: str) -> None:
    folder, output = tmp_path / "run", tmp_path / "output"
    folder.mkdir()
    output.mkdir()
    _write(folder, {"a.mp4": ["A dog."]})
    forked.check_usage_error(server, arguments, message, folder, output)


def test_help_shows_the_flags_of_one_and_names_the_other(server: subprocess.Popen[str], tmp_path: Path) -> None:
    shown = {}
    for name, arguments in (("model", ["--help"]), ("service", ["--base_url", "http://host/v1", "--help"])):
        (tmp_path / name).mkdir()
        assert forked.run(server, arguments, tmp_path, tmp_path / name) == 0
        shown[name] = (tmp_path / name / "stdout").read_text()
    assert "--num_beams" in shown["model"] and "--base_url URL" in shown["model"]
    assert "--max_cost" in shown["service"] and "--num_beams" not in shown["service"]
    assert "Without --base_url, a model" in " ".join(shown["service"].split())


def test_a_summary_depends_on_the_settings_and_not_on_those_of_captions() -> None:
    plain = Generation("m", system="About frames.", schema={"type": "object"}, extra_body={"x": 1})
    options = ServiceOptions("http://host/v1", plain, Path("answers.sqlite"))
    source = SummaryServiceSource(options, SummarySettings())
    assert source.generation(7) == Generation("m", max_new_tokens=7, extra_body={"x": 1})
    fingerprint = source.fingerprint()
    assert "About frames." not in json.dumps(fingerprint)
    for settings in (SummarySettings(system="Be short."), SummarySettings(context_tokens=4000), PARTS):
        assert SummaryServiceSource(options, settings).fingerprint() != fingerprint
    assert source.request("Why?", 7).key != source.request("Why?", 8).key


def test_captions_and_then_summaries_in_one_process_share_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command does that makes both: one file of answers, one work after the other; rows are timed."""
    seconds: list[float | None] = []
    add = FinishedRows.add

    def spied(finished: FinishedRows, result: RowResult, path: str, part: TimeRange | None = None) -> None:
        seconds.append(result.seconds)
        add(finished, result, path, part)

    monkeypatch.setattr(FinishedRows, "add", spied)
    render_coded_clip(tmp_path / "a.mp4", 1)
    (tmp_path / "meta.csv").write_text(f"path\n{tmp_path / 'a.mp4'}\n")
    answers = tmp_path / "answers.sqlite"
    captions, summaries = tmp_path / "meta_caption.csv", tmp_path / "meta_summary.csv"
    with service_runs.running_service(tmp_path / "service", latency=0.1) as service:
        options = ServiceOptions(service.url, Generation("fake-vl", system="Be exact."), answers)
        job_options = _job_options(tmp_path / "meta.csv", captions)
        source = ServiceSource(options, Asks.single("What happens?"), FrameSampling("points", 2), 0)
        assert job.run(job_options, ServiceWork(source, options, job_options), Launch(), Watchdog()) == 0
        job_options = _job_options(captions, summaries)
        work = SummaryServiceWork(options, job_options, SummarySettings(), TEXT_COLUMN)
        assert job.run(job_options, work, Launch(), Watchdog()) == 0
        log = service.log()
    assert log.by_status() == {"answered": 3}
    of_caption, of_summary = seconds
    assert of_caption is not None and 0.1 <= of_caption < 20
    assert of_summary is not None and 0.2 <= of_summary < 20, "summary and title"
    (caption,), (summary,) = read_table(captions), read_table(summaries)
    assert caption[TEXT_COLUMN] in summary[SUMMARY] and "Told" not in summary[SUMMARY].replace(caption[TEXT_COLUMN], "")
    with sqlite3.connect(answers) as connection:
        assert connection.execute("SELECT count(*) FROM jobs WHERE ended IS NOT NULL").fetchone() == (2,)
    connection.close()


def _job_options(meta_path: Path, output: Path) -> JobOptions:
    flags = run_flags.make_parser("caption", "").parse_args([str(meta_path), "--output", str(output)])
    return replace(options_of(flags), times_rows=True)
