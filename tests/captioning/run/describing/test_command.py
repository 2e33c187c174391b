"""The command and its use from Python with the checkpoint of this repository."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.captioning.describe import describe_videos
from pipeline.captioning.process.errors import EXIT_DONE, UsageError
from pipeline.captioning.process.watchdog import Watchdog
from pipeline.captioning.run.describing.command import make_parser, start
from pipeline.captioning.workers.launch import Launch
from tests.captioning.long_videos.parsed import subtitles
from tests.captioning.run.describing.fake_work import write_table, written
from tests.fakes import render_clip
from tests.joined_video import joined_video

TINY = Path(__file__).parents[4] / "pretrained_models" / "pllava-tiny"
MODEL = ["--pretrained_model_name_or_path", str(TINY), "--framework", "torch"]
DEMO_KEYS = ["video_title", "batch_size", "batches", "frames_analysed", "summary", "average_inference"]
DEMO_KEYS += ["turnaround_time"]


def _run(*arguments: str) -> int:
    flags = make_parser("describe.py").parse_args([*arguments, *MODEL])
    return start(flags, Launch()).run(Launch(), Watchdog())


def test_a_table_of_three_videos_one_of_them_joined(tmp_path: Path) -> None:
    """Segments at the cuts of a video of ten clips have the true captions, and the cues their times."""
    parts = joined_video(tmp_path / "joined.mp4")
    others = [[render_clip(tmp_path / f"{number}.mp4", number, 8), "", ""] for number in range(2)]
    rows = [*others, *([tmp_path / "joined.mp4", start, end] for start, end, _ in parts)]
    table = write_table(tmp_path / "table.csv", rows, ("path", "start", "end"))
    formats = "json,vtt,srt,chapters,jsonl"
    output = tmp_path / "out"
    assert _run(str(table), "--output", str(output), "--every", "60", "--to", formats, "--bs", "4") == EXIT_DONE
    assert {path.stem for path in output.iterdir()} == {"0", "1", "joined", "tables"}

    described = written(output / "joined.json")
    assert [key for key in described if key in DEMO_KEYS] == DEMO_KEYS
    batches = described["batches"]
    for number, batch in enumerate(batches):
        assert list(batch) == ["batch_id", "frames", "time", "description", "start", "end", "outcome"]
        assert (batch["batch_id"], batch["frames"], batch["outcome"]) == (number, 4, "captioned")
        assert 0 < batch["time"] <= described["turnaround_time"]
    exact = sum(batch["description"] == caption for batch, (_, _, caption) in zip(batches, parts, strict=True))
    assert exact >= 9
    assert described["frames_analysed"] == 40 and described["model"] == "pllava-tiny"
    assert described["summary"] and described["video_title"] and "torch" in described["versions"]
    assert {written(output / f"{name}.json")["status"] for name in ("0", "1", "joined")} == {"complete"}

    cues = [(round(start * 1000), round(end * 1000)) for start, end, _ in parts]
    for suffix in ("vtt", "srt"):
        found = subtitles(output / f"joined.{suffix}")
        assert [(start, end) for start, end, _ in found] == cues
        assert [text for _, _, text in found] == [batch["description"] for batch in batches]


def test_describe_videos_is_a_step_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are asked for one by one, come back as they are, and a broken one does not end the others."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    handlers = list(logging.getLogger().handlers)
    paths = [render_clip(tmp_path / "a.mp4", 1, 12), tmp_path / "nowhere.csv", render_clip(tmp_path / "b.mp4", 2, 8)]
    asked: list[Path] = []

    def source() -> Iterator[Path]:
        for path in paths:
            asked.append(path)
            yield path

    described = describe_videos(source(), TINY, framework="torch", every=1, max_new_tokens=8, use_lora=False)
    assert not asked
    path, first = next(described)
    assert path is paths[0] and asked == paths[:1]
    assert [(segment.start_ms, segment.end_ms) for segment in first.segments] == [(0, 1000), (1000, 1500)]
    assert first.status == "complete" and first.title
    path, broken = next(described)
    assert path is paths[1] and (broken.status, broken.segments) == ("incomplete", ())
    assert "no such file" in broken.messages[0]
    path, last = next(described)
    assert path is paths[2] and last.status == "complete"
    assert next(described, None) is None
    assert not list((tmp_path / "temporary").iterdir())
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evry": 3}, "--evry"),
        ({"every": "x"}, "'x' is not a number"),
        ({"every": 3, "fps": 2}, "--fps is a flag of --frames"),
        ({"restart": True}, "no option 'restart'"),
        ({"help": True}, "no option 'help'"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        describe_videos([], TINY, framework="torch", **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.mp4", "--output", "r.txt"], "is not the suffix of a format"),
        (["a.mp4", "--output", "nowhere/r.json"], "does not exist"),
        (["a.mp4", "b.mp4", "--output", "r.json"], "is one file"),
        (["a.mp4", "--output", "r.vtt", "--to", "srt"], "has the suffix of vtt"),
        (["a.mp4", "--output", "out", "--to", "json,txt"], "'txt' is not a format"),
        (["a.mp4", "--output", "file"], "is not a folder"),
        (["a.mp4", "t.csv", "--output", "out"], "must be the only input"),
        (["t.csv", "--output", "out"], "t.csv"),
        (["a.mp4", "--output", "blocked"], "can't be made"),
        (["a.mp4", "--output", "out", "--threshold", "3"], "--threshold is a flag of --scenes"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "tables").touch()
    with pytest.raises(UsageError) as error:
        _run(*arguments)
    assert message in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "blocked"}


def test_whole_files_ignores_the_parts_of_the_table(tmp_path: Path) -> None:
    """The flag is about the table of videos, not about the segments that the command makes."""
    table = write_table(tmp_path / "t.csv", [[render_clip(tmp_path / "a.mp4", 1, 16), "soon"]], ("path", "start"))
    output = str(tmp_path / "out")
    flags = ["--whole_files", "--every", "1", "--max_new_tokens", "4", "--summary_tokens", "8", "--title_tokens", "4"]
    assert _run(str(table), "--output", output, *flags) == EXIT_DONE
    batches = written(tmp_path / "out" / "a.json")["batches"]
    assert [(batch["start"], batch["end"]) for batch in batches] == [(0, 1), (1, 2)]
    lines = (tmp_path / "out" / "tables" / "segments_caption_outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line).get("start") for line in lines] == [0, 1]


def test_one_path_is_not_a_list_of_paths() -> None:
    with pytest.raises(UsageError, match="give a list of paths"):
        describe_videos("video.mp4", TINY)
