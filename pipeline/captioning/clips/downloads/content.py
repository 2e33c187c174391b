"""Recognise downloaded files that are not clips: playlists, which decoders would follow, and web pages.

A playlist names other files and URLs. FFmpeg recognises playlists by their content, whatever the file is called, and
opens what they name. So a downloaded one must not reach a decoder: it could read local files of this machine.
"""

from __future__ import annotations

_HEAD_BYTES = 2**20
"""FFmpeg looks at this many bytes to recognise a format."""
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


def refusal(path: str) -> str:
    """Why a downloaded file is refused; '' if it may be decoded."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES).lower()
    # These formats are text. FFmpeg compares text up to the first zero byte only, and it skips an ID3 tag.
    text = head if head.startswith(b"id3") else head.partition(b"\0")[0]
    for mark, name in _PLAYLISTS.items():
        if mark in text:
            return f"the downloaded file is {name}, not a clip; what it refers to is not fetched"
    if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PAGES):
        return "the server sent a web page, not a clip"
    return ""
