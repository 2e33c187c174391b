"""What the path of a row names, a URL or a file, an image or a video, is the same for all table tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.captioning.clips.media import file_name
from pipeline.datasets import datautil, export
from pipeline.datasets.urls import stem
from tests.datasets.meta_tables import read, write

PATHS = {
    "https://h/day/a.mp4?x=/b.png#t": ("url", "video", "a"),
    "HTTP://h/c.PNG?x=1.mp4": ("url", "image", "c"),
    "https://h/my%20d%2Ejpg": ("url", "image", "my d"),
    "https://h/x%2Fe.mp4": ("url", "video", "e"),
    "s3://bucket/k?1.mp4": ("url", "video", "k?1"),
    "s3://bucket/f.webp?versionId=3.mp4": ("url", "image", "f"),
    "s3://bucket/g.mp4?versionId=3/h.png": ("url", "video", "g"),
    "gs://bucket/i.tif": ("url", "image", "i"),
    "/none/j.png?x=.mp4": ("file", "video", "j.png?x="),
    "./http:/k.bmp": ("file", "image", "k"),
    "l%20m.gif": ("file", "video", "l%20m"),
}
"""Where it is, its medium by the suffix, and the name of its file without the suffix."""


@pytest.mark.parametrize("path", PATHS)
def test_all_callers_agree_on_what_a_path_names(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, medium, name = PATHS[path]
    monkeypatch.chdir(tmp_path)
    Path("http:").mkdir()
    Image.new("RGB", (4, 4)).save("http:/k.bmp")
    is_file = Path(path).is_file()
    table = str(write(tmp_path / "in.csv", ["path", "text"], [[path, "a caption"], ["anchor.mp4", "other"]]))

    def rows(*operation: str) -> list[dict[str, str]]:
        output = tmp_path / "out.csv"
        assert datautil.main([table, *operation, "--output", str(output)]) == 0
        return [row for row in read(output) if "anchor.mp4" not in row["path"]]

    assert rows("--path-to-id")[0]["id"] == stem(path) == name
    assert bool(rows("--img-only")) == (medium == "image")
    assert bool(rows("--vid-only")) == (medium == "video")
    assert bool(rows("--ext")) == (where == "url" or is_file)
    assert bool(rows("--filesize")[0]["filesize"]) == is_file
    assert (rows("--abspath", "/r")[0]["path"] == path) == (where == "url" or path.startswith("/"))
    assert (rows("--relpath", "/none")[0]["path"] == path) == (where == "url")
    for operation in ("--info", "--video-info"):
        assert bool(rows(operation)[0]["width"]) == (is_file and operation == "--info")

    assert export.main([table, "--to", "txt", "--output", "texts"]) == 0
    assert (tmp_path / "texts" / f"{name}.txt").read_text() == "a caption"
    assert export.main([table, "--to", "txt", "--overwrite"]) == 0
    failures = Path("in_export_failures.csv")
    assert ("it is a URL" in failures.read_text() if failures.exists() else False) == (where == "url")
    assert export.main([table, "--to", "sharegpt", "--output", "o.json"]) == 0
    assert medium in json.loads(Path("o.json").read_text())[0]
    assert export.main([table, "--to", "webdataset", "--output", "shards"]) == (0 if is_file else 1)
    failed = read(tmp_path / "shards_export_failures.csv")
    assert any("it is a URL" in row["message"] for row in failed) == (where == "url")


def test_a_path_without_a_file_has_no_name() -> None:
    assert [file_name(path) for path in ("https://host", "https://[x/a.mp4", "s3://b/k?versionId=1")] == ["", "", "b/k"]
