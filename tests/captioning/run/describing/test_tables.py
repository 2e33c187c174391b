"""The tables of a folder over several calls: what is divided again, what is kept, and what the descriptions say."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import EXIT_DONE, UsageError
from pipeline.captioning.run.describing import dividing
from pipeline.captioning.run.describing.tables import Segments, make_segments
from tests.captioning.run.describing.fake_work import (
    TextSource,
    captions_by,
    describe,
    work,
    write_table,
    written,
)
from tests.fakes import render_clip

PARTS = ("path", "start", "end")


def _name(clip: Clip) -> str:
    assert clip.range is not None
    return f"{Path(clip.path).stem} at {clip.range.start // 1000}"


def _source(on_batch: Callable[[Sequence[Clip]], None] = lambda batch: None, prefix: str = "") -> TextSource:
    return TextSource(caption=captions_by(lambda clip: prefix + _name(clip)), on_batch=on_batch)


def _once(folder: Path, names: Sequence[Path | str], source: TextSource, **options: Any) -> list[object]:
    return describe(lambda: work(folder, names, source, **options))


def _segments(folder: Path, names: Sequence[Path | str]) -> Segments:
    own = work(folder, names, _source())
    return make_segments(own.inputs, own.outputs, own.rule, own.workers, own.timeout)


def _batches(path: Path) -> list[tuple[float, float, str]]:
    return [(batch["start"], batch["end"], batch["description"]) for batch in written(path)["batches"]]


def _fail(batch: Sequence[Clip]) -> None:
    raise RuntimeError("no luck")


def _interrupt(batch: Sequence[Clip]) -> None:
    if _name(batch[0]) != "a at 0":
        raise KeyboardInterrupt


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_other_parts_of_a_video(tmp_path: Path, videos: list[Path]) -> None:
    """The segments are those of the parts that are asked for now; segments that stay are not captioned again."""
    table = write_table(tmp_path / "t.csv", [[videos[0], 0, 2]], PARTS)
    assert _once(tmp_path, [table], _source()) == [EXIT_DONE]
    write_table(table, [[videos[0], 1, 3]], PARTS)
    source = _source(prefix="new ")
    assert _once(tmp_path, [table], source) == [EXIT_DONE]
    assert _batches(tmp_path / "out" / "a.json") == [(1, 2, "a at 1"), (2, 3, "new a at 2")]
    assert written(tmp_path / "out" / "a.json")["video_title"] == "title of 2"
    assert _once(tmp_path, [videos[0]], _source()) == [EXIT_DONE]
    assert len(_batches(tmp_path / "out" / "a.json")) == 3


def test_bad_parts_of_a_video_with_good_ones(tmp_path: Path, videos: list[Path]) -> None:
    rows = [[videos[0], 0, 1], [videos[0], 8, 9], [videos[0], 2, 1], [videos[0], 1, 1]]
    table = write_table(tmp_path / "t.csv", rows, PARTS)
    for _ in range(2):
        segments = _segments(tmp_path, [table])
        assert [len(parts) for parts in segments.of_videos] == [1]
        after, reversed_, empty = segments.messages[0]
        assert "begins after the end" in after and "reversed" in reversed_ and "empty" in empty


def test_a_video_that_is_cut_off(tmp_path: Path, videos: list[Path]) -> None:
    """The description says so in every call, until the file is whole."""
    long = render_clip(tmp_path / "long.mkv", 1, 80)
    content = long.read_bytes()
    long.write_bytes(content[: len(content) // 2])
    for _ in range(2):
        segments = _segments(tmp_path, [long])
        (message,) = segments.messages[0]
        assert message.startswith("the file is cut off or damaged, and is divided up to ")
    long.write_bytes(content)
    segments = _segments(tmp_path, [long])
    assert not segments.messages and len(segments.of_videos[0]) == 10


def test_a_file_that_was_replaced(tmp_path: Path, videos: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    path = Path(shutil.copy(videos[2], tmp_path / "v.mp4"))
    assert _once(tmp_path, [path, videos[1]], _source()) == [EXIT_DONE]
    shutil.copy(videos[0], path)
    source = _source(prefix="new ")
    assert _once(tmp_path, [path, videos[1]], source) == [EXIT_DONE]
    assert "1 videos have been replaced since the earlier call" in caplog.text
    assert [text for *_, text in _batches(tmp_path / "out" / "v.json")] == ["new v at 0", "new v at 1", "new v at 2"]
    assert [text for *_, text in _batches(tmp_path / "out" / "b.json")] == ["b at 0", "b at 1"]
    assert written(tmp_path / "out" / "v.json")["video_title"] == "title of 3"
    path.unlink()  # a file that is gone keeps its captions
    again = _source()
    assert _once(tmp_path, [path, videos[1]], again) == [EXIT_DONE] and again.loads == 0
    assert len(_batches(tmp_path / "out" / "v.json")) == 3


def test_a_file_that_was_replaced_while_a_run_was_interrupted(tmp_path: Path, videos: list[Path]) -> None:
    """The run ends with the earlier segments and the description says so; the next call describes the new file."""
    path = Path(shutil.copy(videos[0], tmp_path / "a.mp4"))
    _once(tmp_path, [path], _source(_interrupt))
    os.utime(path)
    segments = _segments(tmp_path, [path])
    assert "replaced" in segments.messages[0][0] and "again" in segments.messages[0][0]
    assert _once(tmp_path, [path], _source(prefix="new ")) == [EXIT_DONE]
    assert _batches(tmp_path / "out" / "a.json")[0][2] == "a at 0"
    assert _once(tmp_path, [path], _source(prefix="last ")) == [EXIT_DONE]
    assert [text for *_, text in _batches(tmp_path / "out" / "a.json")] == [f"last a at {n}" for n in range(3)]


def test_other_parts_while_a_run_is_interrupted(tmp_path: Path, videos: list[Path]) -> None:
    _once(tmp_path, [videos[0]], _source(_interrupt))
    table = write_table(tmp_path / "t.csv", [[videos[0], 1, 2]], PARTS)
    (error,) = _once(tmp_path, [table], _source())
    assert isinstance(error, UsageError) and "other videos or parts" in str(error)


def test_fewer_videos_keep_the_captions_of_the_others(tmp_path: Path, videos: list[Path]) -> None:
    assert _once(tmp_path, videos, _source()) == [EXIT_DONE]
    before = (tmp_path / "out" / "a.json").read_bytes()
    one = _source()
    assert _once(tmp_path, [videos[1]], one) == [EXIT_DONE]
    assert one.loads == 0
    tables = tmp_path / "out" / "tables"
    for name in ("segments_caption.csv", "segments_caption_summary.csv"):
        assert {Path(row["path"]).stem for row in _rows(tables / name)} == set("abc")
    all_again = _source()
    assert _once(tmp_path, videos, all_again) == [EXIT_DONE]
    assert all_again.loads == 0 and (tmp_path / "out" / "a.json").read_bytes() == before


def test_segments_without_a_caption_of_other_videos_are_left_out(tmp_path: Path, videos: list[Path]) -> None:
    """Only the videos of the call are captioned; the others are captioned when they are asked for again."""

    def fail(batch: Sequence[Clip]) -> None:
        if _name(batch[0]) == "a at 1":
            raise RuntimeError("no luck")

    _once(tmp_path, videos[:2], _source(fail))
    source = _source()
    assert _once(tmp_path, videos[1:], source) == [EXIT_DONE]
    assert len(source.rows_captioned) == 1
    assert _once(tmp_path, videos, _source(prefix="new ")) == [EXIT_DONE]
    assert [text for *_, text in _batches(tmp_path / "out" / "a.json")] == ["a at 0", "new a at 1", "a at 2"]


def test_a_kill_while_videos_are_divided_loses_a_block(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, divided = dividing.divide_many, list[str]()

    def divide_many(paths: Sequence[str], *arguments: Any) -> Any:
        if len(divided) == 2:
            raise KeyboardInterrupt
        divided.extend(paths)
        return real(paths, *arguments)

    monkeypatch.setattr(dividing, "BLOCK", 1)
    monkeypatch.setattr(dividing, "divide_many", divide_many)
    (error,) = _once(tmp_path, videos, _source())
    assert isinstance(error, KeyboardInterrupt)
    divided.clear()
    assert _once(tmp_path, videos, _source()) == [EXIT_DONE]
    assert divided == [str(videos[2])]


def test_other_settings_before_anything_is_captioned(tmp_path: Path, videos: list[Path]) -> None:
    _once(tmp_path, videos[:1], _source(_fail))
    assert not (tmp_path / "out" / "tables" / "segments_caption.csv").exists()
    assert _once(tmp_path, videos[:1], _source(), seconds=2) == [EXIT_DONE]
    assert [(start, end) for start, end, _ in _batches(tmp_path / "out" / "a.json")] == [(0, 2), (2, 3)]


def test_damaged_records(tmp_path: Path, videos: list[Path]) -> None:
    assert _once(tmp_path, videos[2:], _source()) == [EXIT_DONE]
    records = tmp_path / "out" / "tables" / "videos.json"
    records.write_text('{"a')
    with pytest.raises(UsageError, match=r"videos\.json can't be read"):
        work(tmp_path, videos[2:], _source())
    records.unlink()
    source = _source()
    assert _once(tmp_path, videos[2:], source) == [EXIT_DONE] and source.loads == 0
