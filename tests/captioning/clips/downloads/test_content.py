"""Playlists are refused; clips are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.captioning.clips.downloads.content import refusal
from tests.fakes import render_clip

HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/data/a.mp4\n#EXT-X-ENDLIST\n"
ID3 = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + b"\0" * 10


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (HLS, "an HLS playlist"),
        (ID3 + HLS, "an HLS playlist"),
        (HLS.replace(b"/data", b"/data\0"), "an HLS playlist"),
        (b"ffconcat version 1.0\nfile a.mp4\n", "a list of files for FFmpeg"),
        (b"v=0\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=video 5000 RTP/AVP 96\r\n", "a session description (SDP)"),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">', "a DASH manifest"),
        (b'<?xml version="1.0"?>\n<CompositionPlaylist xmlns="x">', "an IMF playlist"),
    ],
)
def test_playlists_are_refused(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "a").write_bytes(data)
    assert (
        refusal(str(tmp_path / "a")) == f"the downloaded file is {name}, not a clip; what it refers to is not fetched"
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg"])
def test_videos_are_not(tmp_path: Path, suffix: str) -> None:
    assert refusal(str(render_clip(tmp_path / f"a.{suffix}"))) == ""
