"""Writes the page: markup, style and script from the files beside this one, data and pictures inside.

Whatever comes from a table is put in as JSON that can't end its element, and reaches the page as text only. A
content security policy lets nothing run but the page's own script, and nothing be fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...meta.files import atomic_write
from ..progress_log import duration
from .entries import MARKS, Entries, Entry
from .filmstrips import Filmstrip

_SCRIPTS = ("rows.js", "cards.js", "dialog.js", "controls.js")
"""One after the other in one scope."""


def write_page(
    output: Path,
    table: Path,
    entries: Entries,
    strips: Mapping[str, Filmstrip],
    problems: Mapping[str, str],
    report: Mapping[str, Any],
) -> None:
    """Write the gallery of `table`, whole or not at all.

    strips, problems: by path, see `filmstrips.make_filmstrips`. report: of the run, may be empty.

    Raises:
        RunError: it can't be written.
    """
    numbers = {path: number for number, path in enumerate(strips)}
    data = {
        "columns": entries.columns,
        "marks": MARKS,
        "captioned": entries.captioned,
        "failed": entries.failed,
        "chosen": entries.chosen,
        "run": list(_about(report)),
        "strips": [[strip.frames, strip.width, strip.height] for strip in strips.values()],
        "rows": [_row(entry, numbers, problems, output) for entry in entries.entries],
    }
    with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for part in _parts(table.name, data):
            file.write(part)
        for strip in strips.values():
            file.write(f'<script type="text/plain" class="strip">{base64.b64encode(strip.data).decode()}</script>\n')
        file.write("</body>\n</html>\n")


def _parts(title: str, data: Mapping[str, Any]) -> Iterator[str]:
    """All of the page before the pictures: it works while they are still being read."""
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
    """JSON that stands in a script element as it is: no `<` that could end it, ASCII only."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _row(entry: Entry, numbers: Mapping[str, int], problems: Mapping[str, str], output: Path) -> dict[str, Any]:
    row = {
        "row": entry.row,
        "path": entry.path,
        "text": entry.caption,
        "stage": entry.stage,
        "message": entry.message,
        "marks": entry.marks,
        "words": entry.words,
        "times": entry.times,
        "cells": entry.cells,
        "strip": numbers.get(entry.path),
        "problem": problems.get(entry.path, ""),
    }
    if entry.path in numbers:
        row["link"] = _link(entry.path, output)
    return row


def _link(path: str, output: Path) -> str:
    """A link to the clip that is good as long as page and clip stay where they are to each other."""
    relative = os.path.relpath(path, output.parent)
    return "./" + quote(relative.encode("utf-8", "surrogateescape"))


def _about(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is worth telling of the run, as pairs of words."""
    if not report:
        return
    fingerprint, options = report["fingerprint"], report["options"]
    yield "captioned in this run", f"{report['captioned_in_this_run']:,} in {duration(report['seconds'])}"
    yield "speed", f"{report['clips_per_second']:.2f} clips/s, {report['tokens_per_second']:.1f} tokens/s"
    yield "cut off by --max_new_tokens", f"{report['truncated']:,}"
    if "partial" in report:  # reports of earlier versions have none
        yield "videos decoded in part only", f"{report['partial']:,}"
    yield "workers", f"{report['workers']}, {', '.join(report['backends'])}"
    for name in ("checkpoint", "prompt", "frames", "pooling shape", "generation"):
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
