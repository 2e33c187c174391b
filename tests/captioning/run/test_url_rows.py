"""A run over local files and URLs: the captions are those of the local files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.captioning.clips.downloads.servers import content, s3_server, status, web_server
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta


def test_captions_of_urls_are_those_of_local_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    clips = [render_clip(tmp_path / f"{number}.mp4", number) for number in range(3)]
    Image.new("RGB", (40, 30), (10, 200, 30)).save(tmp_path / "3.png")
    files = [*clips, tmp_path / "3.png"]
    (tmp_path / "local").mkdir()
    local = write_meta(tmp_path / "local", [str(file) for file in files])
    assert run_job(local, FakeSource()) == [0]
    expected = [row["text"] for row in read_rows(local.output)]
    with web_server() as web, s3_server() as s3:
        s3.upload_file(str(files[1]), "clips", "1.mp4")
        broken = web.url("/2.mp4", content(files[2].read_bytes()[:99], announced=10**4), content(files[2].read_bytes()))
        paths = [
            str(files[0]),
            "s3://clips/1.mp4",
            broken,
            web.url("/3.png", content(files[3].read_bytes())),
            web.url("/4.mp4?key=s3cret", status(404), user="me:pa55@"),
            web.url("/5.mp4", content(b"x" * 10**6)),
            str(tmp_path / "missing.mp4"),
            web.url("/7.mp4", status(503, Retry_After="3600")),
        ]
        options = write_meta(tmp_path, paths)
        options = replace(options, decode_workers=2, download_timeout=30.0, max_download=10**5)
        assert run_job(options, FakeSource()) == [0]
    assert "/4.mp4?…): download: HTTP 404 Not Found" in caplog.text
    assert "s3cret" not in caplog.text and "pa55" not in caplog.text
    rows = read_rows(options.output)
    assert [row["path"] for row in rows] == paths
    assert [row["text"] for row in rows] == [*expected, "", "", "", ""]
    with (tmp_path / "out_failures.csv").open(newline="") as file:
        failures = {int(row["row"]): (row["stage"], row["message"]) for row in csv.DictReader(file)}
    assert failures[4] == ("download", "HTTP 404 Not Found")
    assert failures[5] == ("download", "the file has 1,000,000 bytes, more than --max_download 100,000 bytes")
    assert failures[6][0] == "path"
    assert failures[7][0] == "download" and failures[7][1].startswith("no download within 30 s (--download_timeout), ")
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert report["failures_by_stage"] == {"download": 3, "path": 1}
    assert (report["options"]["max_download"], report["options"]["download_timeout"]) == (10**5, 30.0)
