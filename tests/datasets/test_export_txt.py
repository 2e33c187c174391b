"""Export to text files: odd paths, and no file is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.datasets import export
from pipeline.datasets.exports import sidecars
from tests.datasets.meta_tables import KINDS, write

HEADER = ["path", "text", "text_long"]


def _export(folder: Path, rows: list[list[str]], *arguments: str, kind: str = "csv") -> int:
    table = write(folder / f"meta.{kind}", HEADER[: len(rows[0])], rows)
    return export.main([str(table), "--to", "txt", *arguments])


def _texts(folder: Path) -> dict[str, str]:
    """The text of each file, by its path in `folder`. There must be no other files, hidden ones included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().decode() for path in files}


ODD_NAMES = {
    "a.mp4": "a.txt",
    "ü 猫 é.mp4": "ü 猫 é.txt",
    "e\u0301.mov": "e\u0301.txt",
    "two\nlines.mp4": "two\nlines.txt",
    "no_suffix": "no_suffix.txt",
    "c.d.webm": "c.d.txt",
    ".mp4": ".mp4.txt",
    'quote"and,comma\\.mp4': 'quote"and,comma\\.txt',
    "100%.mp4": "100%.txt",
    "my%20clip.mp4": "my%20clip.txt",
    "x" * 251 + ".mp4": "x" * 251 + ".txt",
    " space .mp4": " space .txt",
    "sub/../b.mp4": "b.txt",
    "http:/local.mp4": "http:/local.txt",
    "a?x=1.mp4": "a?x=1.txt",
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_paths_beside_the_clips(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    (clips / "sub").mkdir(parents=True)
    (clips / "http:").mkdir()
    rows = [[f"{clips}/{name}", f"caption {i}\nü"] for i, name in enumerate(ODD_NAMES)]
    rows += [[f"{clips}/empty.mp4", " "], [f"{clips}/none.mp4", ""]]
    assert _export(tmp_path, rows, kind=kind) == 0
    assert _texts(clips) == {name: f"caption {i}\nü" for i, name in enumerate(ODD_NAMES.values())}
    assert capsys.readouterr().out == f"wrote {len(ODD_NAMES)} files beside the clips; 2 rows without a caption\n"
    assert [path.name for path in tmp_path.iterdir() if "failures" in path.name] == []


def test_relative_paths_and_several_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [["a.mp4", "short", "long"], ["b.mp4", "", "only long"], ["c.mp4", "", ""]]
    assert _export(tmp_path, rows, "--column", "text", "--column", "text_long") == 0
    assert _export(tmp_path, rows, "--column", "text", "--column", "text_long", "--output", ".") == 0, "as beside"
    Path("meta.csv").unlink()
    assert _texts(tmp_path) == {"a.text.txt": "short", "a.text_long.txt": "long", "b.text_long.txt": "only long"}
    assert _export(tmp_path, rows, "--column", "text_long", "--keep_suffix", "--output", "new") == 0
    assert _texts(tmp_path / "new") == {"a.mp4.txt": "long", "b.mp4.txt": "only long"}


def test_urls_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ["https://host/day/a.mp4?x=1&y=/z.mp4#t", "a"],
        ["s3://bucket/day/k?1.mp4", "k"],
        ["https://host/day/my%20clip.mp4", "%"],
        ["s3://bucket/day/v.mp4?versionId=abc", "v"],
        ["https://host/", "no file"],
        ["https://host/%00.mp4", "no file"],
        [str(tmp_path / "local.mp4"), "local"],
    ]
    assert _export(tmp_path, rows, "--output", str(tmp_path / "flat")) == 0
    assert _texts(tmp_path / "flat") == {
        "a.txt": "a", "k?1.txt": "k", "my clip.txt": "%", "v.txt": "v", "local.txt": "local"
    }  # fmt: skip
    assert "see " + str(tmp_path / "meta_export_failures.csv") in capsys.readouterr().out
    assert "the path does not name a file" in (tmp_path / "meta_export_failures.csv").read_text()
    assert _export(tmp_path, rows, "--output", str(tmp_path / "tree"), "--root", "https://host/") == 0
    assert _texts(tmp_path / "tree") == {"day/a.txt": "a", "day/my clip.txt": "%"}
    failures = (tmp_path / "meta_export_failures.csv").read_text()
    assert '"1","s3://bucket/day/k?1.mp4","it is not below --root https://host/"' in failures
    assert _export(tmp_path, rows, "--output", str(tmp_path / "s3"), "--root", "s3://bucket/day/") == 0
    assert _texts(tmp_path / "s3") == {"k?1.txt": "k", "v.txt": "v"}
    assert _export(tmp_path, rows) == 0
    assert (tmp_path / "local.txt").read_text() == "local"
    assert failures.count("\n") == 6
    assert "it is a URL, so there is no folder beside it; give --output" in capsys.readouterr().err


def test_nothing_is_written_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [["d/../../x.mp4", "1"], ["/etc/y.mp4", "2"], ["d/..", "3"], ["", "4"], ["d/e/../z.mp4", "5"], ["d/", "6"]]
    rows += [["https://h/../../u.mp4", "7"], ["https://h/%2e%2e%2f%2e%2e%2ft.mp4", "7"]]
    assert _export(tmp_path, rows, "--output", "out", "--root", "d") == 0
    assert _texts(tmp_path / "out") == {"z.txt": "5"}
    assert _export(tmp_path, [*rows, ["https://h/v/../../w.mp4", "8"]], "--output", "web", "--root", "https://h") == 1
    assert not (tmp_path / "web").exists()
    assert _export(tmp_path, [["https://h/%2e%2e%2fs.mp4", "9"]], "--output", "flat") == 0
    assert _texts(tmp_path / "flat") == {"s.txt": "9"}


@pytest.mark.parametrize(
    ("paths", "arguments", "file"),
    [
        (["x/a.mp4", "x/a.webm"], [], "x/a.txt"),
        (["x/a.mp4", "x/../x/a.mp4"], ["--keep_suffix"], "a.mp4.txt"),
        (["x/a.mp4", "link/a.mp4"], [], "a.txt"),
        (["x/a.mp4", "x/a.mp4"], ["--keep_suffix"], "x/a.mp4.txt"),
        (["x/a.mp4", "y/a.mp4"], ["--output", "out"], "out/a.txt"),
        (["https://h/a.mp4?x=1", "https://h/a.mp4?x=2"], ["--output", "out"], "out/a.txt"),
    ],
)
def test_two_captions_for_one_file_are_refused(
    tmp_path: Path,
    paths: list[str],
    arguments: list[str],
    file: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    rows = [["x/first.mp4", "0"], *([path, f"caption {i}"] for i, path in enumerate(paths))]
    assert _export(tmp_path, rows, "--overwrite", *arguments) == 2
    error = capsys.readouterr().err
    assert file in error and f"rows 1 ({paths[0]!r}), 2 ({paths[1]!r})" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*.txt")] == []
    same = [[path, "same"] for path in paths]
    assert _export(tmp_path, same, *arguments) == 0
    assert "wrote 1 files" in capsys.readouterr().out
    assert len(list((tmp_path / ("out" if arguments[:1] == ["--output"] else "x")).rglob("*.txt"))) == 1


def test_keep_suffix_and_root_keep_files_apart(tmp_path: Path) -> None:
    rows = [[f"{tmp_path}/{name}", name] for name in ("a.mp4", "a.jpg", "x/a.mp4")]
    assert _export(tmp_path, rows, "--keep_suffix", "--output", f"{tmp_path}/out", "--root", str(tmp_path)) == 0
    assert _texts(tmp_path / "out") == {"a.mp4.txt": "a.mp4", "a.jpg.txt": "a.jpg", "x/a.mp4.txt": "x/a.mp4"}


def test_existing_files_are_kept_unless_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    rows = [[f"{clips}/{name}.mp4", name] for name in "abc"]
    (clips / "b.txt").write_text("by hand")
    assert _export(tmp_path, rows) == 2
    assert "1 files exist already with another content" in capsys.readouterr().err
    assert _texts(clips) == {"b.txt": "by hand"}
    assert _export(tmp_path, rows, "--overwrite") == 0
    assert _texts(clips) == {"a.txt": "a", "b.txt": "b", "c.txt": "c"}
    before = (clips / "a.txt").stat()
    assert _export(tmp_path, rows) == 0, "files with the same content are no obstacle"
    assert (clips / "a.txt").stat() == before
    rows[2][0] = str(clips / "c.txt")
    assert _export(tmp_path, rows, "--overwrite") == 0
    assert "would replace the clip itself" in capsys.readouterr().err


def test_an_interrupted_export_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    rows = [[f"{clips}/{i}.mp4", f"caption {i}"] for i in range(6)]
    replace, written = os.replace, 0

    def interrupted(*names: str) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(sidecars.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path, rows)
    assert _texts(clips) == {f"{i}.txt": f"caption {i}" for i in range(3)}
    monkeypatch.setattr(sidecars.os, "replace", replace)
    assert _export(tmp_path, rows) == 0
    assert _texts(clips) == {f"{i}.txt": f"caption {i}" for i in range(6)}


def test_a_file_that_cannot_be_written_costs_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 250
    rows = [[f"{tmp_path}/none/a.mp4", "a"], [f"{tmp_path}/{long}", "b"], [f"{tmp_path}/c.mp4", "c"]]
    assert _export(tmp_path, rows, "--keep_suffix") == 0
    output = capsys.readouterr()
    assert "wrote 2 files" in output.out and "1 rows failed" in output.out
    assert "none/a.mp4.txt: No such file or directory" in output.err
    too_long = [[f"{tmp_path}/{'ü' * 125}.mp4", "a", "b"], [f"{tmp_path}/c2.mp4", "c", "d"]]
    assert _export(tmp_path, too_long, "--column", "text", "--column", "text_long") == 0
    assert "File name too long" in (tmp_path / "meta_export_failures.csv").read_text()
    assert (tmp_path / "c2.text_long.txt").read_text() == "d"


def test_a_planted_temporary_file_is_not_followed(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (tmp_path / "other").write_text("of someone else")
    planted = clips / f".export-{os.getpid()}.tmp"
    planted.symlink_to(tmp_path / "other")
    assert _export(tmp_path, [[f"{clips}/a.mp4", "caption"]]) == 0
    assert (tmp_path / "other").read_text() == "of someone else"
    assert (clips / "a.txt").read_text() == "caption" and not (clips / "a.txt").is_symlink()
    assert planted.is_symlink()


def test_the_rights_of_a_file_are_those_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert _export(tmp_path, [[f"{tmp_path}/a.mp4", "caption"]]) == 0
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_without_any_caption_the_export_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export(tmp_path, [["a.mp4", ""], ["b.mp4", " "]]) == 1
    assert "2 rows have no caption in 'text'" in capsys.readouterr().err
