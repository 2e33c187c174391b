"""Sizes and lengths of files. An unreadable file leaves only its own cells empty."""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import EpsImagePlugin, Image

from pipeline.captioning.clips import file_processes, killable
from pipeline.captioning.clips.decode_pyav import video_info
from pipeline.captioning.process.errors import RunError, UsageError
from pipeline.datasets import info
from pipeline.datasets.operation import Settings
from tests.fakes import render_clip
from tests.golden import VIDEOS

SETTINGS = Settings(workers=2, timeout=30)


def _info(paths: list[str], settings: Settings = SETTINGS) -> list[dict[str, object]]:
    frame = info.add_info(pd.DataFrame({"path": paths, "note": "n"}, dtype="string"), None, settings)
    assert frame["path"].tolist() == paths
    return frame.drop(columns=["path", "note"]).astype(object).where(frame.notna(), None).to_dict("records")


def test_other_formats_are_not_opened_by_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow starts Ghostscript for EPS."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: started.append(1) or Image.new("RGB", (9, 9)).im)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    problem = info._probe(str(tmp_path / "a.png"))
    assert isinstance(problem, str) and problem.startswith("cannot identify image file") and not started


def test_videos_images_and_unreadable_files(tmp_path: Path) -> None:
    video = str(render_clip(tmp_path / "ü.mp4", frames=16))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "text.mp4").write_text("no video")
    paths = [video, str(tmp_path / "a.jpg"), str(tmp_path / "text.mp4"), "/nowhere.mp4", "", video]
    first, image, *unreadable, last = _info(paths)
    expected = {
        "num_frames": 16,
        "height": 64,
        "width": 96,
        "aspect_ratio": 64 / 96,
        "fps": 8.0,
        "duration": 2.0,
        "resolution": 6144,
    }
    assert first == last == expected
    assert image == {
        "num_frames": 1,
        "height": 40,
        "width": 20,
        "aspect_ratio": 2.0,
        "fps": None,
        "duration": None,
        "resolution": 800,
    }
    assert all(value is None for row in unreadable for value in row.values())
    videos_only = info.add_video_info(pd.DataFrame({"path": paths[:2]}, dtype="string"), None, SETTINGS)
    assert videos_only["num_frames"].isna().tolist() == [False, True]


def test_parts_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part has its own length. The video has 16 frames in 2 seconds."""
    video, image = str(render_clip(tmp_path / "a.mp4", frames=16)), str(tmp_path / "a.jpg")
    Image.new("RGB", (40, 20)).save(image)
    rows = [
        (video, "0.5", "1.25", 6, 0.75),
        (video, "1.5", "9", 4, 0.5),  # ends with the video
        (video, "1", "", 8, 1.0),
        (video, "0", "0.001", 1, 0.001),
        (video, "", "", 16, 2.0),
        (image, "0", "1", 1, None),
        (video, "2", "3", None, None),
        (video, "1", "0.5", None, None),
        ("/nowhere.mp4", "0", "1", None, None),
    ]
    frame = pd.DataFrame([row[:3] for row in rows], columns=["path", "start", "end"], dtype="string")
    for operation in (info.add_info, info.add_video_info):
        made = operation(frame, None, SETTINGS)
        found = made[["num_frames", "duration"]].astype(object).where(made[["num_frames", "duration"]].notna(), None)
        expected = [row[3:] for row in rows]
        if operation is info.add_video_info:
            expected[5] = (None, None)
        assert list(found.itertuples(index=False, name=None)) == expected
        assert made["height"].tolist()[:5] == [64] * 5 and made["fps"].tolist()[6:8] == [8.0] * 2
    printed = capsys.readouterr()
    assert f"row 6: {video}: the range 2.000 s to 3.000 s begins after the end of the video (2.000 s)" in printed.out
    assert "row 7: " in printed.out and "is reversed" in printed.out
    whole = info.add_info(frame, None, replace(SETTINGS, whole_files=True))
    assert whole["num_frames"].tolist()[:4] == [16] * 4
    with pytest.raises(UsageError, match="'x' is not"):
        info.add_info(frame.assign(start="x"), None, SETTINGS)


def _misbehave(path: str) -> object:
    """Replaces `info._probe` in the process that reads files."""
    if "hang" in path:
        ctypes.PyDLL(None).sleep(3600)
    if "crash" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"num_frames": 7}


def test_a_file_that_hangs_or_crashes_affects_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "_probe", _misbehave)
    found, problems = info.probe_files(["a", "hang", "b", "crash", "c"], replace(SETTINGS, timeout=2))
    assert sorted(found) == ["a", "b", "c"]
    assert "no answer within 2 s (--timeout)" in problems["hang"]
    assert "signal 11" in problems["crash"]


def test_the_command_fails_if_processes_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not continue without these rows."""

    def forbidden(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(killable, "START_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(file_processes.FileProcess, "_make_process", forbidden)
    with pytest.raises(RunError, match="Resource temporarily unavailable"):
        info.probe_files([str(tmp_path / "a.mp4")], Settings(workers=2, timeout=10))


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="real videos are not part of a clone")
def test_real_videos() -> None:
    decord = pytest.importorskip("decord")
    names = ["nasa_13013.mp4", "nasa_13013_rotated.mp4", "bikes.mp4", "carphone_pristine.mp4", "h265_video.mp4"]
    names += ["testsrc2_vp9.webm", "video_90.mov", "testsrc2_mpeg4.mp4", "testsrc2_odd_height_444.mp4"]
    for name, row in zip(names, _info([str(VIDEOS / name) for name in names]), strict=True):
        reader = decord.VideoReader(str(VIDEOS / name))
        height, width = reader[0].shape[:2]
        assert (row["num_frames"], row["height"], row["width"]) == (len(reader), height, width), name
        assert row["fps"] == pytest.approx(reader.get_avg_fps(), rel=0.01), name
        assert row["duration"] == pytest.approx(len(reader) / reader.get_avg_fps(), rel=0.05), name
    # decord can't be the reference here: it counts hidden frames of the first file and can't read the others.
    assert video_info(str(VIDEOS / "discard_first_keyframe.mp4")).num_frames == 25
    assert video_info(str(VIDEOS / "av1_video.mkv")).num_frames == 125
    assert all(value is None for value in _info([str(VIDEOS / "MANIFEST.md")])[0].values())
