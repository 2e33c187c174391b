"""The names of the files of descriptions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.describing.files import Inputs, make_outputs
from pipeline.captioning.run.describing.records import VideoRecord, write_records


def _inputs(*paths: str) -> Inputs:
    return Inputs(paths, ((TimeRange(0),),) * len(paths))


def _names(output: Path, *paths: str) -> list[str]:
    return [stem.name for stem in make_outputs(output, None, _inputs(*paths)).stems]


def test_names_of_earlier_calls_stay(tmp_path: Path) -> None:
    assert _names(tmp_path, "x/v.mp4", "y/V.mp4", "tables.mp4") == ["v", "V_2", "tables_2"]
    (tmp_path / "tables").mkdir()
    write_records(tmp_path / "tables" / "videos.json", {"x/v.mp4": VideoRecord("v"), "y/v.mp4": VideoRecord("v_3")})
    assert _names(tmp_path, "z/v.mp4", "y/v.mp4") == ["v_2", "v_3"]
    assert _names(tmp_path, "y/v.mp4", "x/v.mp4", "z/V.mp4", "w/v_3.mp4", "u/v.mp4") == [
        "v_3",
        "v",
        "V_2",
        "v_3_2",
        "v_4",
    ]


def test_many_videos_with_one_name(tmp_path: Path) -> None:
    """The search for a free number does not begin at 2 for each of them: that takes minutes."""
    begin = time.process_time()
    names = _names(tmp_path, *(f"{number}/video.mp4" for number in range(20_000)))
    assert names[-1] == "video_20000" and len(set(names)) == 20_000
    assert time.process_time() - begin < 5


def test_only_rank_0_needs_the_folder(tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "r.json"
    with pytest.raises(UsageError, match="does not exist"):
        make_outputs(output, None, _inputs("a.mp4"))
    assert make_outputs(output, None, Inputs((), ())).file == output
