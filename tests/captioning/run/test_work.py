"""One rank's work with captioners that fail while clips are in flight: every row has exactly one result."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.requests import End, EndReason, Engine, Event, Request, Token
from pipeline.captioning.journal.folder import journal_path
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.process import signals as interruption_module
from pipeline.captioning.process.errors import RunError
from pipeline.captioning.process.signals import interruption
from pipeline.captioning.run import clip_rows
from pipeline.captioning.run.clip_rows import ClipRows
from pipeline.captioning.run.loaded_model import LoadedModel
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.planning import RankPlan
from pipeline.captioning.run.work import RankWorker
from pipeline.captioning.workers.leases import PENDING, RowPool, RowTask
from pipeline.captioning.workers.world import solo_world
from scripts.without_model import EngineWithoutModel, row_of
from tests.fakes import CPU, FakeCaptioner, FakeSource, mean_colour, render_clip
from tests.out_of_memory import ASCEND_OUT_OF_MEMORY


@dataclass
class SlotSource(FakeSource):
    """A captioner whose requests end one by one: in each step, one of those in flight ends.

    slots: the numbers of slots of the engines that it made.

    on_step: called with the clips in flight before each step; may raise.
    """

    on_step: Callable[[list[Clip]], None] = lambda clips: None
    slots: list[int] = field(default_factory=list)

    def load(self, backend: Backend) -> Captioner:
        return SlotCaptioner(self)


class SlotCaptioner(FakeCaptioner):
    def __init__(self, source: SlotSource) -> None:
        super().__init__(source)
        self._slots = source

    def engine(self, slots: int) -> Engine:
        self._slots.slots.append(slots)
        return EngineWithoutModel(slots, self._generate)

    def _generate(self, waiting: list[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
        self._slots.on_step([self._clips[row] for row, _ in waiting])
        key = waiting[len(waiting) // 2]
        self._slots.rows_captioned.append(key[0])
        return [key]

    def caption(self, end: End) -> Caption:
        return Caption(f"clip {row_of(end)}", 3, False)

    def max_slots(self) -> int:
        return 4

    def stages(self) -> dict[str, float]:
        return {"vision_seconds": 0.5, "decode_seconds": 1.0}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{i}.mp4", i, frames=3)) for i in range(9)]


def make_worker(
    folder: Path, source: SlotSource, clips: list[str], bs: int | None
) -> tuple[RankWorker, RankPlan, Path]:
    options = JobOptions(
        meta_path=folder / "meta.csv", output=folder / "out.csv", batch_size=bs, pad_length=4096,
        skip_if_existing=False, restart=False, limit=None, decode_timeout=30, decode_workers=1, max_failure_rate=0.5,
        stall_timeout=1800, framework=None, device=None, dtype=None,
    )  # fmt: skip
    (folder / "journal").mkdir()
    journal = Journal(folder / "journal", 0, {})
    world = solo_world()
    world.offer(RowPool(lambda row: RowTask(row, clips[row]), {PENDING: range(len(clips))}, 1))
    worker = RankWorker(options, ClipRows(source), LoadedModel(source, lambda: CPU), journal, world)
    plan = RankPlan({}, [], "", len(clips), 1, False, False, True, [], 1, None)
    return worker, plan, journal_path(folder / "journal", 0)


def _results(journal: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Captions and failures by row; checks that every row has at most one result."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    finished = [record for record in records if "row" in record]
    assert set(Counter(record["row"] for record in finished).values()) <= {1}
    results = {record["row"]: record["captions"]["text"] for record in finished}
    captions = {row: result["caption"] for row, result in results.items() if "caption" in result}
    return captions, {row: str(result) for row, result in results.items() if "caption" not in result}


@pytest.mark.parametrize("error", ASCEND_OUT_OF_MEMORY)
def test_out_of_memory_halves_the_slots_for_the_rest_of_the_run(tmp_path: Path, clips: list[str], error: str) -> None:
    def on_step(in_flight: list[Clip]) -> None:
        if len(in_flight) > 2 and len(source.rows_captioned) >= 2:  # after some captions have ended
            raise RuntimeError(error)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = make_worker(tmp_path, source, clips, 8)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert captions == {row: f"clip {row}" for row in range(9)} and not failures
    assert source.slots[:3] == [8, 4, 2] and stats.slots == 2
    assert (stats.captioned, stats.tokens, stats.stages["decode_seconds"]) == (9, 27, 1.0)


def test_a_clip_that_is_out_of_memory_alone_fails(tmp_path: Path, clips: list[str]) -> None:
    def on_step(in_flight: list[Clip]) -> None:
        if any(clip.row == 3 for clip in in_flight):
            raise RuntimeError("CUDA out of memory")

    source = SlotSource(on_step=on_step)
    worker, plan, journal = make_worker(tmp_path, source, clips, 4)
    worker.run(plan)
    captions, failures = _results(journal)
    assert list(failures) == [3] and len(captions) == 8


def test_an_error_fails_only_the_clip_that_causes_it(tmp_path: Path, clips: list[str]) -> None:
    def on_step(in_flight: list[Clip]) -> None:
        if any(clip.row in (2, 6) for clip in in_flight):
            raise ValueError("kernel failed")

    source = SlotSource(on_step=on_step)
    worker, plan, journal = make_worker(tmp_path, source, [*clips[:4], "/nowhere.mp4", *clips[5:]], 5)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert sorted(failures) == [2, 4, 6] and "ValueError: kernel failed" in failures[2]
    assert len(captions) == 6 and stats.slots == 5


def test_a_captioner_that_accepts_no_clip_ends_the_run(tmp_path: Path, clips: list[str]) -> None:
    class Failing(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            captioner.engine = lambda slots: int("no number")  # type: ignore[assignment]
            return captioner

    worker, plan, _ = make_worker(tmp_path, Failing(), clips, 2)
    with pytest.raises(RunError, match="failed before it accepted a clip: ValueError"):
        worker.run(plan)


def test_an_error_of_the_journal_ends_the_run(tmp_path: Path, clips: list[str]) -> None:
    worker, plan, _ = make_worker(tmp_path, SlotSource(), clips, 2)
    worker.journal.start = lambda rows, retry: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # type: ignore
    with pytest.raises(OSError, match="No space left"):
        worker.run(plan)


def test_after_a_signal_captions_in_flight_are_finished(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "requested", False)

    def on_step(in_flight: list[Clip]) -> None:
        if len(source.rows_captioned) == 1 and not interruption.requested:
            interruption._on_signal(signal.SIGTERM, None)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = make_worker(tmp_path, source, clips, 3)
    with pytest.raises(KeyboardInterrupt):
        worker.run(plan)
    assert len(_results(journal)[0]) == 1 + 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(("echo_seconds", "captioned"), [(0.0, 1), (60.0, 1 + 3)])
def test_a_second_signal_ends_immediately_unless_it_is_an_echo_of_the_first(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch, echo_seconds: float, captioned: int
) -> None:
    monkeypatch.setattr(interruption, "requested", False)
    monkeypatch.setattr(interruption_module, "ECHO_SECONDS", echo_seconds)

    def on_step(in_flight: list[Clip]) -> None:
        if len(source.rows_captioned) == 1 and not interruption.requested:
            interruption._on_signal(signal.SIGINT, None)
            interruption._on_signal(signal.SIGTERM, None)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = make_worker(tmp_path, source, clips, 3)
    with pytest.raises(KeyboardInterrupt):
        worker.run(plan)
    assert len(_results(journal)[0]) == captioned
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_auto_uses_the_number_of_slots_of_the_captioner(tmp_path: Path, clips: list[str]) -> None:
    source = SlotSource()
    worker, plan, journal = make_worker(tmp_path, source, clips, None)
    assert worker.run(replace(plan)).slots == 4
    assert source.slots == [4] and len(_results(journal)[0]) == 9


class _RefillingEngine:
    """Behaves like the real engine: a step is a prefill or ends one request; nothing is added while requests wait.

    errors: for each row that ends with an error, its end.
    """

    def __init__(self, slots: int, errors: dict[int, End]) -> None:
        self._slots, self._errors = slots, errors
        self._waiting: list[tuple[int, int]] = []
        self._begun: list[tuple[int, int]] = []

    @property
    def free(self) -> int:
        return self._slots - self.active

    @property
    def active(self) -> int:
        return len(self._waiting) + len(self._begun)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def requests_needed(self) -> int:
        return int(not self.active)

    def add(self, request: Request) -> None:
        assert not self._waiting or self._waiting == self._added, "a clip was prepared while requests wait"
        self._added = [*self._waiting, request.key]
        self._waiting = list(self._added)

    def step(self) -> list[Event]:
        if self._waiting and len(self._begun) % 2 == 0:  # prefill half of those that wait, then decode
            half = -(-len(self._waiting) // 2)
            self._begun += self._waiting[:half]
            del self._waiting[:half]
            return [Token(key, 1) for key in self._begun[-half:]]
        if not self._begun:
            self._begun.append(self._waiting.pop(0))
            return []
        key = self._begun.pop(0)
        return [self._errors.get(key[0], End(key, [1, 2], EndReason.STOP))]


def test_an_engine_that_refills_while_captions_are_in_flight(tmp_path: Path, clips: list[str]) -> None:
    """Rows whose requests end with an error fail; all other rows are captioned once."""
    errors = {
        2: End((2, 0), [], EndReason.TOO_LONG, "4000 tokens of the prompt …"),
        5: End((5, 0), [1], EndReason.NOT_A_NUMBER, "not a number"),
    }

    class Refilling(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            captioner.clips_together = 2
            captioner.engine = lambda slots: _RefillingEngine(slots, errors)  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = make_worker(tmp_path, Refilling(), [*clips[:7], "/nowhere.mp4", clips[8]], 4)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert captions == {row: f"clip {row}" for row in (0, 1, 3, 4, 6, 8)}
    assert sorted(failures) == [2, 5, 7]
    assert "'prompt'" in failures[2] and "4000 tokens" in failures[2] and "'caption'" in failures[5]
    assert (stats.captioned, stats.failed, stats.slots) == (6, 3, 4)


def test_prompts_that_are_too_long_do_not_count_as_device_failures(tmp_path: Path, clips: list[str]) -> None:
    class TooLong(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            errors = {row: End((row, 0), [], EndReason.TOO_LONG, "too long") for row in range(1, 20)}
            captioner.engine = lambda slots: _RefillingEngine(slots, errors)  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = make_worker(tmp_path, TooLong(), clips * 2, 4)
    worker.run(plan)
    assert [len(results) for results in _results(journal)] == [1, 17]


def test_out_of_memory_while_the_engine_is_made_halves_the_slots(tmp_path: Path, clips: list[str]) -> None:
    class SmallMemory(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            original = captioner.engine

            def engine(slots: int) -> Engine:
                if slots > 2:
                    raise RuntimeError("CUDA out of memory")
                return original(slots)

            captioner.engine = engine  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = make_worker(tmp_path, SmallMemory(), clips, 8)
    assert worker.run(plan).slots == 2 and len(_results(journal)[0]) == 9


@dataclass(frozen=True)
class _Recorded:
    """A frame transform that leaves a file for each frame."""

    folder: Path

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        tempfile.mkstemp(dir=self.folder)
        return mean_colour(images)


@pytest.mark.parametrize(("limit", "decoded"), [(1, 6), (2**20, 9)])
def test_large_clips_are_not_decoded_far_ahead(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch, limit: int, decoded: int
) -> None:
    """Four clips are in flight; two others are decoded ahead, whatever their size."""
    seen: list[int] = []
    (folder := tmp_path / "frames").mkdir()

    def on_step(in_flight: list[Clip]) -> None:
        if not seen:
            time.sleep(0.5)  # in which all clips can be decoded
            seen.append(len(list(folder.iterdir())) // 2)  # two frames each

    monkeypatch.setattr(clip_rows, "PREFETCH_BYTES", limit)
    source = SlotSource(on_step=on_step, frame_transform=_Recorded(folder))
    worker, plan, journal = make_worker(tmp_path, source, clips, None)
    worker.run(plan)
    assert seen == [decoded] and len(_results(journal)[0]) == 9
