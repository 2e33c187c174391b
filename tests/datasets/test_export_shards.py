"""Export to WebDataset, read by the library's own loader."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import export
from pipeline.datasets.exports import shards
from tests.datasets.meta_tables import KINDS, read, write

ROOT = Path(__file__).parents[2]
HEADER = ["path", "id", "text", "text_long"]


def _samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of all shards, decoded by the library."""
    import webdataset

    names = [str(path) for path in sorted(folder.glob("*.tar"))]
    return list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False).decode()) if names else []


def _clips(folder: Path, names: list[str]) -> list[list[str]]:
    """A row for each of these clips, which are written."""
    rows = []
    for number, name in enumerate(names):
        path = folder / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"clip %d" % number)
        rows.append([str(path), f"0{number}", f"caption {number} ü\n", f"long {number}"])
    return rows


def _export(folder: Path, rows: list[list[str]], *arguments: str, kind: str = "csv") -> int:
    table = write(folder / f"meta.{kind}", HEADER, rows)
    return export.main([str(table), "--to", "webdataset", "--output", str(folder / "out"), *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loader_reads_clips_captions_and_cells(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.mp4", "x/a.mp4", "ü 猫.c.WebM", "line\nend.jpg", "none", "y.json", "z.txt", "_u.odd suffix", ".mp4"]
    rows = _clips(tmp_path, names)
    suffixes = ["mp4", "mp4", "webm", "jpg", "clip", "clip", "clip", "clip", "clip"]
    rows.insert(2, [rows[0][0], "no caption", " ", "unused"])
    rows.append([rows[0][0], "again", "second caption", ""])
    assert _export(tmp_path, rows, "--shard_size", "4", kind=kind) == 0
    import webdataset

    paths = [str(tmp_path / "out" / f"{shard:06}.tar") for shard in range(3)]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    exported = [row for row in enumerate(rows) if row[0] != 2]
    assert [sample["__key__"] for sample in samples] == [f"{number:09}" for number, _ in exported]
    for sample, (_, row), suffix in zip(samples, exported, [*suffixes, "mp4"], strict=True):
        assert sample[suffix] == Path(row[0]).read_bytes()
        assert sample["txt"].decode() == row[2]
        assert json.loads(sample["json"]) == {"path": row[0], "id": row[1], "text_long": row[3]}
        assert len([name for name in sample if not name.startswith("__")]) == 3
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [(shard["url"], shard["nsamples"]) for shard in index["shardlist"]] == [
        ("000000.tar", 4), ("000001.tar", 4), ("000002.tar", 2)
    ]  # fmt: skip
    assert all((tmp_path / "out" / shard["url"]).stat().st_size == shard["filesize"] for shard in index["shardlist"])
    assert f"wrote {tmp_path / 'out'}: 10 clips in 3 shards; 1 rows without a caption\n" == capsys.readouterr().out


def test_several_columns_and_full_shards_by_bytes(tmp_path: Path) -> None:
    rows = _clips(tmp_path, [f"{i}.mp4" for i in range(5)])
    rows[1][2] = ""
    for row in rows:
        Path(row[0]).write_bytes(bytes(1000))
    arguments = ["--column", "text", "--column", "text_long", "--shard_bytes", "2000"]
    assert _export(tmp_path, rows, *arguments) == 0
    samples = _samples(tmp_path / "out")
    assert [(sample.get("text.txt"), sample["text_long.txt"]) for sample in samples] == [
        (row[2] or None, row[3]) for row in rows
    ]
    assert samples[0]["json"] == {"path": rows[0][0], "id": "00"}
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3


def test_clips_that_cannot_be_read_cost_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _clips(tmp_path, ["a.mp4", "empty.mp4", "b.mp4"])
    Path(rows[1][0]).write_bytes(b"")
    bad = ["/none/x.mp4", "https://h/a.mp4?x=1", "s3://b/k.mp4", str(tmp_path), ""]
    rows[1:1] = [[path, "", "caption", ""] for path in bad]
    assert _export(tmp_path, rows) == 0
    assert [sample["mp4"] for sample in _samples(tmp_path / "out")] == [b"clip 0", b"clip 2"]
    output = capsys.readouterr()
    assert "2 clips in 1 shards" in output.out and "6 rows failed, see" in output.out
    failures = read(tmp_path / "out_export_failures.csv")
    assert [row["path"] for row in failures] == [*bad, rows[6][0]]
    messages = ["no such file", "it is a URL", "it is a URL", "not a regular file", "the path is empty", "is empty"]
    assert all(message in row["message"] for message, row in zip(messages, failures, strict=True))


def test_an_export_of_which_all_rows_fail_keeps_the_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _clips(tmp_path, ["a.mp4", "b.mp4"])
    assert _export(tmp_path, [*rows, ["/none/old.mp4", "", "caption", ""]], "--shard_size", "1") == 0
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "index.json" in earlier and len(earlier) == 3
    for row in rows:
        Path(row[0]).write_bytes(b"")
    assert _export(tmp_path, rows, "--overwrite") == 1
    failures = tmp_path / "out_export_failures.csv"
    assert f"in 'text'; 2 rows failed, see {failures}" in capsys.readouterr().err
    assert [(row["path"], "is empty" in row["message"]) for row in read(failures)] == [(row[0], True) for row in rows]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == earlier
    assert _export(tmp_path, [[rows[0][0], "", "", ""]], "--overwrite") == 1, "no caption at all"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == earlier


def test_a_suffix_that_is_no_clip_is_not_parsed_by_the_loader(tmp_path: Path) -> None:
    import webdataset

    names = ["a.id", "b.pyd", "c.count", "d.npy", "e.cls", "f.pickle", "g.pth", "h.mp4", "i.txt", "j.ten", "k.Jpg"]
    rows = _clips(tmp_path, names)
    assert _export(tmp_path, rows) == 0
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode())
    keys = ["clip"] * 7 + ["mp4", "clip", "clip", "jpg"]
    assert [sample[key] for sample, key in zip(samples, keys, strict=True)] == [
        Path(row[0]).read_bytes() for row in rows
    ]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    rows = _clips(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    for _ in range(2):
        assert _export(tmp_path, rows, "--shard_size", "1", "--overwrite") == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    time.sleep(0.01)
    assert _export(tmp_path, rows, "--shard_size", "1", "--overwrite") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    (tmp_path / "out" / "notes.txt").write_text("not a shard")
    assert _export(tmp_path, rows, "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.tar", "index.json", "notes.txt"]


def test_an_interrupted_shard_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _clips(tmp_path, [f"{i}.mp4" for i in range(8)])
    read_clip = shards._read_clip

    def interrupted(path: str) -> bytes:
        if path == rows[5][0]:
            raise KeyboardInterrupt
        return read_clip(path)

    monkeypatch.setattr(shards, "_read_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path, rows, "--shard_size", "2")
    assert list((tmp_path / "out").iterdir()) == []
    assert _export(tmp_path, rows[:3], "--shard_size", "2") == 0
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path, rows, "--shard_size", "2", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == earlier
    monkeypatch.undo()
    assert _export(tmp_path, rows, "--shard_size", "3") == 2, "an earlier export is not overwritten"
    assert _export(tmp_path, rows, "--shard_size", "3", "--overwrite") == 0
    assert [sample["mp4"] for sample in _samples(tmp_path / "out")] == [b"clip %d" % i for i in range(8)]


def test_a_full_disk_ends_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _clips(tmp_path, [f"{i}.mp4" for i in range(4)])
    from webdataset.writer import TarWriter

    write_sample = TarWriter.write

    def full(writer: TarWriter, sample: dict[str, Any]) -> int:
        if sample["__key__"] == "000000003":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_sample(writer, sample)

    monkeypatch.setattr(TarWriter, "write", full)
    assert _export(tmp_path, rows, "--shard_size", "2") == 1
    assert "000001.tar: [Errno 28] No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_export_and_the_next_one(tmp_path: Path) -> None:
    rows = _clips(tmp_path, ["a.mp4"]) * 20_000
    table = write(tmp_path / "meta.csv", HEADER, rows)
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline.datasets.export", str(table), "--to", "webdataset"]
    command += ["--output", str(folder), "--shard_size", "100"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".export-*.tmp/000003.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (staging,) = folder.iterdir()
    assert staging.name.startswith(".export-") and len(list(staging.glob("*.tar"))) >= 4
    (folder / ".index.json.abc.tmp").write_text("half an index")
    assert _export(tmp_path, rows[:250], "--shard_size", "100") == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000000.tar", "000001.tar", "000002.tar", "index.json"]
    assert len(_samples(folder)) == 250
