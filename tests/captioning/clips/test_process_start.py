"""If decoding processes can't be started, the run ends with the cause, and no clip fails because of it."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips import decode_client, killable
from pipeline.captioning.clips.clip import Clip, ClipTask
from pipeline.captioning.clips.killable import DecoderLimits, StartError
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.process.errors import RunError
from tests.captioning.clips.test_loader import _memory_files
from tests.fakes import FakeSource, mean_colour, render_clip, segments
from tests.runs import run_job, write_meta

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killable, "START_PAUSES", (0.0, 0.0))


def _load(rows: Sequence[ClipTask], transform: Any = mean_colour, workers: int = 1) -> list[object]:
    with ClipLoader(
        rows, FramePreparation(segments(2), transform), DecoderLimits(30), prefetch=8, workers=workers
    ) as loader:
        return list(loader)


@dataclass(frozen=True)
class _Unimportable:
    """A transform that exists in the worker, but that the decoding process can't import."""

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        return mean_colour(images)

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _import_missing_package, ()


def _import_missing_package() -> None:
    import no_such_package  # noqa: F401


def test_the_error_names_the_missing_import(tmp_path: Path) -> None:
    rows = [ClipTask(0, str(render_clip(tmp_path / "a.mp4")))]
    with pytest.raises(StartError, match=r"can't be started: ModuleNotFoundError: No module named 'no_such_package'$"):
        _load(rows, _Unimportable())
    assert _memory_files() == 0


def test_the_error_names_what_can_not_be_pickled(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"can't be started: .*pickle"):
        _load([ClipTask(0, "a.mp4")], lambda images: mean_colour(images))


def _refuse(times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the first `times` attempts to start a process fail. Returns a list with one item for each."""
    refused: list[int] = []
    make = decode_client.make_process

    def make_process(*arguments: Any) -> Any:
        if len(refused) < times:
            refused.append(1)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return make(*arguments)

    monkeypatch.setattr(decode_client, "make_process", make_process)
    return refused


@pytest.mark.parametrize("workers", [1, 2])
def test_the_loader_ends_if_the_system_refuses_all_processes(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse(99, monkeypatch)
    rows = [ClipTask(i, str(render_clip(tmp_path / f"{i}.mp4", i))) for i in range(3)]
    with pytest.raises(StartError, match=r"can't be started: BlockingIOError: .*temporarily unavailable"):
        _load(rows, workers=workers)
    assert _memory_files() == 0


def test_starting_a_process_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = _refuse(2, monkeypatch)
    assert all(isinstance(clip, Clip) for clip in _load([ClipTask(0, str(render_clip(tmp_path / "a.mp4")))]))
    assert len(refused) == 2 and not caplog.records


def test_other_processes_decode_the_clips_of_one_that_can_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[object] = []
    start = decode_client.DecodeClient._start

    def _start(self: decode_client.DecodeClient, *arguments: Any) -> None:
        started.append(self)
        if self is started[0]:
            raise StartError("a decoding process can't be started: no memory")
        start(self, *arguments)

    monkeypatch.setattr(decode_client.DecodeClient, "_start", _start)
    rows = [ClipTask(i, str(render_clip(tmp_path / f"{i}.mp4", i))) for i in range(5)]
    clips = _load(rows, workers=2)
    assert sorted(clip.row for clip in clips if isinstance(clip, Clip)) == [0, 1, 2, 3, 4]
    assert "no memory; continuing with 1 decoding process" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_the_run_ends_with_the_cause(tmp_path: Path) -> None:
    options = write_meta(tmp_path, [str(render_clip(tmp_path / "a.mp4"))])
    (error,) = run_job(options, FakeSource(frame_transform=_Unimportable()))
    assert isinstance(error, RunError) and "No module named 'no_such_package'" in str(error)
    assert not options.output.exists()


PROGRAM = """
import resource, sys
from pipeline.captioning.clips.clip import ClipTask
from pipeline.captioning.clips import killable
from pipeline.captioning.clips.killable import DecoderLimits, StartError
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.fakes import mean_colour, segments

if __name__ == "__main__":
    killable.START_PAUSES = (0.0,)
    if "few" in sys.argv:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
    try:
        preparation = FramePreparation(segments(2), mean_colour)
        with ClipLoader([ClipTask(0, sys.argv[1])], preparation, DecoderLimits(30), prefetch=1) as loader:
            print([type(clip).__name__ for clip in loader])
    except StartError as error:
        print(error)
"""


def _run_program(arguments: Sequence[str], given: str = "") -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, input=given, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


def test_programs_without_a_file(tmp_path: Path) -> None:
    """A decoding process can't import a program from standard input. After `python -c` it does not import it."""
    clip = str(render_clip(tmp_path / "a.mp4"))
    printed = _run_program(["-", clip], given=PROGRAM)
    assert "there is no file <stdin>; save the program as a file" in printed
    assert _run_program(["-c", PROGRAM, clip]) == "['Clip']\n"


def test_too_few_file_descriptors(tmp_path: Path) -> None:
    printed = _run_program(["-c", PROGRAM, str(render_clip(tmp_path / "a.mp4")), "few"])
    assert "can't be started: OSError: [Errno 24] Too many open files" in printed


def test_a_program_without_a_main_guard_ends(tmp_path: Path) -> None:
    """Its decoding process runs the program again. Both end, and the message refers to standard error."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace('if __name__ == "__main__":', "if True:"))
    printed = _run_program([str(program), str(render_clip(tmp_path / "a.mp4"))])
    assert "An attempt has been made to start a new process" in printed or "see standard error" in printed
