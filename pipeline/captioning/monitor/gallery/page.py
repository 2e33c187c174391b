"""Writes the gallery page: markup, style and scripts from the files in this folder, with data and pictures embedded.

All content of a table is embedded as JSON that can't end its element, and the scripts show it as text only. A content
security policy allows only the page's own script to run, and forbids all network requests.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...clips.downloads.urls import is_url, without_credentials
from ...clips.time_range import TimeRange
from ...meta.files import atomic_write
from ..progress_log import duration
from .entries import MARKS, Entries, Entry
from .filmstrips import ClipKey, Filmstrip
from .videos import Video

_SCRIPTS = ("rows.js", "cards.js", "videos.js", "dialog.js", "controls.js")
"""Joined in this order into one script; they share one scope."""


def write_page(
    output: Path,
    table: Path,
    entries: Entries,
    strips: Mapping[ClipKey, Filmstrip],
    problems: Mapping[ClipKey, str],
    report: Mapping[str, Any],
) -> None:
    """Write the gallery page of `table` to `output`: the whole page, or nothing.

    strips, problems: by clip, see `filmstrips.make_filmstrips`.
    report: the report of the run; may be empty.

    Raises:
        RunError: the page can't be written.
    """
    strip_numbers = {clip: number for number, clip in enumerate(strips)}
    videos = {video.path: number for number, video in enumerate(entries.videos)}
    data = {
        "captions": entries.captions,
        "columns": entries.columns,
        "unit": entries.unit,
        "marks": MARKS,
        "total": entries.rows,
        "captioned": entries.captioned,
        "chosen": entries.chosen,
        "run": list(_run_facts(report)),
        "strips": [[strip.frames, strip.width, strip.height] for strip in strips.values()],
        "videos": [_video(video) for video in entries.videos],
        "rows": [
            _row(entry, strip_numbers, problems, output) | _segment(entry, videos, strips.get(entry.clip))
            for entry in entries.entries
        ],
    }
    with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for part in _parts_before_pictures(table.name, data):
            file.write(part)
        for strip in strips.values():
            file.write(f'<script type="text/plain" class="strip">{base64.b64encode(strip.data).decode()}</script>\n')
        file.write("</body>\n</html>\n")


def _parts_before_pictures(title: str, data: Mapping[str, Any]) -> Iterator[str]:
    """The page up to the pictures. The browser can already use this part while it reads the pictures."""
    style = "\n" + _file("page.css")
    script = '\n"use strict";\n{\n' + "\n".join(map(_file, _SCRIPTS)) + "}\n"
    policy = (
        f"default-src 'none'; img-src blob:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )
    yield _file("page.html").replace("{title}", html.escape(title))
    yield f'<script type="application/json" id="data">{embedded_json(data)}</script>\n'
    yield f"<script>{script}</script>\n"


def embedded_json(data: Any) -> str:
    """JSON that can be embedded in a script element: ASCII only, without `<`, which could end the element."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _video(video: Video) -> dict[str, Any]:
    return {**dataclasses.asdict(video), "path": without_credentials(video.path)}


def _row(
    entry: Entry, strip_numbers: Mapping[ClipKey, int], problems: Mapping[ClipKey, str], output: Path
) -> dict[str, Any]:
    row = {
        "row": entry.row,
        "path": without_credentials(entry.path),
        "captions": [dataclasses.asdict(caption) for caption in entry.captions],
        "cells": entry.cells,
        "strip": strip_numbers.get(entry.clip),
        "problem": problems.get(entry.clip, ""),
    }
    if entry.clip in strip_numbers and (link := _link(entry.path, output)):
        row["link"] = link + _link_time(link, entry.range)
    return row


def _segment(entry: Entry, videos: Mapping[str, int], strip: Filmstrip | None) -> dict[str, Any]:
    """What a row that is a part of its file has in addition: the number of its video, and its times in milliseconds.

    An end that the table does not give is null. `until` is then the end as far as it is known from the decoded clip.
    """
    part = entry.range
    if part is None:
        return {}
    segment = {"video": videos[entry.path], "start": part.start, "end": part.end}
    if part.end is None and strip is not None and strip.duration > 0:
        segment["until"] = part.start + round(strip.duration * 1000)
    return segment


def _link_time(link: str, part: TimeRange | None) -> str:
    """What makes a browser play only the range (Media Fragments URI 1.0); '' for the whole file."""
    if part is None or part.problem or "#" in link:
        return ""
    start, end = part.cells
    return f"#t={start}" + (f",{end}" if end else "")


def _link(path: str, output: Path) -> str:
    """A link to the clip; '' if a browser can't open it, or the link would contain credentials.

    To a local file it is relative, and stays valid if page and clip are moved together.
    """
    if is_url(path):
        return path if path == without_credentials(path) and not path.lower().startswith("s3:") else ""
    relative = os.path.relpath(path, output.parent)
    return "./" + quote(relative.encode("utf-8", "surrogateescape"))


def _run_facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts about the run, as pairs of name and value."""
    if not report:
        return
    fingerprint, options = report["fingerprint"], report["options"]
    yield "captioned in this run", f"{report['captioned_in_this_run']:,} in {duration(report['seconds'])}"
    yield "speed", f"{report['clips_per_second']:.2f} clips/s, {report['tokens_per_second']:.1f} tokens/s"
    yield "cut off by --max_new_tokens", f"{report['truncated']:,}"
    if "partial" in report:  # missing in reports of earlier versions
        yield "partial videos (decoded in part only)", f"{report['partial']:,}"
    if report.get("images"):
        yield "still images", f"{report['images']:,}, and {report['videos']:,} videos"
    yield "workers", f"{report['workers']}, {', '.join(report['backends'])}"
    prompts = [name for name in fingerprint if name.split(" ")[0] == "prompt"]  # "prompt", or "prompt <column>"
    for name in ("checkpoint", *prompts, "frames", "short side", "pooling shape", "generation"):
        if name in fingerprint:
            yield name, fingerprint[name]
    if "meta_path" in options:
        yield "meta table", options["meta_path"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
