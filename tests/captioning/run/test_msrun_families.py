"""A run of `caption.py` with msrun that is killed and resumed writes the same bytes as an undisturbed one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pipeline.captioning.journal.folder import journal_folder
from scripts import launched
from tests import tiny_families
from tests.golden import VIDEOS

pytestmark = [
    pytest.mark.msrun,
    pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the shared videos"),
]

NAMES = (
    *("carphone_pristine.mp4", "bikes.mp4", "empty.mp4", "h265_video.mp4", "testsrc2_mpeg4.mp4", "video_90.mov"),
    *("nasa_13013_rotated.mp4", "corrupted.mp4", "gradient.gif", "testsrc2_odd_height_444.mp4", "absent.mp4"),
    *("testsrc2_vp9.webm", "discard_first_keyframe.mp4", "carphone_pristine.mp4"),
)
"""Videos of mixed sizes and lengths. Two do not exist and one is damaged; one row occurs twice."""
UNDECODABLE = 2
FLAGS = ("--bs", "2", "--max_new_tokens", "24", "--question", "What?", "--num_frames", "5")


def test_two_workers_are_killed_and_one_resumes(tmp_path: Path) -> None:
    """`test_msrun_asks` has other families, with several questions and still images."""
    checkpoint = tiny_families.llava_onevision(tmp_path)
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        with (folder / "meta.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path"], *([str(VIDEOS / name)] for name in NAMES)])
    arguments = ["--pretrained_model_name_or_path", str(checkpoint), "--framework", "mindspore", *FLAGS]
    command = {"command": launched.COMMAND_OF_FAMILIES}
    plain, msrun = launched.plain(*arguments, **command), launched.msrun(2, *arguments, **command)
    with launched.started(plain, folders[0]) as undisturbed, launched.started(msrun, folders[1]) as launcher:
        launched.wait_until_captioned(folders[1], 3, launcher)
        for process in launched.processes(folders[1]):
            process.kill()
        assert undisturbed.wait(timeout=300) == 0, (folders[0] / "launcher.log").read_text()
    expected = (folders[0] / launched.OUTPUT).read_bytes()
    with (folders[0] / launched.OUTPUT).open(newline="") as file:
        captions = [row["text"] for row in csv.DictReader(file)]
    assert sum(not caption for caption in captions) == UNDECODABLE and len(set(captions)) > 6
    assert not (folders[1] / launched.OUTPUT).exists()
    done = set(launched.journaled(folders[1]))
    assert 3 <= len(done) < len(NAMES) - UNDECODABLE, "the run was killed in the middle"
    assert launched.run(plain, folders[1]) == 0, (folders[1] / "launcher.log").read_text()
    assert (folders[1] / launched.OUTPUT).read_bytes() == expected
    assert launched.captioned_in_last_run(folders[1]) == len(NAMES) - UNDECODABLE - len(done)
    assert not journal_folder(folders[1] / launched.OUTPUT).exists()
    report = json.loads((folders[1] / "meta_caption_report.json").read_text())
    assert (report["captioned"], report["failed"]) == (len(NAMES) - UNDECODABLE, UNDECODABLE)
