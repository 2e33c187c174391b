"""The report of a run agrees with its other outputs."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from pipeline.captioning.captioners.base import Caption
from pipeline.captioning.clips.clip import Clip
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta

CAPTIONS = [
    "A dog runs.",
    "A dog runs.",
    "on and on and on and on and on",
    "A cat sits on a mat, and then",
    "A dog runs.",
]


def _caption(clip: Clip) -> Caption:
    text = CAPTIONS[clip.row]
    return Caption(text, len(text.split()) + 1, truncated=text.endswith("then"))


def test_the_counts_of_the_report_agree_with_the_outputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "text.mp4").write_text("no video")
    paths = [str(render_clip(tmp_path / f"{i}.mkv", i, frames=40)) for i in range(len(CAPTIONS))]
    for path in map(Path, paths[1:3]):
        path.write_bytes(path.read_bytes()[:-600])
    options = write_meta(tmp_path, [*paths, "/nowhere.mp4", str(tmp_path / "text.mp4")])
    assert run_job(options, FakeSource(caption=_caption), workers=2) == [0, 0]
    report = json.loads((tmp_path / "out_report.json").read_text())
    rows = read_rows(options.output)
    texts = [row["text"] for row in rows if row["text"]]
    with (tmp_path / "out_failures.csv").open(newline="") as file:
        failures = list(csv.DictReader(file))
    assert (report["rows"], report["captioned"], report["failed"]) == (len(rows), len(texts), len(failures))
    assert report["failures_by_stage"] == dict(Counter(failure["stage"] for failure in failures))
    assert report["most_repeated_captions"] == [
        {"caption": text, "rows": count} for text, count in Counter(texts).most_common() if count > 1
    ]
    words = sorted(len(text.split()) for text in texts)
    assert report["words_per_caption"] == {"least": words[0], "median": words[len(words) // 2], "most": words[-1]}
    assert (report["truncated"], report["looping"]) == (1, 1)
    assert report["partial"] == 2
    assert report["partial_examples"] == [{"row": 1, "path": paths[1]}, {"row": 2, "path": paths[2]}]
    assert report["failure_examples"]["path"]["path"] == "/nowhere.mp4"
    assert report["tokens"] == sum(len(text.split()) + 1 for text in texts)
    log = caplog.text
    for line in (
        "rows that failed at stage decode: 1, for example row 6",
        "1 captions (20.0%) were cut off by --max_new_tokens",
        "1 captions loop",
        "2 captions (40.0%) are of partial videos, of which only a part could be decoded, "
        f"for example row 1 ({paths[1]})",
        "3 rows (60.0%) have the same caption: A dog runs.",
        "words per caption: 3 to 9, median 3",
        "5 captions in",
    ):
        assert line in log, line
