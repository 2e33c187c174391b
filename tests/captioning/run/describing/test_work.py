"""Calls one after another about the same videos: what is kept, what is made again, and what the files say."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import EXIT_DONE, EXIT_FAILED, UsageError
from pipeline.captioning.run.describing import live
from tests.captioning.run.describing.fake_work import (
    TextSource,
    captions_by,
    describe,
    without_times,
    work,
    write_table,
    written,
)
from tests.fakes import render_clip


def _name(clip: Clip) -> str:
    assert clip.range is not None
    return f"{Path(clip.path).stem} at {clip.range.start // 1000}"


def _source(on_batch: Callable[[Sequence[Clip]], None] = lambda batch: None) -> TextSource:
    return TextSource(caption=captions_by(_name), on_batch=on_batch)


def _once(folder: Path, names: Sequence[Path | str], source: TextSource, **options: Any) -> list[object]:
    return describe(lambda: work(folder, names, source, **options))


def _state(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    """What replaces a file: its inode and its times and content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "meta.csv"]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_describes_videos_and_a_second_call_does_nothing(tmp_path: Path, videos: list[Path]) -> None:
    source = _source()
    formats = ("json", "vtt", "jsonl")
    assert _once(tmp_path, videos, source, to=formats) == [EXIT_DONE]
    described = written(tmp_path / "out" / "a.json")
    assert [(batch["start"], batch["end"], batch["description"]) for batch in described["batches"]] == [
        (0, 1, "a at 0"),
        (1, 2, "a at 1"),
        (2, 3, "a at 2"),
    ]
    assert all(batch["frames"] == 2 and batch["time"] >= 0 for batch in described["batches"])
    assert described["summary"].startswith("summary: ") and described["summary"].count(" / ") == 2
    assert (described["video_title"], described["status"]) == ("title of 3", "complete")
    assert described["frames_analysed"] == 6 and described["turnaround_time"] >= described["batches"][0]["time"]
    assert not list(tmp_path.rglob("*.journal"))

    before = _state(tmp_path)
    again = _source()
    assert _once(tmp_path, videos, again, to=formats) == [EXIT_DONE]
    assert again.loads == 0
    assert _state(tmp_path) == before


def test_a_failed_segment_is_captioned_by_the_next_call(
    tmp_path: Path, videos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Sequence[Clip]) -> None:
        if any(_name(clip) == "a at 1" for clip in batch):
            raise RuntimeError("no luck")

    for _ in range(2):  # a call that can't caption anything more is no failure: there are captions
        assert _once(tmp_path, videos[:2], _source(fail)) == [EXIT_DONE]
        first = written(tmp_path / "out" / "a.json")
        assert (first["status"], first["missing_segments"]) == ("incomplete", [1])
        assert [batch["outcome"] for batch in first["batches"]] == ["captioned", "failed", "captioned"]
        assert "no luck" in first["batches"][1]["message"]
        assert first["video_title"] == "title of 2"
    assert "1 videos are incomplete; for example" in caplog.text and "no luck" in caplog.messages[-1]
    other = written(tmp_path / "out" / "b.json")

    assert _once(tmp_path, videos[:2], _source()) == [EXIT_DONE]
    now = written(tmp_path / "out" / "a.json")
    assert (now["status"], now["missing_segments"], now["video_title"]) == ("complete", [], "title of 3")
    assert now["batches"][0] == first["batches"][0]
    assert written(tmp_path / "out" / "b.json") == other


def test_broken_videos_among_good_ones(tmp_path: Path, videos: list[Path]) -> None:
    (tmp_path / "empty.mp4").touch()
    names: list[Path | str] = [tmp_path / "empty.mp4", videos[2], "nowhere.mp4", "https://example.org/a.mp4"]
    assert _once(tmp_path, names, _source()) == [EXIT_DONE]
    assert written(tmp_path / "out" / "c.json")["status"] == "complete"
    for name, message in (("empty", "empty"), ("nowhere", "no such file"), ("a", "URL")):
        broken = written(tmp_path / "out" / f"{name}.json")
        assert (broken["status"], broken["batches"], broken["summary"]) == ("incomplete", [], "")
        assert message in broken["messages"][0]
    before = _state(tmp_path / "out")
    assert _once(tmp_path, names, _source()) == [EXIT_DONE]
    assert _state(tmp_path / "out") == before


def test_only_broken_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = _source()
    assert _once(tmp_path, ["nowhere.mp4"], source, output="r.json") == [EXIT_FAILED]
    assert "no such file" in written(tmp_path / "r.json")["messages"][0]
    assert "nowhere.mp4: no such file" in [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR][-1]
    assert source.loads == 0


def test_a_video_whose_segments_all_fail(tmp_path: Path, videos: list[Path]) -> None:
    def fail(batch: Sequence[Clip]) -> None:
        raise RuntimeError("no luck")

    assert _once(tmp_path, videos[2:], _source(fail), output="r.json") == [EXIT_FAILED]
    described = written(tmp_path / "r.json")
    assert (described["status"], described["missing_segments"]) == ("incomplete", [0])
    assert "no luck" in described["batches"][0]["message"]
    assert _once(tmp_path, [*videos[2:]], _source(), output="r.json") == [EXIT_DONE]
    assert written(tmp_path / "r.json")["status"] == "complete"


def test_other_settings_and_restart(tmp_path: Path, videos: list[Path]) -> None:
    _once(tmp_path, videos[2:], _source())
    (error,) = _once(tmp_path, videos[2:], _source(), seconds=2)
    assert isinstance(error, UsageError)
    assert "segments: parts of 1000 ms in the earlier call, parts of 2000 ms now" in str(error)
    other = TextSource(caption=captions_by(lambda clip: "new"), settings={"prompt": "b"})
    (error,) = _once(tmp_path, videos[2:], other)
    assert "captions: prompt: a in the earlier call, b now" in str(error) and other.loads == 0
    assert _once(tmp_path, videos[2:], other, restart=True) == [EXIT_DONE]
    assert written(tmp_path / "out" / "c.json")["batches"][0]["description"] == "new"
    assert (tmp_path / "out" / "tables.bak" / "segments_caption.csv").exists()


def test_added_videos_with_the_same_name(tmp_path: Path, videos: list[Path]) -> None:
    """A table gets another video before the first one, with the same name: its files are `a_2`, the first stay."""
    (tmp_path / "other").mkdir()
    same_name = render_clip(tmp_path / "other" / "a.mp4", 3, 8)
    table = write_table(tmp_path / "t.csv", [[videos[0]]])
    assert _once(tmp_path, [table], _source()) == [EXIT_DONE]
    first = written(tmp_path / "out" / "a.json")
    write_table(table, [[same_name], [videos[0]], [videos[2]], [videos[0]]])
    source = _source()
    assert _once(tmp_path, [table], source) == [EXIT_DONE]
    assert len(source.rows_captioned) == 2
    stems = [f"{name}.json" for name in ("a", "a_2", "c")]
    described = [written(tmp_path / "out" / name) for name in stems]
    assert [one["video"] for one in described] == [str(videos[0]), str(same_name), str(videos[2])]
    assert [len(one["batches"]) for one in described] == [3, 1, 1]
    texts = [[batch["description"] for batch in one["batches"]] for one in (described[0], first)]
    assert texts[0] == texts[1] and described[0]["summary"] == first["summary"]
    assert {one["status"] for one in described} == {"complete"}


def test_a_table_of_parts(tmp_path: Path, videos: list[Path]) -> None:
    rows = [[videos[0], 2, 3], [videos[0], 0.5, 1.75], [videos[2], "", ""]]
    table = write_table(tmp_path / "t.csv", rows, ("path", "start", "end"))
    assert _once(tmp_path, [table], _source()) == [EXIT_DONE]
    times = [(batch["start"], batch["end"]) for batch in written(tmp_path / "out" / "a.json")["batches"]]
    assert times == [(0.5, 1.5), (1.5, 1.75), (2, 3)]
    assert len(written(tmp_path / "out" / "c.json")["batches"]) == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_interrupted_while_captioning(tmp_path: Path, videos: list[Path], ranks: int) -> None:
    """The file keeps what is there; the same call continues, and other videos have to wait for it."""
    _once(tmp_path, videos[:2], _source(), output="undisturbed")
    seen: list[Clip] = []

    def interrupt(batch: Sequence[Clip]) -> None:
        seen.extend(batch)
        if len(seen) > 2:
            raise KeyboardInterrupt

    results = describe(lambda: work(tmp_path, videos[:2], _source(interrupt)), ranks)
    assert any(isinstance(result, KeyboardInterrupt) for result in results)
    batches = [batch for name in "ab" for batch in written(tmp_path / "out" / f"{name}.json")["batches"]]
    captioned = [batch["description"] for batch in batches if batch["outcome"] == "captioned"]
    assert captioned and len(captioned) + sum(batch["outcome"] == "pending" for batch in batches) == 5

    before = _state(tmp_path / "out")
    (error,) = _once(tmp_path, videos[1::-1], _source())
    assert "in another order" in str(error) and isinstance(error, UsageError)
    assert _state(tmp_path / "out") == before
    source = _source()
    assert _once(tmp_path, videos, source) == [EXIT_DONE]
    assert len(source.rows_captioned) == 5 - len(captioned)
    for name in "ab":
        found, wanted = (written(tmp_path / folder / f"{name}.json") for folder in ("out", "undisturbed"))
        assert without_times(found) == without_times(wanted)
    assert "run the same command again" in written(tmp_path / "out" / "c.json")["messages"][0]
    assert _once(tmp_path, videos, _source()) == [EXIT_DONE]
    assert written(tmp_path / "out" / "c.json")["status"] == "complete"


def test_interrupted_while_summarising_then_other_captions(tmp_path: Path, videos: list[Path]) -> None:
    """An interrupted summary of captions that have changed since is made again, without a word about journals."""

    def fail(batch: Sequence[Clip]) -> None:
        if any(_name(clip) == "a at 1" for clip in batch):
            raise RuntimeError("no luck")

    def interrupt(rows: Sequence[int]) -> None:
        if 1 in rows:
            raise KeyboardInterrupt

    source = _source(fail)
    source.on_texts = interrupt
    (error,) = _once(tmp_path, videos[:2], source)
    assert isinstance(error, KeyboardInterrupt)
    assert list(tmp_path.rglob("*summary.csv.journal"))
    assert written(tmp_path / "out" / "b.json")["status"] == "running"
    assert _once(tmp_path, videos, _source()) == [EXIT_DONE]
    titles = [written(tmp_path / "out" / f"{name}.json")["video_title"] for name in "abc"]
    assert titles == ["title of 3", "title of 2", "title of 1"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_finished_summaries_outlive_a_change_of_other_captions(tmp_path: Path, videos: list[Path], ranks: int) -> None:
    """A run is interrupted after two of three summaries; then a segment of one of these is captioned after all."""

    def fail(batch: Sequence[Clip]) -> None:
        if any(_name(clip) == "a at 1" for clip in batch):
            raise RuntimeError("no luck")

    def interrupt(rows: Sequence[int]) -> None:
        if 2 in rows:
            raise KeyboardInterrupt

    first, asked = _source(fail), list[int]()
    first.on_texts = interrupt
    (error,) = _once(tmp_path, videos, first)
    assert isinstance(error, KeyboardInterrupt)
    source = _source()
    source.on_texts = asked.extend
    assert describe(lambda: work(tmp_path, videos, source), ranks) == [EXIT_DONE] * ranks
    assert set(asked) == {0, 2}  # the summary of b is paid for
    titles = [written(tmp_path / "out" / f"{name}.json")["video_title"] for name in "abc"]
    assert titles == ["title of 3", "title of 2", "title of 1"]
    assert not list(tmp_path.rglob("*.journal"))


def test_a_segment_that_fails_again_does_not_discard_summaries(tmp_path: Path, videos: list[Path]) -> None:
    def fail(batch: Sequence[Clip]) -> None:
        if any(_name(clip) == "a at 1" for clip in batch):
            raise RuntimeError("no luck")

    def interrupt(rows: Sequence[int]) -> None:
        if 1 in rows:
            raise KeyboardInterrupt

    source, asked = _source(fail), list[int]()
    source.on_texts = interrupt
    _once(tmp_path, videos[:2], source)
    source.on_texts = asked.extend
    assert _once(tmp_path, videos[:2], source) == [EXIT_DONE]
    assert set(asked) == {1}


def test_other_videos_whose_segments_all_fail(tmp_path: Path, videos: list[Path]) -> None:
    """The captioned table of an earlier call has a video that is no input now, and the run of captions writes none."""

    def fail(batch: Sequence[Clip]) -> None:
        if any(_name(clip).startswith("c") for clip in batch):
            raise RuntimeError("no luck")

    assert _once(tmp_path, [videos[1], videos[0]], _source()) == [EXIT_DONE]
    earlier = written(tmp_path / "out" / "a.json")
    assert _once(tmp_path, [videos[0], videos[2]], _source(fail)) == [EXIT_DONE]
    assert written(tmp_path / "out" / "a.json") == earlier
    failed = written(tmp_path / "out" / "c.json")
    assert (failed["status"], failed["missing_segments"]) == ("incomplete", [0])
    assert _once(tmp_path, [videos[0], videos[2]], _source()) == [EXIT_DONE]
    assert written(tmp_path / "out" / "c.json")["status"] == "complete"


def test_files_are_replaced_while_segments_end(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is replaced, not changed, and always holds a whole description."""
    monkeypatch.setattr(live, "LiveDescriptions", functools.partial(live.LiveDescriptions, seconds=0.01))
    from pipeline.captioning.run.describing import work as describing_work

    monkeypatch.setattr(describing_work, "LiveDescriptions", live.LiveDescriptions)
    path = tmp_path / "r.json"
    counts: list[int] = []
    seen = threading.Event()

    def wait(batch: Sequence[Clip]) -> None:
        """Wait until the file says what has been captioned before."""
        seen.wait(0.2)
        described = written(path)
        counts.append(sum(batch["outcome"] == "captioned" for batch in described["batches"]))

    assert _once(tmp_path, videos[:1], _source(wait), output="r.json") == [EXIT_DONE]
    assert counts[0] == 0 and counts[-1] >= 1 and counts == sorted(counts)
    inode = os.stat(path).st_ino
    assert _once(tmp_path, videos[:1], _source()) == [EXIT_DONE]
    assert os.stat(path).st_ino == inode


def test_a_file_that_can_not_be_written(tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The captions are safe, and the next call writes the description."""
    from pipeline.captioning.meta.files import atomic_write
    from pipeline.captioning.process.errors import RunError
    from pipeline.captioning.run.describing import descriptions

    calls: list[Path] = []

    def full(path: Path, *arguments: Any) -> Any:
        calls.append(path)
        if len(calls) > 1:
            raise RunError(f"can't write {path}: No space left on device")
        return atomic_write(path, *arguments)

    monkeypatch.setattr(descriptions, "atomic_write", full)
    (error,) = _once(tmp_path, videos[:1], _source(), output="r.json")
    assert "No space left" in str(error)
    assert written(tmp_path / "r.json")["status"] == "running"
    monkeypatch.undo()
    source = _source()
    assert _once(tmp_path, videos[:1], source, output="r.json") == [EXIT_DONE]
    assert written(tmp_path / "r.json")["status"] == "complete" and source.loads == 0


def test_two_ranks_describe_what_one_describes(tmp_path: Path, videos: list[Path]) -> None:
    _once(tmp_path, videos, _source(), output="one")
    for _ in range(2):
        assert describe(lambda: work(tmp_path, videos, _source(), output="two"), ranks=2) == [EXIT_DONE, EXIT_DONE]
    for name in "abc":
        one, two = (written(tmp_path / folder / f"{name}.json") for folder in ("one", "two"))
        assert without_times(one) == without_times(two)
