"""The report of a run agrees with its other outputs."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.base import Caption
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.run import job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.rank_stats import RankStats
from pipeline.captioning.workers.world import solo_world
from tests.fakes import CPU, FakeSource, render_clip
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


class FakeServiceWork(ModelWork):
    """Captions as a model does, and counts as a service does."""

    service: dict[str, Any]

    def run(self, options: JobOptions, plan: Any, journal: Any, world: Any, stats: RankStats) -> None:
        super().run(options, plan, journal, world, stats)
        stats.service = self.service


SERVICE = {
    "base_url": "http://host/v1",
    "model": "m",
    "send": "images",
    "concurrency": 32,
    "requests": 1320,
    "retries": 12,
    "answers_paid": 1300,
    "answers_from_store": 100,
    "prompt_tokens": 12345,
    "completion_tokens": 678,
    "answers_without_usage": 0,
    "cost": 1.2345,
    "price_in": 100.0,
    "price_out": 1.0,
    "outcomes": {"success": 1000, "truncated": 3},
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            "service: 1,320 requests (12 of them sent again), 12,345 tokens in, 678 out, cost 1.23, 100 answers from "
            "the store; outcomes: success 1,000, truncated 3",
        ),
        (
            {"cost": 0.0123, "cost_with_interrupted_runs": 1234.5, "retries": 0, "answers_from_store": 0},
            "service: 1,320 requests, 12,345 tokens in, 678 out, cost 0.0123 (1,234.50 with the interrupted runs); "
            "outcomes: ",
        ),
        ({"cost": None, "retries": 0, "outcomes": {}}, "12,345 tokens in, 678 out, 100 answers from the store\n"),
    ],
)
def test_a_run_through_a_service_reports_tokens_and_cost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], line: str
) -> None:
    caplog.set_level(logging.INFO)
    service = {name: value for name, value in (SERVICE | changes).items() if value is not None}
    work = FakeServiceWork(FakeSource(), lambda: CPU)
    work.service = service
    options = write_meta(tmp_path, [str(render_clip(tmp_path / "a.mp4"))])
    assert job.run_in_world(options, work, solo_world()) == 0
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert report["service"] == service
    for package in ("openai", "jsonschema"):
        assert report["versions"][package] == importlib.metadata.version(package)
    assert line in caplog.text and "device time" not in caplog.text


def test_a_run_with_a_model_reports_no_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = write_meta(tmp_path, [str(render_clip(tmp_path / "a.mp4"))])
    assert run_job(options, FakeSource(on_batch=lambda batch: time.sleep(0.01))) == [0]
    assert "service" not in json.loads((tmp_path / "out_report.json").read_text())
    assert "device time: vision 0 s, waiting for clips" in caplog.text and "service:" not in caplog.text
