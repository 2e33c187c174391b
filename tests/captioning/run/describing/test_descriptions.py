"""What descriptions say and which files they replace, without videos."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.results import CaptionResult
from pipeline.captioning.run.describing.descriptions import About, Descriptions
from pipeline.captioning.run.describing.files import Inputs, Outputs
from pipeline.captioning.run.describing.tables import Segments
from tests.captioning.run.describing.fake_work import written

ABOUT = About(4, "model", "prompt", "summary?", "title?", {})
TEXTS = {"summary": CaptionResult("a summary", 2), "title": CaptionResult("a title", 2)}


def _descriptions(
    folder: Path, *, path: str = "a.mp4", segments: int = 1, messages: Mapping[int, tuple[str, ...]] | None = None
) -> Descriptions:
    (folder / "tables").mkdir(exist_ok=True)
    parts = tuple(TimeRange(number * 1000, (number + 1) * 1000) for number in range(segments))
    rows = tuple((0, number) for number in range(segments))
    outputs = Outputs(folder / "tables", (folder / "a",), None, ("json", "srt"))
    inputs = Inputs((path,), ((TimeRange(0),),))
    return Descriptions(inputs, outputs, Segments((parts,), rows, messages or {}), ABOUT, time.monotonic())


def _complete(descriptions: Descriptions, path: str = "a.mp4") -> None:
    descriptions.captioned(0, CaptionResult("a caption", 2), {})
    descriptions.summarised(path, TEXTS)
    descriptions.write_changed()


def test_files_of_others_become_backups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.srt").write_text("precious")
    (tmp_path / "a.srt.bak").write_text("more precious")
    (tmp_path / "a.json").write_text('{"mine": 1}')
    _complete(_descriptions(tmp_path))
    assert written(tmp_path / "a.json")["status"] == "complete" and "a caption" in (tmp_path / "a.srt").read_text()
    assert (tmp_path / "a.srt.bak.bak").read_text() == "precious"
    assert (tmp_path / "a.srt.bak").read_text() == "more precious"
    assert (tmp_path / "a.json.bak").read_text() == '{"mine": 1}'
    assert "is kept as a.srt.bak.bak" in caplog.text

    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    (tmp_path / "tables" / "files.jsonl").open("a").write('\n{"file": "a.')  # a call was killed here
    again = _descriptions(tmp_path)
    again.captioned(0, CaptionResult("another caption", 2), {})
    again.write_changed()
    assert {file for file in tmp_path.iterdir() if file.is_file()} == set(before)
    assert "another caption" in (tmp_path / "a.srt").read_text()


def test_the_description_of_another_video_becomes_a_backup(tmp_path: Path) -> None:
    _complete(_descriptions(tmp_path, path="x/a.mp4"), "x/a.mp4")
    earlier = (tmp_path / "a.json").read_bytes()
    _descriptions(tmp_path, path="y/a.mp4").write_changed()
    assert written(tmp_path / "a.json")["video"] == "y/a.mp4"
    assert (tmp_path / "a.json.bak").read_bytes() == earlier


def test_what_is_wrong_with_a_video_stays_in_its_messages(tmp_path: Path) -> None:
    """A video with all captions and a summary is incomplete if a part that was asked for is not there."""
    for _ in range(2):
        _complete(_descriptions(tmp_path, messages={0: ("part 50-60 s: behind the end",)}))
        described = written(tmp_path / "a.json")
        assert (described["status"], described["messages"]) == ("incomplete", ["part 50-60 s: behind the end"])
        assert (described["summary"], described["missing_segments"]) == ("a summary", [])
    _complete(_descriptions(tmp_path))
    assert written(tmp_path / "a.json")["status"] == "complete" and "messages" not in written(tmp_path / "a.json")


def test_results_of_videos_that_are_no_inputs_are_ignored(tmp_path: Path) -> None:
    descriptions = _descriptions(tmp_path)
    descriptions.captioned(1, CaptionResult("of another video", 2), {})
    descriptions.keep_caption(2, "of another video")
    descriptions.summarised("other.mp4", TEXTS)
    _complete(descriptions)
    assert "another" not in json.dumps(written(tmp_path / "a.json"))


def test_many_segments_of_one_video(tmp_path: Path) -> None:
    """The time for each result does not grow with the number of segments."""
    descriptions = _descriptions(tmp_path, segments=20_000)
    begin = time.process_time()
    for row in range(20_000):
        descriptions.captioned(row, CaptionResult("a caption", 2), {})
    assert time.process_time() - begin < 2  # with copies of all segments: 20 s
    assert len(descriptions.all[0].segments) == 20_000
