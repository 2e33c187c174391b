"""The command with msrun, killed and resumed, describes what a plain process describes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.captioning.journal.folder import journal_folder, read_contents
from scripts import launched
from tests.captioning.run.describing.fake_work import without_times, write_table, written
from tests.captioning.run.forked import TorchRuns
from tests.fakes import render_clip
from tests.golden import DATA

COMMAND = str(Path(launched.COMMAND).with_name("describe.py"))
FLAGS = ["--pretrained_model_name_or_path", str(DATA / "mini-a"), "--lora_alpha", "2", "--every", "1", "--bs", "1"]
FLAGS += ["--pooling_shape", "4-6-6", "--max_new_tokens", "16", "--summary_tokens", "16", "--title_tokens", "4"]
FLAGS += ["--decode_workers", "1"]
pytestmark = pytest.mark.msrun


def test_two_workers_killed_and_resumed(tmp_path: Path, torch_run: TorchRuns) -> None:
    """torchrun is killed, and msrun resumes the run."""
    videos = [render_clip(tmp_path / f"{name}.mp4", number, 30) for number, name in enumerate("abc")]
    write_table(tmp_path / "meta.csv", [[video] for video in [*videos, "nowhere.mp4"]])
    torch_run(tmp_path, *FLAGS, "--output", "plain", command=COMMAND)

    flags = [*FLAGS, "--output", "out"]
    journal = journal_folder(tmp_path / "out" / "tables" / "segments_caption.csv")
    with launched.started(launched.torchrun(2, *flags, command=COMMAND), tmp_path) as launcher:
        deadline = time.monotonic() + 300
        while not any(map(len, read_contents(journal).captions.values())):
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "launcher.log").read_text()
            time.sleep(0.02)
    captioned = sum(map(len, read_contents(journal).captions.values()))  # all processes have been killed
    assert 0 < captioned < 12
    assert written(tmp_path / "out" / "a.json")["status"] == "running"

    resumed = launched.msrun(2, *flags, command=COMMAND)
    assert launched.run(resumed, tmp_path) == 0, (tmp_path / "launcher.log").read_text()
    for name in ("a", "b", "c", "nowhere"):
        found, wanted = (written(tmp_path / folder / f"{name}.json") for folder in ("out", "plain"))
        assert without_times(found) == without_times(wanted)
        assert found["status"] == ("incomplete" if name == "nowhere" else "complete")
