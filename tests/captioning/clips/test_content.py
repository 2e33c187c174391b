"""Playlists are refused, downloaded or not; clips are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.captioning.clips.clip import ClipTask, LoadFailure
from pipeline.captioning.clips.content import playlist_in, text_at_start
from pipeline.captioning.clips.decode import DecodeError, available_decoders, decode
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.fakes import mean_colour, render_clip, segments

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
        (b"<!--skip--><MPD>", "a DASH manifest"),  # bytes 4 to 8 are those of an MP4 file
        (b"FLV\nv=0\nc=IN IP4 127.0.0.1\n", "a session description (SDP)"),
    ],
)
@pytest.mark.parametrize("file", ["a.mp4", "a.m3u8", "a"])
def test_playlists_are_refused(tmp_path: Path, data: bytes, name: str, file: str) -> None:
    (tmp_path / file).write_bytes(data)
    assert playlist_in(text_at_start(str(tmp_path / file))) == name
    for decoder in available_decoders(file):
        with pytest.raises(DecodeError) as caught:
            decode(str(tmp_path / file), segments(2), [decoder])
        assert caught.value.messages == (f"the file is {name}, not a clip; what it refers to is not opened",)


def test_a_local_playlist_opens_nothing_and_has_one_message(tmp_path: Path) -> None:
    """Also a list of local files that both decoders could open."""
    clip = render_clip(tmp_path / "segment.ts")
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")
    (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile segment.ts\n")
    rows = [ClipTask(row, str(tmp_path / name)) for row, name in enumerate(("a.mp4", "b.mp4"))]
    with ClipLoader(rows, FramePreparation(segments(2), mean_colour), DecoderLimits(30), prefetch=2) as loader:
        failures = list(loader)
    for failure, name in zip(failures, ("an HLS playlist", "a list of files for FFmpeg"), strict=True):
        assert isinstance(failure, LoadFailure) and failure.stage == "decode"
        assert failure.messages == (f"the file is {name}, not a clip; what it refers to is not opened",)


def test_little_is_read_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"G@\0" + b"x" * 10**6)
    assert text_at_start(str(tmp_path / "a")) == b"g@"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg"])
def test_videos_are_not(tmp_path: Path, suffix: str) -> None:
    assert playlist_in(text_at_start(str(render_clip(tmp_path / f"a.{suffix}")))) == ""
