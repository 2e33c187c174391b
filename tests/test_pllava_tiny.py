"""The shipped checkpoint says what rendered clips show, through the real command."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = str(ROOT / "pipeline" / "captioning" / "caption_pllava.py")
TINY = ["--pretrained_model_name_or_path", str(ROOT / "pretrained_models" / "pllava-tiny"), "--bs", "3"]
LORA = ["--use_lora", "--weight_dir", str(ROOT / "pretrained_models" / "pllava-tiny-lora")]
SEED = "77"


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips never seen in training, and a table with the true captions."""
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "scripts.clip_world", str(folder), "--clips", "6", "--seed", SEED]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "meta.csv"


def _captions(command: list[str], meta: Path, output: str, *flags: str) -> list[dict[str, str]]:
    path = meta.with_name(output)
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    arguments = [COMMAND, str(meta), "--output", str(path), *TINY, *flags]
    done = subprocess.run(
        [*command, *arguments], cwd=meta.parent, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.msrun
def test_captions_are_the_truth_on_mindspore_and_pytorch(meta: Path) -> None:
    msrun = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", "--master_port=8642", "--log_dir=log"]
    rows = _captions(msrun, meta, "mindspore.csv")
    assert [row["text"] for row in rows] == [row["truth"] for row in rows]
    assert _captions([sys.executable], meta, "torch.csv") == rows


def test_lora_changes_the_style(meta: Path) -> None:
    plain, terse = (_captions([sys.executable], meta, f"{len(flags)}.csv", *flags) for flags in ([], LORA))
    for row, terse_row in zip(plain, terse, strict=True):
        assert terse_row["text"] != row["text"]
        assert terse_row["text"].endswith(" background") and ";" in terse_row["text"]
        assert len(terse_row["text"]) < len(row["text"])
