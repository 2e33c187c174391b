"""Usage errors of caption_api.py: exit code 2, one line on standard error, nothing written, and nothing sent."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import service_runs
from scripts.service_runs import COMMAND, RunningService
from tests.captioning.run import forked

URL = "URL"
"""Stands for the URL of the test service."""
SERVICE = ("meta.csv", "--base_url", URL, "--model", "fake-vl")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with service_runs.running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    with forked.serve(COMMAND) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and other files, most of them faulty, for commands that write nothing."""
    folder = tmp_path_factory.mktemp("usage")
    (folder / "meta.csv").write_text("path\na.mp4\n")
    (folder / "no_path.csv").write_text("name\na.mp4\n")
    (folder / "ranges.csv").write_text("path,start\na.mp4,\na.mp4,1.5\n")
    (folder / "codes.csv").write_text("path,start\na.mp4,0:01:00\n")
    (folder / "text.json").write_text("not JSON")
    (folder / "list.json").write_text("[1]")
    (folder / "no_schema.json").write_text('{"type": "objekt"}')
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "folder").mkdir()
    with sqlite3.connect(folder / "other.sqlite") as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    return folder


USAGE_ERRORS = [
    ([], "meta_path"),
    (["meta.csv", "--model", "fake-vl"], "--base_url"),
    (["meta.csv", "--base_url", "localhost:8000/v1", "--model", "m"], "localhost:8000/v1"),
    (["meta.csv", "--base_url", "ftp://localhost/v1", "--model", "m"], "ftp://localhost/v1"),
    (["meta.csv", "--base_url", URL, "--model", ""], "--model"),
    (["nowhere.csv", *SERVICE[1:]], "nowhere.csv does not exist"),
    (["no_path.csv", *SERVICE[1:]], "no 'path' column"),
    (["codes.csv", *SERVICE[1:]], "'0:01:00' is not a time in seconds"),
    (["ranges.csv", *SERVICE[1:], "--send", "video"], "give --send images, or --whole_files"),
    ([*SERVICE, "--no_such_flag"], "--no_such_flag"),
    ([*SERVICE, "--output", "meta.csv"], "the meta file itself"),
    ([*SERVICE, "--question", "{x}"], "'x' (--question inserts its cells"),
    ([*SERVICE, "--ask", "a=x", "--question", "y"], "--question does not go with --ask"),
    ([*SERVICE, "--api_key_env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
    ([*SERVICE, "--concurrency", "0"], "--concurrency: 0 is less than 1"),
    ([*SERVICE, "--concurrency", "many"], "--concurrency: 'many' is not a whole number"),
    ([*SERVICE, "--requests_per_minute", "0"], "--requests_per_minute: 0"),
    ([*SERVICE, "--tokens_per_minute", "-1"], "--tokens_per_minute: -1"),
    ([*SERVICE, "--max_tries", "0"], "--max_tries: 0"),
    ([*SERVICE, "--timeout", "0"], "--timeout: 0"),
    ([*SERVICE, "--extra_body", "{"], "--extra_body"),
    ([*SERVICE, "--extra_body", "[1]"], "--extra_body"),
    ([*SERVICE, "--extra_body", "@nowhere.json"], "nowhere.json"),
    ([*SERVICE, "--max_new_tokens", "0"], "--max_new_tokens: 0"),
    ([*SERVICE, "--temperature", "-1"], "--temperature: -1"),
    ([*SERVICE, "--temperature", "warm"], "--temperature: 'warm'"),
    ([*SERVICE, "--top_p", "1.5"], "--top_p: 1.5"),
    ([*SERVICE, "--json_schema", "nowhere.json"], "nowhere.json"),
    ([*SERVICE, "--json_schema", "folder"], "folder"),
    ([*SERVICE, "--json_schema", "text.json"], "text.json"),
    ([*SERVICE, "--json_schema", "binary.txt"], "binary.txt"),
    ([*SERVICE, "--json_schema", "list.json"], "list.json"),
    ([*SERVICE, "--json_schema", "no_schema.json"], "no_schema.json"),
    ([*SERVICE, "--num_frames", "3", "--fps", "1"], "give one of them"),
    ([*SERVICE, "--send", "audio"], "--send: invalid choice: 'audio'"),
    ([*SERVICE, "--max_side", "0"], "--max_side: 0"),
    ([*SERVICE, "--jpeg_quality", "96"], "--jpeg_quality: 96"),
    ([*SERVICE, "--detail", "medium"], "--detail: invalid choice: 'medium'"),
    ([*SERVICE, "--price_in", "1"], "--price_out"),
    ([*SERVICE, "--price_in", "-1", "--price_out", "1"], "--price_in: -1"),
    ([*SERVICE, "--max_cost", "1"], "--price_in"),
    ([*SERVICE, "--answers", "nowhere/answers.sqlite"], "nowhere"),
    ([*SERVICE, "--answers", "folder"], "folder"),
    ([*SERVICE, "--answers", "text.json"], "text.json"),
    ([*SERVICE, "--answers", "other.sqlite"], "other.sqlite"),
    ([*SERVICE, "--answers", "meta.csv"], "meta.csv"),
    ([*SERVICE, "--batch", "--poll_seconds", "0"], "--poll_seconds: 0"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS, ids=[" ".join(case[-2:]) for case, _ in USAGE_ERRORS])
def test_usage_error(
    service: RunningService,
    fork_server: subprocess.Popen[str],
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    given = [service.url if argument == URL else argument for argument in arguments]
    forked.check_usage_error(fork_server, given, message, folder, tmp_path)
    assert service.stats()["requests"] == service.stats()["model_lists"] == 0, "nothing was sent"


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMMAND), *arguments]
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env={**inherited, **environment}
    )


def _assert_usage_error(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_usage_error_takes_under_3_seconds(folder: Path, service: RunningService) -> None:
    """Real processes: a missing flag, a table, a file."""
    for arguments, message in (
        (["meta.csv"], "--base_url"),
        (["no_path.csv", "--base_url", service.url, "--model", "m"], "no 'path' column"),
        (["meta.csv", "--base_url", service.url, "--model", "m", "--json_schema", "text.json"], "text.json"),
    ):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        _assert_usage_error(_run(folder, *arguments), message)
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin
        assert seconds < 3, "computing time, which depends little on what else the machine does"


def test_a_password_in_the_url_is_refused_and_not_repeated(folder: Path) -> None:
    done = _run(folder, "meta.csv", "--base_url", "http://me:pass-word@localhost/v1", "--model", "m")
    _assert_usage_error(done, "--base_url")
    assert "pass-word" not in done.stdout + done.stderr


def test_an_empty_variable_of_the_key_is_refused(folder: Path, service: RunningService) -> None:
    arguments = ("meta.csv", "--base_url", service.url, "--model", "m", "--api_key_env", "EMPTY_KEY")
    _assert_usage_error(_run(folder, *arguments, EMPTY_KEY=""), "EMPTY_KEY")


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"},
        {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "RANK_ID": "0"},
    ],
    ids=["torchrun", "msrun"],
)
def test_a_launcher_is_refused(folder: Path, service: RunningService, environment: dict[str, str]) -> None:
    done = _run(folder, "meta.csv", "--base_url", service.url, "--model", "m", **environment)
    _assert_usage_error(done, "datautil --shard")
    assert service.stats()["requests"] == 0


@pytest.mark.parametrize("models", [(), ("first-vl", "second-vl")], ids=["none", "two"])
def test_without_model_the_service_must_have_exactly_one(tmp_path: Path, models: tuple[str, ...]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "meta.csv").write_text("path\na.mp4\n")
    with service_runs.running_service(tmp_path / "service", models=models) as service:
        done = _run(tmp_path / "run", "meta.csv", "--base_url", service.url)
        assert service.stats()["requests"] == 0
    _assert_usage_error(done, "--model")
    assert all(model in done.stderr for model in models)
    assert os.listdir(tmp_path / "run") == ["meta.csv"]


def test_flags_with_good_values_are_not_usage_errors(tmp_path: Path) -> None:
    """Most flags of the cases above at once."""
    service_runs.make_table(tmp_path / "run", 1, 1)
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object", "required": ["caption"]}))
    flags = ["--concurrency", "2", "--requests_per_minute", "600", "--tokens_per_minute", "1e6", "--max_tries", "2"]
    flags += ["--timeout", "20", "--extra_body", '{"top_k": 3}', "--temperature", "default", "--top_p", "0.9"]
    flags += ["--json_schema", str(tmp_path / "schema.json"), "--max_side", "64", "--jpeg_quality", "95"]
    flags += ["--detail", "low", "--price_in", "1", "--price_out", "2", "--max_cost", "1", "--seed", "3"]
    with service_runs.running_service(tmp_path / "service") as service:
        done = service_runs.caption(service, tmp_path / "run", "--model", "fake-vl", *flags)
        log = service.log()
    assert done.exit_code == 0, done.stderr
    assert log.by_status() == {"answered": 1}
