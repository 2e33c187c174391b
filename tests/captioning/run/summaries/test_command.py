"""`summarize.py`: its usage errors, before a framework is imported, and a run of the command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.captioning import summarize
from tests import tiny_families
from tests.captioning.run import forked
from tests.runs import read_rows


@pytest.fixture(scope="module")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    with forked.serve(Path(summarize.__file__), "pipeline.captioning.captioners.hub.build") as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of segments, and tiny checkpoints."""
    folder = tmp_path_factory.mktemp("summarize")
    for name in ("qwen2_5_vl", "blip2_opt"):
        tiny_families.FAMILIES[name](folder)
    (folder / "s.csv").write_text("path,start,end,text\na.mp4,4,8,He eats it.\na.mp4,0,4,A man.\nb.mp4,0,4,\n")
    (folder / "bad.csv").write_text("path,start,end,text\na.mp4,one,8,He eats it.\n")
    (folder / "blank.txt").write_text(" \n")
    return folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["s.csv", "--pretrained_model_name_or_path", "blip2_opt", "--summary_tokens", "50"],
            "blip-2 cannot answer questions about text",
        ),
        (["s.csv", "--context_tokens", "300"], "a window of 300 tokens leaves 0 for the captions"),
        (["s.csv", "--context_tokens", "4096"], "--context_tokens 4096: the model was made for 2048 tokens; give at"),
        (["s.csv", "--summary_tokens", "900"], "and 1848 are needed; lower --summary_tokens, shorten the questions"),
        (["s.csv", "--summary_question", " "], "blank"),
        (["s.csv", "--part_question", "@blank.txt"], "blank"),
        (["s.csv", "--title_question", "Name {note}."], "--title_question: {note} stands for a column, but"),
        (["s.csv", "--column", "captions"], "no column 'captions' (summaries are made of its captions (--column))"),
        (["bad.csv"], "column 'start', row 0: 'one' is not a time in seconds"),
        (["none.csv"], "meta file none.csv does not exist"),
        (["s.csv", "--output", "s.csv"], "--output s.csv is the meta file itself"),
    ],
)
def test_usage_errors(
    fork_server: subprocess.Popen[str], folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    model = [] if "--pretrained_model_name_or_path" in flags else ["--pretrained_model_name_or_path", "qwen2_5_vl"]
    forked.check_usage_error(fork_server, [*flags, *model], message, folder, tmp_path)


def test_the_command_writes_the_table_of_summaries(
    fork_server: subprocess.Popen[str], folder: Path, tmp_path: Path
) -> None:
    flags = ["--pretrained_model_name_or_path", "qwen2_5_vl", "--framework", "torch", "--device", "cpu", "--bs", "auto"]
    short = ["--summary_tokens", "6", "--title_tokens", "4", "--title_question", "A {{short}} title?"]
    assert forked.run(fork_server, ["s.csv", *flags, *short], folder, tmp_path) == 0, (tmp_path / "stderr").read_text()
    first, second = read_rows(folder / "s_summary.csv")
    assert (first["path"], first["segments"], first["missing_segments"]) == ("a.mp4", "2", "")
    assert first["summary"] and first["title"]
    assert (second["path"], second["missing_segments"], second["summary"]) == ("b.mp4", "0.000-4.000", "")
    log = (tmp_path / "stderr").read_text()
    assert "row 1 (b.mp4): segments: no segment of this video has a caption" in log
    assert "prompts of at most 2048 tokens with their answers; longer texts are summarised in parts" in log
