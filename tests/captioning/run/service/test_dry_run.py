"""A dry run tells what a run would send, from the store and from a few clips that are really decoded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.api.answer import NO_CLIP
from pipeline.captioning.captioners.api.asker import Attempt, StoredResult
from pipeline.captioning.captioners.api.options import Generation, Prices, ServiceOptions, Visuals
from pipeline.captioning.captioners.base import ClipSource
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.journal.reader import JournalContents
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.results import CaptionResult
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.run.earlier_captions import nothing_marked
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.planning import RankPlan, plan_run
from pipeline.captioning.run.service import dry_run
from pipeline.captioning.run.service import rows as service_rows
from pipeline.captioning.workers.world import solo_world
from tests.fakes import render_clip, segments
from tests.runs import write_meta

JPEG_BYTES = 6000
ASKS = Asks((Ask("text_a", Question("What?")), Ask("text_b", Question("Who is it?"))))


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """A frame transform."""
    return np.stack([np.asarray(image) for image in images])


def _jpegs(frames: np.ndarray) -> list[bytes]:
    """Every frame as a JPEG of JPEG_BYTES."""
    encoded = []
    for frame in frames:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG")
        assert buffer.tell() <= JPEG_BYTES
        encoded.append(buffer.getvalue().ljust(JPEG_BYTES, b"\0"))
    return encoded


class FramesSource(ClipSource):
    def __init__(self, asks: Asks, sampling: FrameSampling, options: ServiceOptions) -> None:
        self.asks, self.sampling, self.frame_transform, self.options = asks, sampling, _pixels, options

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def describe(self) -> list[str]:
        return []


class FakeAsker:
    """answered: the beginnings of the keys that have an answer."""

    def __init__(self, *answered: str) -> None:
        self._answered = answered

    def next(self, key: str) -> Attempt | StoredResult:
        if key.startswith(self._answered):
            return StoredResult(CaptionResult("A dog.", 3), "success", NO_CLIP)
        return Attempt(0)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is the file and the question; a file whose name begins with `missing` can't be read."""

    def identity(
        path: str, visuals: Visuals, sampling: FrameSampling, short_side: int, part: TimeRange | None
    ) -> Mapping[str, Any]:
        assert (sampling, short_side, part) == (segments(2), 0, None)
        if Path(path).name.startswith("missing"):
            raise FileNotFoundError(f"no file {path}")
        return {"file": Path(path).name}

    monkeypatch.setattr(service_rows, "clip_identity", identity)
    monkeypatch.setattr(service_rows, "request_key", lambda identity, question, _: f"{identity['file']}: {question}")
    monkeypatch.setattr(dry_run, "jpegs", _jpegs)


def _plan(folder: Path, paths: Sequence[str], asks: Asks) -> tuple[JobOptions, RankPlan]:
    options = write_meta(folder, paths)
    table = MetaTable.read(options.meta_path, asks.columns, asks.cell_uses)

    class NoJournals:
        folder = Path("none")

        def contents(self, restart: bool) -> JournalContents:
            return JournalContents()

    return options, plan_run(solo_world(), NoJournals(), table, options, asks, {}, nothing_marked)  # type: ignore


def _report(
    folder: Path, paths: Sequence[str], service: ServiceOptions, asker: FakeAsker, asks: Asks = ASKS
) -> list[str]:
    options, plan = _plan(folder, paths, asks)
    before = sorted(folder.iterdir())
    lines = dry_run.report(options, plan, FramesSource(asks, segments(2), service), service, asker)  # type: ignore[arg-type]
    assert sorted(folder.iterdir()) == before
    return lines


def _service(folder: Path, **changes: Any) -> ServiceOptions:
    generation = Generation("m", system="Be brief.", max_new_tokens=50)
    return ServiceOptions("http://host/v1", generation, folder / "answers.sqlite", **changes)


def _numbers(line: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", line)]


def test_rows_bytes_tokens_and_cost(tmp_path: Path) -> None:
    paths = [str(render_clip(tmp_path / f"{number}.mp4", number)) for number in range(4)]
    lines = _report(tmp_path, paths, _service(tmp_path, prices=Prices(1000.0, 100.0, 5.0)), FakeAsker("1.mp4: What?"))
    text = "\n".join(lines)
    assert "nothing is sent, and nothing is written" in lines[0]
    assert f"to send: 7 requests about 4 clips; 1 questions are answered in {tmp_path}/answers.sqlite" in text
    assert "loaded 4 of these 4 clips for the estimate: none failed" in text
    characters = 3 * len("Be brief.What?") + 4 * len("Be brief.Who is it?")
    tokens_in = 7 * 2 * (85 + 170) + characters / 4  # two frames of one tile
    size = 7 * 2 * JPEG_BYTES * 4 / 3 + characters
    (tokens_line,) = (line for line in lines if line.startswith("tokens"))
    assert "rough" in tokens_line and {round(tokens_in), 7 * 50} <= set(_numbers(tokens_line))
    (bytes_line,) = (line for line in lines if line.startswith("bytes"))
    assert _numbers(bytes_line) == [round(size / 1e6, 1), round(size / 7 / 1e3)]
    (cost_line,) = (line for line in lines if line.startswith("cost"))
    assert f"{tokens_in / 1e3:.2f} for the tokens in, at most {7 * 50 / 1e4:.4f} for those out" in cost_line
    assert "--max_cost 5 ends the run" in cost_line


def test_many_rows_are_estimated_from_clips_that_are_spread_over_them(tmp_path: Path) -> None:
    """The clips of the second half are larger."""
    small = render_clip(tmp_path / "small.mp4", 1)
    large = render_clip(tmp_path / "large.mp4", 2, size=(1024, 192))
    paths = []
    for number in range(200):
        path = tmp_path / f"{number}.mp4"
        path.symlink_to(small if number < 100 else large)
        paths.append(str(path))
    lines = _report(tmp_path, paths, _service(tmp_path), FakeAsker(), Asks.single("What?"))
    text = "\n".join(lines)
    assert "to send: 200 requests about 200 clips" in text and "loaded 20 of these 200 clips" in text
    (tokens_line,) = (line for line in lines if line.startswith("tokens"))
    expected = 100 * 2 * (85 + 170) + 100 * 2 * (85 + 170 * 2) + 200 * len("Be brief.What?") / 4
    assert expected in _numbers(tokens_line)
    assert "cost: not known; give --price_in and --price_out" in text


def test_failures_among_the_clips_are_named(tmp_path: Path) -> None:
    good = [str(render_clip(tmp_path / f"{number}.mp4", number)) for number in range(2)]
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    paths = [good[0], str(broken), str(tmp_path / "missing.mp4"), good[1], good[0]]
    lines = _report(tmp_path, paths, _service(tmp_path), FakeAsker(), Asks.single("What?"))
    text = "\n".join(lines)
    assert "to send: 3 requests about 3 clips" in text
    assert "1 questions are asked once, because other rows ask the same about one clip" in text
    assert f"1 rows have no file that can be read, for example row 2 ({tmp_path}/missing.mp4): no file" in text
    assert "loaded 3 of these 3 clips for the estimate: 1 failed at stage decode" in text
    assert f"row 1 ({broken}) failed: decode: " in text
    (tokens_line,) = (line for line in lines if line.startswith("tokens"))
    assert round(2 * 2 * 255 + 3 * len("Be brief.What?") / 4) in _numbers(tokens_line)


def test_without_a_clip_that_can_be_loaded_nothing_is_estimated(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    lines = _report(tmp_path, [str(tmp_path / "broken.mp4")], _service(tmp_path), FakeAsker())
    assert lines[-1] == "bytes, tokens and cost are not known, because none of these clips could be loaded"


def test_nothing_is_decoded_if_everything_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "ClipLoader", None)
    lines = _report(tmp_path, [str(tmp_path / "a.mp4")], _service(tmp_path), FakeAsker("a.mp4"))
    assert lines[1].startswith("to send: 0 requests about 0 clips; 2 questions are answered in ")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        ((512, 512), "", 85 + 170),
        ((513, 512), "high", 85 + 170 * 2),
        ((1024, 1024), "", 85 + 170 * 4),  # 768 x 768
        ((2048, 4096), "", 85 + 170 * 6),  # 768 x 1536
        ((8192, 512), "", 85 + 170 * 4),  # 2048 x 128
        ((1024, 1024), "low", 85),
    ],
)
def test_tokens_of_an_image_follow_the_rule_of_openai(size: tuple[int, int], detail: str, tokens: int) -> None:
    buffer = BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG")
    assert dry_run._image_tokens(buffer.getvalue(), detail) == tokens
