"""Three questions about each row of images and videos: killed, resumed, and compared with runs of one question."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.captioning.journal.folder import journal_folder
from scripts import launched
from tests import tiny_families
from tests.captioning.run.forked import TorchRuns
from tests.fakes import render_clip
from tests.golden import DATA, VIDEOS

pytestmark = pytest.mark.msrun

ASKS = {
    "short": "Describe it in one sentence.",
    "noted": "What does {note} show? Write {{nothing}} else.",
    "long": "Describe the colours, the motion and the light, one after the other, with every detail.",
}
FAILING = ("empty.mp4", "broken.png")
REAL = (
    *("carphone_pristine.mp4", "h265_video.mp4", "nasa_13013_rotated.mp4", "gradient.gif", "testsrc2_vp9.webm"),
    "carphone_pristine.mp4",
)
"""Videos of several codecs and sizes; one occurs twice. A clone does not contain them."""
FLAGS = ("--max_new_tokens", "12", "--decode_workers", "1")
_FEW_PIXELS = ("--max_pixels", "12544", "--min_pixels", "784")


def _pllava(folder: Path) -> list[str]:
    return ["--pretrained_model_name_or_path", str(DATA / "mini-a"), "--lora_alpha", "2", "--pooling_shape", "4-6-6"]


def _family(write: Callable[[Path], Path], *flags: str) -> Callable[[Path], list[str]]:
    return lambda folder: ["--pretrained_model_name_or_path", str(write(folder)), *flags]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos and images of several sizes, in turn; one of each is broken. Then the real videos."""
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(96, 64), (64, 96), (200, 60), (40, 40), (72, 128)]
    for number, size in enumerate(sizes):
        render_clip(folder / f"clip {number}.mp4", number, size=size)
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        picture.paste((250 - 40 * number, 40 * number, 90), (5, 5, 25 + number, 30))
        picture.save(folder / f"picture {number}.{('png', 'jpg', 'webp', 'bmp', 'tiff')[number]}")
    for name in FAILING:
        (folder / name).write_bytes(b"\x89PNG" if name.endswith("png") else b"")
    real = [VIDEOS / name for name in REAL] if VIDEOS.is_dir() else []
    return [*sorted(folder.iterdir(), key=lambda path: path.name[::-1]), *real]


def _write_meta(folder: Path, paths: list[Path]) -> Path:
    folder.mkdir()
    with (folder / "meta.csv").open("w", newline="") as file:
        rows = [(str(path), f"note {number}, {path.suffix}") for number, path in enumerate(paths)]
        csv.writer(file).writerows([("path", "note"), *rows])
    return folder


def _captions(folder: Path) -> dict[str, list[str]]:
    """The columns of captions, by name."""
    with (folder / launched.OUTPUT).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0] if name.startswith("text")}


@pytest.mark.parametrize(
    ("flags_of", "launcher_of"),
    [
        (_pllava, launched.torchrun),
        (_family(tiny_families.qwen2_5_vl, "--num_frames", "4", *_FEW_PIXELS), launched.msrun),
    ],
    ids=["pllava", "qwen2_5_vl"],
)
def test_three_questions_killed_and_resumed_are_three_runs_with_one_question(
    tmp_path: Path,
    paths: list[Path],
    flags_of: Callable[[Path], list[str]],
    launcher_of: Callable[..., list[str]],
    torch_run: TorchRuns,
) -> None:
    """launcher_of: makes the command that is killed: msrun is on MindSpore, all else on PyTorch.

    `test_pllava_tiny.py` has several questions with msrun to the end of the run.
    """
    flags = flags_of(tmp_path)
    asks = {name: ["--ask", f"{name}={question}"] for name, question in ASKS.items()}
    together = [*flags, *FLAGS, *(flag for ask in asks.values() for flag in ask)]
    command = {"command": launched.COMMAND_OF_FAMILIES}
    killed, undisturbed = (_write_meta(tmp_path / name, paths) for name in ("killed", "undisturbed"))
    with launched.started(launcher_of(2, *together, "--bs", "1", **command), killed) as launcher:
        launched.wait_until_captioned(killed, 2, launcher)
        for process in launched.processes(killed):
            process.kill()
    done = set(launched.journaled(killed))
    assert 2 <= len(done) < len(paths) - len(FAILING), "the run was killed in the middle"
    assert not (killed / launched.OUTPUT).exists()
    torch_run(killed, *together, "--bs", "3", **command)
    assert launched.captioned_in_last_run(killed) == len(ASKS) * (len(paths) - len(FAILING) - len(done))
    assert not journal_folder(killed / launched.OUTPUT).exists()
    torch_run(undisturbed, *together, "--bs", "3", **command)
    assert (killed / launched.OUTPUT).read_bytes() == (undisturbed / launched.OUTPUT).read_bytes()
    captions = _captions(undisturbed)
    assert list(captions) == [f"text_{name}" for name in ASKS]
    for name, ask in asks.items():
        alone = _write_meta(tmp_path / name, paths)
        torch_run(alone, *flags, *FLAGS, "--bs", "3", *ask, **command)
        assert _captions(alone) == {f"text_{name}": captions[f"text_{name}"]}
        assert sum(not caption for caption in captions[f"text_{name}"]) == len(FAILING)
        assert len(set(captions[f"text_{name}"])) > 5
    assert len(set(zip(*captions.values(), strict=True))) > 5 and captions["text_short"] != captions["text_long"]
    with (killed / "meta_caption_failures.csv").open(newline="") as file:
        failures = [(Path(row["path"]).name, row["column"]) for row in csv.DictReader(file)]
    assert failures == [(path.name, f"text_{name}") for path in paths if path.name in FAILING for name in ASKS]
    report = json.loads((killed / "meta_caption_report.json").read_text())
    images = sum(path.name.startswith("picture") for path in paths)
    assert (report["images"], report["videos"]) == (images, len(paths) - len(FAILING) - images)
