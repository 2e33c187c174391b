"""The command that divides videos into segments. Each file costs only its own rows."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.captioning.clips.frame_times import frame_times
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.long_videos.segmentation import many
from pipeline.captioning.long_videos.segmentation.division import Divided, Division, EqualParts, Scenes, divide
from pipeline.datasets import segments
from tests.fakes import render_clip
from tests.golden import VIDEOS
from tests.joined_video import joined_video

WHOLE = (TimeRange(0),)
ADAPTIVE = Scenes("adaptive", None, 600, 0)


def _run(table: Path, *flags: str, expected: int = 0) -> list[dict[str, str]]:
    output = table.with_name("segments.csv")
    output.unlink(missing_ok=True)
    assert segments.main([str(table), "--output", str(output), "--num_workers", "2", *flags]) == expected
    return _rows(output) if output.exists() else []


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def _divided(path: Path, rule: EqualParts | Scenes, parts: tuple[TimeRange, ...] = WHOLE) -> list[list[int]]:
    """Start and end of each segment of all parts in milliseconds."""
    reply = divide(Division(str(path), parts, rule))
    assert isinstance(reply, Divided), reply
    return [[found.start, found.end or 0] for part in reply.segments for found in part if not isinstance(found, str)]


def _video(path: Path, times: Sequence[int], colours: Sequence[int]) -> Path:
    """A video with a frame of a gray value at each time in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, colour in zip(times, colours, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), colour, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float, str]]]:
    path = tmp_path_factory.mktemp("joined") / "joined.mp4"
    return path, joined_video(path, clips=10, seed=1)


def test_scenes_of_a_joined_video_are_its_clips(joined: tuple[Path, list[tuple[float, float, str]]]) -> None:
    path, parts = joined
    rows = _run(_write(path.with_name("videos.csv"), ["path", "note"], [[str(path), "n,1"]]), "--scenes")
    assert [row["segment"] for row in rows] == [str(number) for number in range(10)]
    for row, (start, end, _) in zip(rows, parts, strict=True):
        assert float(row["start"]) == pytest.approx(start, abs=0.001)
        assert float(row["end"]) == pytest.approx(end, abs=0.001)
        assert row["note"] == "n,1" and row["path"] == str(path)
    assert _divided(path, Scenes("content", None, 600, 0)) == _divided(path, ADAPTIVE)


def test_scenes_of_a_range_are_those_of_the_file(joined: tuple[Path, list[tuple[float, float, str]]]) -> None:
    path, parts = joined
    cuts = [round(start * 1000) for start, _, _ in parts]
    found = _divided(path, ADAPTIVE, (TimeRange(cuts[4] - 700, cuts[7] + 800),))
    assert [start for start, _ in found] == [cuts[4] - 700, *cuts[4:8]] and found[-1][1] == cuts[7] + 800
    longest = max(end - start for start, end in _divided(path, Scenes("adaptive", None, 600, 1200)))
    assert 800 < longest <= 1201


def test_variable_frame_rate(tmp_path: Path) -> None:
    """A still title of 6 s, then 25 frames per second: cuts by frame numbers would be seconds off."""
    times = [0, *range(6000, 8000, 40), *range(8000, 12000, 100)]
    colours = [20] + [20] * 50 + [220] * 40
    path = _video(tmp_path / "variable.mkv", times, colours)
    known = frame_times(str(path))
    assert list(known.times) == times and 11_900 < known.end < 12_100
    assert _divided(path, ADAPTIVE) == [[0, 8000], [8000, known.end]]
    assert _divided(path, EqualParts(Fraction(2500))) == [[0, 5000], [5000, 7500], [7500, 10000], [10000, known.end]]
    assert _divided(path, EqualParts(Fraction(1000)), (TimeRange(1000, 2000),)) == [[1000, 2000]]


def test_time_0_is_the_first_frame(tmp_path: Path) -> None:
    path = _video(tmp_path / "late.mkv", range(5000, 7000, 40), [90] * 50)
    assert _divided(path, EqualParts(Fraction(1000))) == [[0, 1000], [1000, 2000]]


@pytest.mark.parametrize(("frames", "ends"), [(1, [125]), (2, [250]), (8, [1000]), (9, [1000, 1125])])
def test_short_videos(tmp_path: Path, frames: int, ends: list[int]) -> None:
    path = render_clip(tmp_path / "a.mp4", frames=frames)  # 8 frames per second
    assert [end for _, end in _divided(path, EqualParts(Fraction(1000)))] == ends
    assert [end for _, end in _divided(path, ADAPTIVE)] == ends[-1:]


def test_a_stream_without_timestamps_has_a_constant_rate(tmp_path: Path) -> None:
    path = _video(tmp_path / "raw.h264", range(0, 2000, 40), [60] * 25 + [200] * 25)
    assert frame_times(str(path)).first is None, "the case that this test is about"
    assert _divided(path, EqualParts(Fraction(800))) == [[0, 800], [800, 1600], [1600, 2000]]
    assert _divided(path, ADAPTIVE) == [[0, 1000], [1000, 2000]]


def test_rows_with_ranges_are_divided_within_them(tmp_path: Path) -> None:
    video = str(render_clip(tmp_path / "a.mp4", frames=40))  # 5 s
    rows = [[video, "1", "x", "3.25"], [video, "", "y", ""], [video, "4.5", "z", "9"], [video, "7", "w", "8"]]
    table = _write(tmp_path / "videos.csv", ["path", "start", "text", "end"], rows)
    found = _run(table, "--every", "2")
    assert [tuple(row.values()) for row in found] == [
        (video, "1.000", "x", "3.000", "0"),
        (video, "3.000", "x", "3.250", "1"),
        (video, "0.000", "y", "2.000", "2"),
        (video, "2.000", "y", "4.000", "3"),
        (video, "4.000", "y", "5.000", "4"),
        (video, "4.500", "z", "5.000", "5"),
    ]
    failed = _rows(tmp_path / "segments_failures.csv")
    message = "the range 7.000 s to 8.000 s begins after the end of the video (5.000 s)"
    assert failed == [{"row": "3", "path": video, "message": message}]
    assert len(_run(table, "--every", "2", "--whole_files")) == 4 * 3
    assert not (tmp_path / "segments_failures.csv").exists(), "an earlier file of failures is removed"


def test_parquet_keeps_types_and_one_video_needs_no_table(tmp_path: Path) -> None:
    video = str(render_clip(tmp_path / "a.mp4", frames=24))
    pd.DataFrame({"path": [video], "id": ["007"], "views": [12]}).to_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    arguments = [str(tmp_path / "in.parquet"), "--output", str(output), "--frames", "2", "--fps", "1"]
    assert segments.main(arguments) == 0
    made = pd.read_parquet(output)
    assert made["id"].tolist() == ["007"] * 2 and made["views"].tolist() == [12, 12]
    assert made["start"].tolist() == [0.0, 2.0] and made["end"].tolist() == [2.0, 3.0]
    assert made["segment"].tolist() == [0, 1]
    assert [row["end"] for row in _run(Path(video), "--every", "1.5")] == ["1.500", "3.000"]


def _write_sound(path: Path, has_cover: bool) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        if has_cover:
            cover = container.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
        if has_cover:
            container.mux([*cover.encode(picture), *cover.encode()])


def _decode_slowly(division: Division) -> Divided:
    """Replaces `divide` in the processes."""
    time.sleep(60 if "slow" in division.path else 1.5)
    return Divided(((TimeRange(0, 1000),),) * len(division.parts), False)


def _invented_frames(division: Division) -> int:
    """Replaces `count_frames` in the processes."""
    return 6000 if division.path == "long" else 750


def test_scenes_of_long_videos_have_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--timeout 1` is 5 s for 6,000 frames, and 1.5 s for 750."""
    monkeypatch.setattr(many, "divide", _decode_slowly)
    monkeypatch.setattr(many, "count_frames", _invented_frames)
    table = _write(tmp_path / "t.csv", ["path"], [["long"], ["slow"]])
    rows = _run(table, "--scenes", "--timeout", "1")
    assert [row["path"] for row in rows] == ["long"]
    failed = _rows(tmp_path / "segments_failures.csv")
    assert "no answer within 1.5 s (--timeout)" in failed[0]["message"]


def test_broken_files_cost_their_own_rows(
    tmp_path: Path, joined: tuple[Path, list[tuple[float, float, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    good = render_clip(tmp_path / "good.mp4", frames=16)
    for name in ("sound.mp4", "cover.mp4"):
        _write_sound(tmp_path / name, has_cover=name == "cover.mp4")
    with av.open(str(joined[0])) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\ngood.mp4\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.jpg")
    bad = {
        "gone.mp4": "no such file",
        "empty.mp4": "the file is empty",
        "text.mp4": "Invalid data",
        "list.mp4": "an HLS playlist",
        "sound.mp4": "no video stream",
        "cover.mp4": "no video stream, only a cover picture",
        "image.jpg": "an image can't be divided",
    }
    names = ["good.mp4", *bad, "cut.mkv"]
    table = _write(tmp_path / "t.csv", ["path"], [*([str(tmp_path / name)] for name in names), ["https://h/a.mp4"]])
    rows = _run(table, "--every", "1")
    assert [row["end"] for row in rows if row["path"] == str(good)] == ["1.000", "2.000"]
    cut = [row for row in rows if row["path"].endswith("cut.mkv")]
    assert 5 < float(cut[-1]["end"]) < 20, "of 23.5 s"
    failed = {Path(row["path"]).name: row["message"] for row in _rows(tmp_path / "segments_failures.csv")}
    for name, message in {**bad, "a.mp4": "a URL; download the file"}.items():
        assert message in failed.pop(name), name
    assert not failed
    shown = capsys.readouterr()
    assert "1 files are cut off or damaged" in shown.out and "8 rows failed" in shown.out
    assert "no such file" in shown.err
    table = _write(tmp_path / "t.csv", ["path"], [["gone.mp4"]])
    assert _run(table, "--scenes", expected=1) == []
    assert len(_rows(tmp_path / "segments_failures.csv")) == 1


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="real videos are not part of a clone")
def test_real_videos() -> None:
    assert [end for _, end in _divided(VIDEOS / "bikes.mp4", ADAPTIVE)] == [1200, 3040, 5480, 7480, 10000]
    assert [end for _, end in _divided(VIDEOS / "nasa_13013.mp4", EqualParts(Fraction(5000)))] == [5000, 10000, 13013]
    damaged = divide(Division(str(VIDEOS / "corrupted.mp4"), WHOLE, ADAPTIVE))
    assert isinstance(damaged, Divided) and damaged.is_partial
    assert damaged.segments == ((TimeRange(0, 2800),),), "frames after the damage can't be decoded"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every", "0"], "out of bounds"),
        ([], "one of the arguments --every --frames --scenes is required"),
        (["--every", "3", "--scenes"], "not allowed with"),
        (["--frames", "4"], "--frames 4 needs --fps"),
        (["--every", "4", "--fps", "1"], "--fps is a flag of --frames"),
        (["--every", "4", "--min_length", "1"], "--min_length is a flag of --scenes"),
        (["--frames", "1", "--fps", "5000"], "shorter than 1 ms"),
        (["--scenes", "--min_length", "3", "--max_length", "2"], "--max_length 2 is less than --min_length 3"),
        (["--scenes", "shots"], "invalid choice"),
        (["--every", "3", "--output", "out.txt"], "none of .csv"),
    ],
)
def test_usage_errors(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "t.csv", ["path"], [["a.mp4"]])
    assert segments.main(["t.csv", "--output", "out.csv", *flags]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir() == ["t.csv"]


def test_faults_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, columns, message in [
        ("a.csv", ["file", "start"], "no column 'path'"),
        ("b.csv", ["path", "start"], "row 0: 'soon' in the columns start and end is not a number of seconds"),
    ]:
        _write(Path(name), columns, [["a.mp4", "soon"]])
        assert segments.main([name, "--output", "out.csv", "--every", "1"]) == 2
        assert message in capsys.readouterr().err
    _write(Path("out_failures.csv"), ["path"], [["a.mp4"]])
    assert segments.main(["out_failures.csv", "--output", "out.csv", "--every", "1"]) == 2
    assert "would replace the input" in capsys.readouterr().err
    assert segments.main(["a.csv", "--output", "b.csv", "--every", "1"]) == 2
    assert "b.csv exists already" in capsys.readouterr().err


def test_without_pyscenedetect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    table = _write(tmp_path / "t.csv", ["path"], [["a.mp4"]])
    _run(table, "--scenes", expected=2)
    assert "pip install -r requirements-scenes.txt" in capsys.readouterr().err


def test_an_interrupted_command_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = str(render_clip(tmp_path / "a.mp4"))
    table = _write(tmp_path / "t.csv", ["path"], [[video], ["gone.mp4"]])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.datasets.tables.write_csv", interrupt)
    assert _run(table, "--every", "1", expected=130) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "t.csv"]
