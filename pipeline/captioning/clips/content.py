"""Recognise files that are not clips: playlists, which decoders would follow, and web pages.

A playlist names other files and URLs. FFmpeg recognises playlists by their content, whatever the file is called, and
opens what they name. So a playlist must not reach a decoder: it could read other files of this machine, and fetch URLs.
"""

from __future__ import annotations

_HEAD_BYTES = 2**20
"""FFmpeg looks at this many bytes to recognise a format."""
_FIRST_BYTES = 4096
"""Nearly every video has a zero byte among its first bytes, so that no more of it is read."""
_PLAYLISTS = {
    b"#extm3u": "an HLS playlist",
    b"ffconcat version": "a list of files for FFmpeg",
    b"c=in ip": "a session description (SDP)",
    b"<mpd": "a DASH manifest",
    b"<compositionplaylist": "an IMF playlist",
    b"# vobsub index": "an index of VobSub subtitles",
    b"rtsptext": "a redirection to RTSP",
}
"""Texts by which FFmpeg recognises formats that refer to other files, in lower case."""
_PAGES = (b"<!doctype html", b"<html")


def text_at_start(path: str) -> bytes:
    """The text at the beginning of a file in lower case, as far as FFmpeg looks for it; a few bytes if it has none.

    Raises:
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        head = file.read(_FIRST_BYTES)
        # FFmpeg compares text up to the first zero byte only, and it skips an ID3 tag.
        has_tag = head[:3].lower() == b"id3"
        if has_tag or b"\0" not in head:
            head += file.read(_HEAD_BYTES - len(head))
    return (head if has_tag else head.partition(b"\0")[0]).lower()


def playlist_in(text: bytes) -> str:
    """What kind of playlist begins with `text`, the result of `text_at_start`; '' if none."""
    return next((name for mark, name in _PLAYLISTS.items() if mark in text), "")


def is_web_page(text: bytes) -> bool:
    """Whether a file that begins with `text`, the result of `text_at_start`, is a web page."""
    return text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PAGES)
