"""Bad paths, files and tables: each bad clip fails only its own row, with a clear message."""

from __future__ import annotations

import csv
import os
import socket
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.run import job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from scripts.thread_ranks import run_ranks
from tests.fakes import CPU, FakeSource, render_clip


def _bytes_of(folder: Path) -> bytes:
    return render_clip(folder / "whole.mp4", 3, frames=24).read_bytes()


def _write(name: str, make: Callable[[Path], bytes]) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        (folder / name).write_bytes(make(folder))
        return str(folder / name)

    return build


def _special(name: str, make: Callable[[Path], object]) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        make(folder / name)
        return str(folder / name)

    return build


def _socket(path: Path) -> None:
    # The address is limited to 108 bytes, so the name is relative to the folder.
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def _touch(path: Path) -> Path:
    path.touch()
    return path


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def _black_hours(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24").reformat(format="yuv420p")
        for second in range(3 * 3600):
            frame.pts = second
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "empty path": (lambda folder: "", "the path is empty"),
    "blanks": (lambda folder: "   ", "the path is empty"),
    "missing": (lambda folder: str(folder / "nowhere.mp4"), "no such file"),
    "relative and missing": (lambda folder: "nowhere.mp4", f"relative to {os.getcwd()}"),
    "folder": (_special("folder.mp4", lambda path: path.mkdir()), "not a regular file"),
    "FIFO": (_special("fifo.mp4", os.mkfifo), "not a regular file"),
    "socket": (_special("socket.mp4", _socket), "not a regular file"),
    "device": (lambda folder: "/dev/zero", "not a regular file"),
    "dangling link": (_special("dangling.mp4", lambda path: path.symlink_to("gone.mp4")), "no such file"),
    "link to itself": (_special("loop.mp4", lambda path: path.symlink_to(path.name)), "symbolic links"),
    "too long name": (lambda folder: str(folder / ("x" * 5000)), "File name too long"),
    "address": (lambda folder: "ftp://example.org/clip.mp4", "ftp:// is not supported"),
    "path with a newline": (lambda folder: str(folder / "a\nb.mp4"), "no such file"),
    "path through a file": (lambda folder: str(_touch(folder / "file") / "a.mp4"), "Not a directory"),
    "zero bytes": (_write("zero.mp4", lambda folder: b""), "0 bytes"),
    "text": (_write("text.mp4", lambda folder: b"this is no video\n" * 50), "PyAV"),
    "zeros": (_write("zeros.mp4", lambda folder: bytes(100_000)), "PyAV"),
    "cut off before its index": (_write("cut.mp4", lambda folder: _bytes_of(folder)[:2000]), "PyAV"),
    "start only": (_write("head.mp4", lambda folder: _bytes_of(folder)[:48]), "PyAV"),
    "audio only": (_special("audio.mp4", _audio), "no video stream"),
    "no frames": (_special("none.mp4", _no_frames), "PyAV"),
    "no image": (_write("image.png", lambda folder: b"\x89PNG\r\n\x1a\n" + bytes(50)), "PIL"),
    "table as clip": (_write("table.csv", lambda folder: b"path,text\na,b\n"), "PyAV"),
}

GOOD: dict[str, Callable[[Path], str]] = {
    "one frame": lambda folder: str(render_clip(folder / "one.mp4", 1, frames=1)),
    "newline in a name": lambda folder: str(render_clip(folder / "new\nline.mp4", 2)),
    "quotes and commas": lambda folder: str(render_clip(folder / 'a "b", c.mp4', 3)),
    "wrong suffix": _write("clip.txt", _bytes_of),
    "no suffix": _write("clip", _bytes_of),
    "long and thin": lambda folder: str(render_clip(folder / "thin.mp4", 4, size=(2048, 64))),
    "three hours of black": _special("black.mp4", _black_hours),
    "still image": _special("image.jpg", lambda path: Image.new("RGB", (64, 48), "red").save(path)),
}


def test_each_bad_clip_fails_only_its_own_row(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    names = [*GOOD, *BAD, "one frame"]  # one row occurs twice
    built = {name: (GOOD[name] if name in GOOD else BAD[name][0])(folder) for name in dict.fromkeys(names)}
    with (tmp_path / "meta.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "name"])
        writer.writerows([built[name], name] for name in names)
    options = JobOptions(
        meta_path=tmp_path / "meta.csv", output=tmp_path / "out.csv", batch_size=4, pad_length=4096,
        skip_if_existing=False, restart=False, limit=None, decode_timeout=30, decode_workers=2,
        max_failure_rate=1, stall_timeout=1800, framework=None, device=None, dtype=None,
    )  # fmt: skip
    assert run_ranks(1, lambda world: job.run_in_world(options, ModelWork(FakeSource(), lambda: CPU), world)) == [0]
    with options.output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["name"]) for row in rows] == [(built[name], name) for name in names]
    assert {row["name"] for row in rows if row["text"]} == set(GOOD)
    with (tmp_path / "out_failures.csv").open(newline="") as file:
        failures = {names[int(row["row"])]: row["message"] for row in csv.DictReader(file)}
    assert failures.keys() == BAD.keys()
    unclear = {name: message for name, message in failures.items() if BAD[name][1] not in message or not message}
    assert not unclear


@pytest.mark.parametrize(
    ("data", "paths"),
    [
        ("\ufeffpath,note\na.mp4,1\n".encode(), ["a.mp4"]),  # byte order mark
        (b"path,note\r\na.mp4,1\r\nb.mp4,2\r\n", ["a.mp4", "b.mp4"]),
        (b'path,note\n"a, ""b"".mp4","two\nlines"\n', ['a, "b".mp4']),
        (b"path,note\na.mp4," + b"x" * 50_000_000 + b"\nb.mp4,2\n", ["a.mp4", "b.mp4"]),
        ("path,note\nü ü.mp4,日本\n".encode(), ["ü ü.mp4"]),
        (b"note,path\n1,a.mp4", ["a.mp4"]),  # no newline at the end
    ],
    ids=["bom", "crlf", "quotes", "50 MB row", "unicode", "no last newline"],
)
def test_unusual_tables_are_read_and_written_unchanged(tmp_path: Path, data: bytes, paths: list[str]) -> None:
    from pipeline.captioning.meta.table import MetaTable

    (tmp_path / "meta.csv").write_bytes(data)
    table = MetaTable.read(tmp_path / "meta.csv")
    assert table.paths == paths
    table.write(tmp_path / "out.csv", {"text": ["a caption", *[""] * (len(paths) - 1)]})
    again = MetaTable.read(tmp_path / "out.csv")
    assert again.paths == paths and again.texts() == ["a caption", *[""] * (len(paths) - 1)]
    assert table.is_same_but_for(["text"], again)


def test_a_row_with_too_many_cells_is_refused_with_its_line(tmp_path: Path) -> None:
    from pipeline.captioning.meta.table import MetaTable
    from pipeline.captioning.process.errors import UsageError

    (tmp_path / "meta.csv").write_bytes(b"path,note\na.mp4,1\nb.mp4,2,3\n")
    with pytest.raises(UsageError, match="line 3"):
        MetaTable.read(tmp_path / "meta.csv")
