"""A whole run of `caption.py` with a tiny checkpoint, and what progress, gallery and the next run make of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.captioning.monitor import progress
from pipeline.captioning.monitor.gallery import command as gallery
from scripts import launched
from tests import tiny_families
from tests.fakes import render_clip
from tests.runs import read_rows

FLAGS = ["--framework", "torch", "--device", "cpu", "--max_new_tokens", "6", "--question", "What?"]
FRAMES = ["--fps", "1", "--max_frames", "6", "--short_side", "48"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The folder, the command and the log of a run that captions three clips of 1, 3 and 9 s and one missing clip."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint = tiny_families.llava_onevision(folder)
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps(generation | {"repetition_penalty": 1.05}))
    clips = [render_clip(folder / f"{frames}.mp4", frames, frames=frames) for frames in (8, 24, 72)]
    (folder / "meta.csv").write_text("\n".join(["path", *map(str, clips), "/nowhere.mp4", ""]))
    flags = ["--pretrained_model_name_or_path", str(checkpoint), "--bs", "auto", *FLAGS, *FRAMES]
    command = launched.plain(*flags, command=launched.COMMAND_OF_FAMILIES)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, command, done.stderr


def test_the_log_says_what_was_chosen_and_why(run: tuple[Path, list[str], str]) -> None:
    log = run[2]
    assert "family llava_onevision: architecture LlavaOnevisionForConditionalGeneration in config.json" in log
    assert "frames: rate 1.0 fps max 6, scaled down to a shorter side of 48" in log
    assert "prompt: published prompt onevision; the checkpoint has no chat template" in log
    assert "repetition penalty 1.05 (generation_config.json)" in log
    assert "row 3 (/nowhere.mp4): path: no such file" in log


def test_the_report_has_the_choices(run: tuple[Path, list[str], str]) -> None:
    folder = run[0]
    report = json.loads((folder / "meta_caption_report.json").read_text())
    assert (report["captioned"], report["failed"], report["failures_by_stage"]) == (3, 1, {"path": 1})
    assert report["clips_at_once"] >= 3, "--bs auto"
    assert report["stages"].keys() >= {"vision_seconds", "prefill_seconds", "decode_seconds"}
    fingerprint = report["fingerprint"]
    assert (fingerprint["frames"], fingerprint["short side"]) == ("rate 1.0 fps max 6", "48")
    assert fingerprint["prompt"].startswith("published prompt onevision") and "Square" in fingerprint["preprocessing"]


def test_progress_and_gallery(run: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """The filmstrips have the frames that the model saw, whose number depends on the length of the clip."""
    folder = run[0]
    assert progress.main([str(folder / "meta.csv"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["state"], figures["captioned"], figures["failed"]) == ("finished", 3, 1)
    assert gallery.main([str(folder / "meta_caption.csv")]) == 0
    page = (folder / "meta_caption_gallery.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert [strip[0] for strip in data["strips"]] == [4, 4, 6]
    assert ["short side", "48"] in data["run"]


def test_the_next_run_keeps_the_captions(run: tuple[Path, list[str], str]) -> None:
    """Without the clip that failed nothing is left to caption, so no framework is imported."""
    folder, command, _ = run
    lines = (folder / "meta.csv").read_text().splitlines()
    (folder / "fewer.csv").write_text("\n".join(lines[:-1]))
    (folder / "kept.csv").write_bytes((folder / "meta_caption.csv").read_bytes())
    arguments = [*command[:2], "fewer.csv", *command[3:], "--skip_if_existing", "--output", "kept.csv"]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "3 already have a caption (--skip_if_existing)" in done.stderr, done.stderr
    assert "model loaded" not in done.stderr
    kept, written = (read_rows(folder / name) for name in ("kept.csv", "meta_caption.csv"))
    assert kept == written[:3] and all(row["text"] for row in kept)
    assert not written[3]["text"]


def test_t5_is_refused_in_float16_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    checkpoint = tiny_families.blip2_t5(tmp_path)
    flags = ["--pretrained_model_name_or_path", str(checkpoint), "--dtype", "float16", *FLAGS[:4]]
    command = launched.plain(*flags, command=launched.COMMAND_OF_FAMILIES)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and f"{checkpoint}: " in last and "T5, overflow in float16" in last, done.stderr
    assert "--dtype bfloat16 or --dtype float32" in last and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name, "meta.csv"]
