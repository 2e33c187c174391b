"""The real command with the checkpoint of this repository captions rendered clips correctly."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from scripts import launched
from scripts.clip_world import random_clip
from tests.captioning.run.forked import TorchRuns

ROOT = Path(__file__).parents[1]
COMMAND = str(ROOT / "pipeline" / "captioning" / "caption_pllava.py")
TINY = ROOT / "pretrained_models" / "pllava-tiny"
ADAPTER = ROOT / "pretrained_models" / "pllava-tiny-lora"
LORA = ["--use_lora", "--weight_dir", str(ADAPTER)]
SEED = "77"
BRIEF_QUESTION = "Describe the video briefly."  # `scripts.tiny_checkpoint` has it too, but imports PyTorch


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips that are not in the training data, and a table with their true captions."""
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "scripts.clip_world", str(folder), "--clips", "6", "--seed", SEED]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "meta.csv"


def _captions(
    command: list[str] | TorchRuns, meta: Path, output: str, *flags: str, checkpoint: Path = TINY
) -> list[dict[str, str]]:
    """The table that the command writes. command: a launcher, the interpreter, or forks."""
    path = meta.with_name(output)
    options = ["--output", str(path), "--bs", "3", "--decode_workers", "1", *flags]
    options += ["--pretrained_model_name_or_path", str(checkpoint)]
    if isinstance(command, TorchRuns):
        command(meta.parent, *options)
        return _rows(path)
    bin_folder = Path(sys.executable).parent
    environment = {**launched.CLUSTER, **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, COMMAND, str(meta), *options],
        cwd=meta.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return _rows(path)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def long_captions(meta: Path) -> list[dict[str, str]]:
    """The table that the base checkpoint writes on PyTorch."""
    return _captions([sys.executable], meta, "torch.csv")


@pytest.fixture(scope="module")
def terse_captions(meta: Path, torch_run: TorchRuns) -> list[dict[str, str]]:
    """The same with the LoRA adapter."""
    return _captions(torch_run, meta, "adapter.csv", *LORA)


@pytest.mark.msrun
def test_captions_are_correct_on_mindspore_and_pytorch_in_both_styles(
    meta: Path, long_captions: list[dict[str, str]]
) -> None:
    """On MindSpore two workers ask two questions about each clip; the process on PyTorch asks one."""
    msrun = [sys.executable, launched.IDLE_MSRUN, "--worker_num=2", "--local_worker_num=2", "--join=True"]
    msrun += ["--master_port=8642", "--log_dir=log"]
    asks = ["--ask", f"full={DEFAULT_QUESTION}", "--ask", f"brief={BRIEF_QUESTION}"]
    rows = _captions(msrun, meta, "mindspore.csv", *asks)
    assert [row["text_full"] for row in rows] == [row["truth"] for row in rows]
    assert [row["text"] for row in long_captions] == [row["truth"] for row in rows]
    scenes = [random_clip(int(SEED), number).shown for number in range(len(rows))]
    assert [row["text_brief"] for row in rows] == [scene.terse_caption() for scene in scenes]


def test_lora_changes_the_style(long_captions: list[dict[str, str]], terse_captions: list[dict[str, str]]) -> None:
    for row, terse_row in zip(long_captions, terse_captions, strict=True):
        assert terse_row["text"] != row["text"]
        assert terse_row["text"].endswith(" background") and ";" in terse_row["text"]
        assert len(terse_row["text"]) < len(row["text"])


def _whole_checkpoint(folder: Path, merged: bool) -> Path:
    """Base and adapter as one checkpoint, in the layout of the public checkpoints: LoRA merged, or unmerged."""
    shutil.copytree(TINY, folder)
    base = load_file(TINY / "model.safetensors")
    lora = load_file(ADAPTER / "adapter_model.safetensors")
    settings = json.loads((ADAPTER / "adapter_config.json").read_text())
    text, wrapped = "language_model.", "language_model.base_model.model."
    weights = {}
    for name, value in base.items():
        a_name = name.replace(text, "base_model.model.", 1).replace(".weight", ".lora_A.weight")
        if merged and a_name in lora:
            a, b = (lora[n].astype(np.float32) for n in (a_name, a_name.replace("lora_A", "lora_B")))
            value = value.astype(np.float32) + settings["lora_alpha"] / settings["r"] * (b @ a)
        elif not merged:
            name = name.replace(text, wrapped, 1)
            name = name.replace(".weight", ".base_layer.weight") if a_name in lora else name
        weights[name] = value
    if not merged:
        for name, value in lora.items():
            stored = name.replace("base_model.model.", wrapped, 1)
            weights[stored.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default")] = value
    save_file(weights, folder / "model.safetensors")
    return folder


def test_merged_and_unmerged_checkpoints_caption_like_the_adapter(
    meta: Path, tmp_path: Path, terse_captions: list[dict[str, str]], torch_run: TorchRuns
) -> None:
    merged = _whole_checkpoint(tmp_path / "merged", merged=True)
    unmerged = _whole_checkpoint(tmp_path / "unmerged", merged=False)
    assert _captions(torch_run, meta, "merged.csv", checkpoint=merged) == terse_captions
    # LoRA weights in a checkpoint are used even without --use_lora; only their alpha must be given.
    found = _captions(torch_run, meta, "unmerged.csv", "--lora_alpha", "32", checkpoint=unmerged)
    assert found == terse_captions
