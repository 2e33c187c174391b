"""Answers are used again for the same clip only, whatever its path; nothing blocks and no secret is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.api.identity import clip_identity, file_identity
from pipeline.captioning.captioners.api.options import VIDEO, Visuals
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from tests.captioning.clips.test_animations import animation
from tests.fakes import render_clip, segments

_URL = "https://host/folder/a.mp4"


def test_a_file_may_be_moved_renamed_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render_clip(tmp_path / "a.mp4")
    identity = file_identity(str(path))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(path, tmp_path / "other" / "b")
    os.symlink(path, tmp_path / "link.avi")
    for name in ("a.mp4", "./other/../a.mp4", "other/b", "link.avi"):
        assert file_identity(name) == identity
    assert file_identity(str(render_clip(tmp_path / "c.mp4", number=1))) != identity


@pytest.mark.parametrize("size", [5000, 2**20, 2**20 + 1, 3 * 2**20 + 17])
def test_other_content_is_another_file(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    path = tmp_path / "a.mp4"

    def identity(data: np.ndarray) -> str:
        path.write_bytes(data.tobytes())
        return file_identity(str(path))

    identities = {identity(content), identity(content[:-1]), identity(np.append(content, np.uint8(0)))}
    positions = [0, 1, size - 1]
    if size <= 2**20:
        positions += [size // 2, size // 3]
    else:  # the begin and the end of pieces
        positions += [2**16 - 1, (size - 2**16) // 15, 7 * (size - 2**16) // 15 + 2**16 - 1, size - 2**16]
    for position in positions:
        changed = content.copy()
        changed[position] ^= 1
        identities.add(identity(changed))
    assert len(identities) == 3 + len(positions)


def test_of_a_large_file_a_mebibyte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse: reading all of it would take hours
    assert file_identity(str(path)).startswith(f"file {2**40} ")


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # to open it would block
    (tmp_path / "empty.mp4").touch()
    paths = [str(tmp_path / name) for name in ("pipe.mp4", "empty.mp4", "missing.mp4", "")]
    for path in (*paths, "/dev/zero", "", " ", "a\0b"):
        for function in (file_identity, lambda path: clip_identity(path, Visuals(), segments(3), 0)):
            with pytest.raises((OSError, ValueError)):
                function(path)


def test_a_playlist_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("#EXTM3U\nother.mp4\n")
    with pytest.raises(ValueError, match="HLS playlist"):
        clip_identity(str(tmp_path / "a.mp4"), Visuals(), segments(3), 0)


@pytest.mark.parametrize(
    "same",
    [
        "https://user:secret@host/folder/a.mp4",
        "HTTPS://HOST/folder/a.mp4",
        f"{_URL}#t=10",
        f"{_URL}?X-Amz-Algorithm=AWS4&X-Amz-Credential=secret&X-Amz-Date=1&X-Amz-Expires=2&X-Amz-Signature=secret",
        f"{_URL}?AWSAccessKeyId=secret&Signature=secret&Expires=17",
        f"{_URL}?X-Goog-Signature=secret&x-goog-date=5",
        f"{_URL}?Policy=secret&Key-Pair-Id=secret&Signature=secret",
        f"{_URL}?sv=2022&st=1&se=2&sr=b&sp=r&sig=secret",
        f"{_URL}?X%2DAmz%2DSignature=secret",
    ],
)
def test_credentials_and_signatures_of_a_url_do_not_count(same: str) -> None:
    assert file_identity(same) == file_identity(_URL)
    assert re.fullmatch(r"url [0-9a-f]{64}", file_identity(same)), "a digest, which shows no secret"


@pytest.mark.parametrize(
    "other",
    [
        "https://host/folder/b.mp4",
        "https://host/Folder/a.mp4",
        "https://other/folder/a.mp4",
        "https://host:8080/folder/a.mp4",
        f"{_URL}?v=1",
        f"{_URL}?st=1",
        f"{_URL}?token=7",
        f"{_URL}?Signature=7",
        f"{_URL}?Expires=1",
        "s3://host/folder/a.mp4",
    ],
)
def test_everything_else_in_a_url_names_the_clip(other: str) -> None:
    assert file_identity(other) != file_identity(_URL)


def test_parameters_of_a_signature_do_not_count_between_others() -> None:
    first, second = f"{_URL}?id=7&X-Amz-Signature=1", f"{_URL}?X-Amz-Signature=2&id=7"
    assert file_identity(first) == file_identity(second) != file_identity(_URL)


def test_urls_of_s3() -> None:
    assert file_identity("S3://bucket/a.mp4") == file_identity("s3://bucket/a.mp4")
    others = ["s3://bucket/a.mp4", "s3://bucket/a.mp4?versionId=1", "s3://bucket/a.mp4#1", "s3://bucket/a.mp4?token=1"]
    assert len(set(map(file_identity, others))) == 4


@pytest.mark.parametrize("url", ["ftp://host/a.mp4", "https://", "s3://bucket", "https://host:pw@other:x/secret"])
def test_urls_that_can_not_be_fetched_have_no_identity(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*secret)"):
        file_identity(url)


_VISUALS = Visuals(video_options={"num_frames": 3})
_OTHER_VISUALS = {
    "max_side": replace(_VISUALS, max_side=512),
    "quality": replace(_VISUALS, quality=50),
    "detail": replace(_VISUALS, detail="low"),
    "video_options": replace(_VISUALS, video_options={"fps": 1.0}),
}


def _what_counts(path: str, send: str) -> set[str]:
    """The settings on which the identity of a clip depends."""

    def identity(visuals: Visuals = _VISUALS, sampling: FrameSampling | None = None, short_side: int = 0) -> Any:
        found = clip_identity(path, replace(visuals, send=send), sampling or FrameSampling("uniform", 3), short_side)
        return json.dumps(found, sort_keys=True)

    same = identity()
    counts = {name for name, visuals in _OTHER_VISUALS.items() if identity(visuals) != same}
    samplings = [FrameSampling("uniform", 4), segments(3), FrameSampling("rate", 0, 1.0), FrameSampling("rate", 0, 2.0)]
    samplings += [FrameSampling("rate", 0, 1.0, 8), FrameSampling("uniform", 3, multiple=2)]
    different = {identity(sampling=sampling) for sampling in samplings} - {same}
    assert len(different) in (0, len(samplings))
    if different:
        counts.add("sampling")
    if identity(short_side=100) != same:
        counts.add("short_side")
    return counts


_OF_IMAGES = {"max_side", "quality", "detail", "short_side"}


def test_what_counts_for_videos(tmp_path: Path) -> None:
    path = str(render_clip(tmp_path / "a.mp4"))
    assert _what_counts(path, "images") == _OF_IMAGES | {"sampling"}
    assert _what_counts(path, VIDEO) == {"video_options"}
    wrong_name = str(render_clip(tmp_path / "b.mp4").rename(tmp_path / "b.jpg"))
    assert _what_counts(wrong_name, VIDEO) == {"video_options"}


def test_what_counts_for_urls_whose_content_is_not_known() -> None:
    assert _what_counts(_URL, "images") == _OF_IMAGES | {"sampling"}
    assert _what_counts("https://host/a.jpg", VIDEO) == _OF_IMAGES | {"sampling", "video_options"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.webp", {}),
        ("a.webp", {"lossless": True}),
        ("a.webp", {"icc_profile": b"profile"}),  # has the extended form, as animations do
        ("a.gif", {}),
        ("a.mp4", {"format": "PNG"}),
    ],
)
def test_the_sampling_does_not_count_for_still_images(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = str(tmp_path / name)
    Image.new("RGB", (20, 10), (255, 0, 0)).save(path, **options)
    expected = _OF_IMAGES if decode(path, segments(2)).is_image else _OF_IMAGES | {"sampling"}
    assert expected == _OF_IMAGES or name == "a.gif"
    for send in ("images", VIDEO):
        assert _what_counts(path, send) == expected


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_the_sampling_counts_for_animations(tmp_path: Path, name: str) -> None:
    path = str(animation(tmp_path / name, [100] * 4))
    for send in ("images", VIDEO):
        assert _what_counts(path, send) == _OF_IMAGES | {"sampling"}


def test_a_still_image_is_the_same_whether_videos_are_sent_as_files_or_not(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jpg")
    Image.new("RGB", (20, 10)).save(path)
    images, video = (clip_identity(path, replace(_VISUALS, send=send), segments(3), 0) for send in ("images", VIDEO))
    assert images == video


def test_the_range_counts_for_parts_of_files_only(tmp_path: Path) -> None:
    path = str(render_clip(tmp_path / "a.mp4"))
    for clip in (path, _URL):
        whole = clip_identity(clip, Visuals(), segments(3), 0)
        assert clip_identity(clip, Visuals(), segments(3), 0, None) == whole and "range" not in whole
        parts = [TimeRange(0, 1000), TimeRange(0, 2000), TimeRange(500, 1000), TimeRange(0)]
        found = [json.dumps(clip_identity(clip, Visuals(), segments(3), 0, part)) for part in parts]
        assert len({*found, json.dumps(whole)}) == 5


def test_the_way_of_sending_a_video_counts(tmp_path: Path) -> None:
    path = str(render_clip(tmp_path / "a.mp4"))
    images, video = (clip_identity(path, Visuals(send=send), segments(3), 0) for send in ("images", VIDEO))
    assert images != video
