"""An installation of requirements-api.txt alone is enough: no command of such an installation needs a framework."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts import service_runs
from tests import api_installation
from tests.api_installation import FRAMEWORKS, ROOT
from tests.fakes import render_clip

COMMAND = str(ROOT / "pipeline" / "captioning" / "caption_api.py")
DESCRIBE = str(ROOT / "pipeline" / "captioning" / "describe.py")
SUMMARIZE = str(ROOT / "pipeline" / "captioning" / "summarize.py")
PACKAGES = ("captioners/api", "clips", "journal", "long_videos", "meta", "monitor", "process", "run", "workers")
"""Of `pipeline/captioning`: those that a run through a service consists of."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return api_installation.environment(tmp_path_factory.mktemp("hook"))


def _run(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=60)


def test_help_needs_no_framework(environment: Mapping[str, str], tmp_path: Path) -> None:
    done = _run(environment, tmp_path, COMMAND, "--help")
    assert done.returncode == 0, done.stderr
    assert "--base_url" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--base_url"),
        (["--base_url", "ftp://host/v1", "--model", "m"], "ftp://host/v1"),
        (["--base_url", "http://127.0.0.1:1/v1"], "--model"),  # nothing answers there: the models can't be listed
    ],
    ids=["no URL", "another scheme", "no models"],
)
def test_usage_errors_need_no_framework(
    environment: Mapping[str, str], tmp_path: Path, flags: list[str], message: str
) -> None:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    done = _run(environment, tmp_path, COMMAND, "meta.csv", *flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "ModuleNotFoundError" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_whole_run_needs_no_framework(environment: Mapping[str, str], tmp_path: Path) -> None:
    render_clip(tmp_path / "a.mp4")
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    with service_runs.running_service(tmp_path / "service") as service:
        done = _run(environment, tmp_path, COMMAND, "meta.csv", "--base_url", service.url, "--num_frames", "2")
    assert done.returncode == 0, done.stderr
    (row,) = service_runs.read_table(tmp_path / "meta_caption.csv")
    assert row["text"].startswith("2 shown: 96x64")


def test_summaries_need_no_framework(environment: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "segments.csv").write_text("path,start,end,text\na.mp4,0,4,A dog.\na.mp4,4,8,A cat.\n")
    with service_runs.running_service(tmp_path / "service") as service:
        done = _run(environment, tmp_path, SUMMARIZE, "segments.csv", "--base_url", service.url)
    assert done.returncode == 0, done.stderr
    (row,) = service_runs.read_table(tmp_path / "segments_summary.csv")
    assert "[0:00 - 0:04] A dog. [0:04 - 0:08] A cat." in row["summary"] and row["title"]


def test_descriptions_need_no_framework_and_nothing_is_paid_twice(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    render_clip(tmp_path / "a.mp4", frames=20)  # 2.5 s
    flags = [DESCRIBE, "a.mp4", "--output", "a.json", "--every", "1"]
    with service_runs.running_service(tmp_path / "service") as service:
        done = _run(environment, tmp_path, *flags, "--base_url", service.url)
        assert done.returncode == 0, done.stderr
        described = json.loads((tmp_path / "a.json").read_text())
        asked = len(service.log().requests)
        assert asked == 3 + 2 and (tmp_path / "a.json.answers.sqlite").exists()
        done = _run(environment, tmp_path, *flags, "--base_url", service.url, "--restart")
        assert done.returncode == 0 and len(service.log().requests) == asked, done.stderr
        refused = _run(environment, tmp_path, *flags, "--base_url", service.url, "--batch")
    assert [batch["frames"] for batch in described["batches"]] == [4, 4, 4]
    assert all("shown: 96x64" in batch["description"] for batch in described["batches"])
    assert "[0:01 - 0:02]" in described["summary"] and described["status"] == "complete"
    assert json.loads((tmp_path / "a.json").read_text())["summary"] == described["summary"]
    assert refused.returncode == 2 and "--batch is not possible" in refused.stderr


def test_every_module_of_a_run_can_be_imported(environment: Mapping[str, str], tmp_path: Path) -> None:
    folder = ROOT / "pipeline" / "captioning"
    files = [file for package in PACKAGES for file in (folder / package).rglob("*.py")]
    modules = sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    assert len(modules) > 80
    script = "import importlib, sys\nfor module in sys.argv[1:]:\n    importlib.import_module(module)\n"
    done = _run(environment, tmp_path, "-c", script, *modules)
    assert done.returncode == 0, done.stderr


def test_tables_exports_gallery_and_progress_need_no_framework(environment: Mapping[str, str], tmp_path: Path) -> None:
    render_clip(tmp_path / "a.mp4")
    (tmp_path / "meta.csv").write_text("path,text\na.mp4,A square moves.\n")
    for arguments in (
        ("pipeline.datasets.datautil", "meta.csv", "--clean-caption", "--output", "meta.parquet"),
        ("pipeline.datasets.export", "meta.parquet", "--to", "jsonl", "--output", "captions.jsonl"),
        ("pipeline.datasets.segments", "meta.csv", "--every", "1", "--output", "segments.csv"),
        ("pipeline.captioning.gallery", "meta.csv", "--output", "gallery.html"),
    ):
        done = _run(environment, tmp_path, "-m", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert "a square moves." in (tmp_path / "captions.jsonl").read_text()
    assert 'class="strip"' in (tmp_path / "gallery.html").read_text()  # the frames of the decoded clip
    done = _run(environment, tmp_path, "-m", "pipeline.captioning.progress", "meta.csv", "--watch", "off")
    assert done.returncode == 2 and "no run found" in done.stderr


def test_the_frameworks_are_hidden(environment: Mapping[str, str], tmp_path: Path) -> None:
    for name in FRAMEWORKS:
        done = _run(environment, tmp_path, "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr


def test_what_needs_another_package_names_it(environment: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("path,text\na.mp4,A square moves.\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    arguments = ("meta.csv", "--count-num-token", "tokenizer.json", "--output", "counted.csv")
    done = _run(environment, tmp_path, "-m", "pipeline.datasets.datautil", *arguments)
    assert done.returncode == 2
    assert "--count-num-token needs a package: pip install tokenizers" in done.stderr
    render_clip(tmp_path / "a.mp4")
    arguments = ("meta.csv", "--to", "webdataset", "--output", "shards")
    done = _run(environment, tmp_path, "-m", "pipeline.datasets.export", *arguments)
    assert done.returncode == 2
    assert "--to webdataset needs a package: pip install webdataset" in done.stderr
