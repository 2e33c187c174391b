"""LLaVA-Video through the command's source: every recorded case of the public program, from the file to the tokens.

`scripts/llava_video_golden.py` makes the comparison. The recorded outputs and the videos are not part of a clone.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub import llava_qwen_source
from pipeline.captioning.captioners.images.resizing import resized
from pipeline.captioning.captioners.images.square import Square
from scripts import llava_video_golden
from scripts.llava_video_golden import Recording, compare, groups
from tests.golden import SHARED, VIDEOS

FOLDER = SHARED / "golden" / "llava-video-a"
COMMAND = Path(__file__).parents[4] / "pipeline" / "captioning" / "caption.py"
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="a clone does not contain the recorded outputs of LLaVA-Video"),
]

_ON_MINDSPORE = tuple(
    f"bikes__nf4__force__{mode}__{newlines}__card"
    for mode, newlines in (
        ("bilinear", "grid"), ("average", "grid"), ("max", "grid"),
        ("bilinear", "frame"), ("bilinear", "one_token"), ("bilinear", "no_token"),
    )
)  # fmt: skip
_UPRIGHT = ("nasa_13013_rotated__nf8__force__bilinear__grid__card", "video_90__nf8__force__bilinear__grid__card")


@pytest.fixture(scope="module")
def recording() -> Recording:
    pytest.importorskip("decord", reason="the recorded frames were decoded by decord")
    return Recording.load(FOLDER)


def _names() -> list[list[str]]:
    if not FOLDER.is_dir():
        return []
    return [[case["name"] for case in group] for group in groups(Recording.load(FOLDER).cases.values())]


def _differences(recording: Recording, names: Sequence[str], backend: Backend, work: Path, *layout: str) -> Any:
    outcomes = compare(recording, [recording.cases[name] for name in names], backend, work, *layout)
    return {outcome.name: outcome.differences for outcome in outcomes if outcome.differences}


def test_all_cases_are_compared() -> None:
    names = [name for group in _names() for name in group]
    assert len(names) == len(set(names)) == 35
    assert set(_ON_MINDSPORE) < set(names)


@pytest.mark.parametrize("names", _names(), ids=lambda names: names[0])
def test_recorded_outputs(names: list[str], recording: Recording, backend: Backend, tmp_path: Path) -> None:
    if backend.framework == "mindspore":
        names = [name for name in names if name in _ON_MINDSPORE]
        if not names:
            pytest.skip("MindSpore is slower: one case of each pool mode and newline position")
    assert _differences(recording, names, backend, tmp_path) == {}


def test_a_checkpoint_without_its_tower(recording: Recording, backend: Backend, tmp_path: Path) -> None:
    names = [name for name in _ON_MINDSPORE if "max" in name]
    assert _differences(recording, names, backend, tmp_path, "checkpoint-no-tower") == {}


class _HorizontalFirst(Square):
    """The order of the passes in Pillow before version 13."""

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        height, width = self.size
        narrow = [resized(image, (width, image.height), self.resample) for image in images]
        return np.stack([np.asarray(resized(image, (width, height), self.resample)) for image in narrow])


def test_what_depends_on_the_version_of_pillow(
    recording: Recording, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs were recorded with Pillow 13; older ones scale the width of an image before its height.

    The result is another one if the height shrinks to 384 and the width grows to it: in the two videos with upright
    frames (270 x 480 and 320 x 568). 4 % and 7 % of their values differ, by up to 6 and 7 of 255, and the first logits
    by 0.007 and 0.03. The tokens are the same but for those with the penalty in `video_90`, from the 14th on. So the
    order is not left to Pillow (`Square.vertical_first`).
    """
    if backend.framework == "mindspore":
        pytest.skip("pixels do not depend on the framework")
    monkeypatch.setattr(llava_qwen_source, "Square", _HorizontalFirst)
    cases = [*_UPRIGHT, "carphone_pristine__nf8__force__bilinear__grid__card"]
    differences = _differences(recording, cases, backend, tmp_path)
    kinds = {name: [each.partition(":")[0] for each in found] for name, found in differences.items()}
    assert kinds == {_UPRIGHT[0]: ["pixels", "logits"], _UPRIGHT[1]: ["pixels", "logits", "card_ids"]}


def test_the_script_finds_a_difference(
    recording: Recording, backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.framework == "mindspore":
        pytest.skip("the script does the same on both frameworks")
    monkeypatch.setattr(llava_video_golden.backends.Choice, "activate", lambda choice, dtype: backend)
    monkeypatch.setattr(Recording, "load", lambda folder, videos: recording)
    name = "testsrc2_vp9__nf8__fps1__bilinear__grid__card"
    assert llava_video_golden.main([str(FOLDER), name, "--no_tower"]) == 0
    assert f"equal  {name}: 1 frames, 283 tokens, logits within" in capsys.readouterr().out
    case = recording.cases[name]
    monkeypatch.setitem(case, "greedy_ids", [*case["greedy_ids"][:-1], 5])
    assert llava_video_golden.main([str(FOLDER), name]) == 1
    output = capsys.readouterr().out
    assert f"DIFFERS  {name}" in output and "\n    greedy_ids: [" in output and "0 of 1 cases equal" in output


def test_the_command_writes_the_recorded_captions(recording: Recording, backend: Backend, tmp_path: Path) -> None:
    """Three videos in two slots, with the penalty of the checkpoint."""
    if backend.framework == "mindspore":
        pytest.skip("the same process on both frameworks; the starts of MindSpore take long")
    names = [f"{video}__nf4__force__bilinear__grid__card" for video in ("bikes", "carphone_pristine", "nasa_13013")]
    cases = [recording.cases[name] for name in names]
    paths = [str(VIDEOS.resolve() / case["video"]) for case in cases]
    (tmp_path / "meta.csv").write_text("\n".join(["path", *paths]), encoding="utf-8")
    arguments = ["--pretrained_model_name_or_path", str(FOLDER.resolve() / "checkpoint")]
    arguments += ["--vision_tower", str(FOLDER.resolve() / "siglip"), "--question", cases[0]["question"]]
    arguments += ["--num_frames", "4", "--max_new_tokens", "24", "--bs", "2"]
    done = subprocess.run(
        [sys.executable, str(COMMAND), "meta.csv", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "meta_caption.csv").open(encoding="utf-8", newline="") as file:
        captions = [row["text"] for row in csv.DictReader(file)]
    assert captions == [" ".join(case["card_text"].split()) for case in cases]
