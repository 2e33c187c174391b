"""One rank's work with captioners that break while clips are in flight: nothing is lost, nothing twice."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.requests import End, EndReason, Engine, Event, Request, Token
from pipeline.captioning.journal.folder import journal_path
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.process import signals as interruption_module
from pipeline.captioning.process.errors import RunError
from pipeline.captioning.process.signals import interruption
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.planning import RankPlan
from pipeline.captioning.run.work import RankWorker
from pipeline.captioning.workers.leases import PENDING, RowPool
from pipeline.captioning.workers.world import solo_world
from scripts.without_model import EngineWithoutModel
from tests.fakes import CPU, FakeCaptioner, FakeSource, render_clip
from tests.out_of_memory import ASCEND_OUT_OF_MEMORY


@dataclass
class SlotSource(FakeSource):
    """A captioner whose clips leave one by one: each step one of those in flight ends.

    on_step: called with the clips in flight before each step; may raise.
    """

    on_step: Callable[[list[Clip]], None] = lambda clips: None
    slots: list[int] = field(default_factory=list)

    def load(self, backend: Backend) -> Captioner:
        return _SlotCaptioner(self)


class _SlotCaptioner(FakeCaptioner):
    def __init__(self, source: SlotSource) -> None:
        super().__init__(source)
        self._slots = source

    def engine(self, slots: int) -> Engine:
        self._slots.slots.append(slots)
        return EngineWithoutModel(slots, self._generate)

    def _generate(self, waiting: list[int], slots: int) -> list[int]:
        self._slots.on_step([self._clips[row] for row in waiting])
        row = waiting[len(waiting) // 2]
        self._slots.rows_captioned.append(row)
        return [row]

    def caption(self, end: End) -> Caption:
        return Caption(f"clip {end.key}", 3, False)

    def max_slots(self) -> int:
        return 4

    def stages(self) -> dict[str, float]:
        return {"vision_seconds": 0.5, "decode_seconds": 1.0}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{i}.mp4", i, frames=3)) for i in range(9)]


def _worker(folder: Path, source: SlotSource, clips: list[str], bs: int | None) -> tuple[RankWorker, RankPlan, Path]:
    options = JobOptions(
        meta_path=folder / "meta.csv", output=folder / "out.csv", batch_size=bs, pad_length=4096,
        skip_if_existing=False, restart=False, limit=None, decode_timeout=30, decode_workers=1, max_failure_rate=0.5,
        stall_timeout=1800, framework=None, device=None, dtype=None,
    )  # fmt: skip
    (folder / "journal").mkdir()
    book = Journal(folder / "journal", 0, {})
    world = solo_world()
    world.offer(RowPool(clips, {PENDING: range(len(clips))}, 1))
    worker = RankWorker(options, source, CPU, book, world)
    plan = RankPlan({}, [], "", len(clips), 1, False, False, True, [], 1, None)
    return worker, plan, journal_path(folder / "journal", 0)


def _results(journal: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Captions and failures by row; every row once."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    finished = [record for record in records if "row" in record]
    assert set(Counter(record["row"] for record in finished).values()) <= {1}
    captions = {record["row"]: record["caption"] for record in finished if "caption" in record}
    return captions, {record["row"]: str(record) for record in finished if "caption" not in record}


@pytest.mark.parametrize("error", ASCEND_OUT_OF_MEMORY)
def test_out_of_memory_halves_the_slots_for_good(tmp_path: Path, clips: list[str], error: str) -> None:
    def on_step(flying: list[Clip]) -> None:
        if len(flying) > 2 and len(source.rows_captioned) >= 2:  # not at once: some captions are out by then
            raise RuntimeError(error)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = _worker(tmp_path, source, clips, 8)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert captions == {row: f"clip {row}" for row in range(9)} and not failures
    assert source.slots[:3] == [8, 4, 2] and stats.slots == 2
    assert (stats.captioned, stats.tokens, stats.stages["decode_seconds"]) == (9, 27, 1.0)


def test_a_clip_that_fits_no_memory_fails_alone(tmp_path: Path, clips: list[str]) -> None:
    def on_step(flying: list[Clip]) -> None:
        if any(clip.row == 3 for clip in flying):
            raise RuntimeError("CUDA out of memory")

    source = SlotSource(on_step=on_step)
    worker, plan, journal = _worker(tmp_path, source, clips, 4)
    worker.run(plan)
    captions, failures = _results(journal)
    assert list(failures) == [3] and len(captions) == 8


def test_an_error_is_pinned_down_on_its_clip(tmp_path: Path, clips: list[str]) -> None:
    def on_step(flying: list[Clip]) -> None:
        if any(clip.row in (2, 6) for clip in flying):
            raise ValueError("kernel broke")

    source = SlotSource(on_step=on_step)
    worker, plan, journal = _worker(tmp_path, source, [*clips[:4], "/nowhere.mp4", *clips[5:]], 5)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert sorted(failures) == [2, 4, 6] and "ValueError: kernel broke" in failures[2]
    assert len(captions) == 6 and stats.slots == 5


def test_a_captioner_that_takes_no_clip_ends_the_run(tmp_path: Path, clips: list[str]) -> None:
    class Broken(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            captioner.engine = lambda slots: int("no number")  # type: ignore[assignment]
            return captioner

    worker, plan, _ = _worker(tmp_path, Broken(), clips, 2)
    with pytest.raises(RunError, match="broke before it took a clip: ValueError"):
        worker.run(plan)


def test_what_the_journal_raises_is_no_error_of_the_captioner(tmp_path: Path, clips: list[str]) -> None:
    worker, plan, _ = _worker(tmp_path, SlotSource(), clips, 2)
    worker.journal.start = lambda rows, retry: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # type: ignore
    with pytest.raises(OSError, match="No space left"):
        worker.run(plan)


def test_a_signal_lets_captions_in_flight_end(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "requested", False)

    def on_step(flying: list[Clip]) -> None:
        if len(source.rows_captioned) == 1 and not interruption.requested:
            interruption._on_signal(signal.SIGTERM, None)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = _worker(tmp_path, source, clips, 3)
    with pytest.raises(KeyboardInterrupt):
        worker.run(plan)
    assert len(_results(journal)[0]) == 1 + 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(("echo_seconds", "captioned"), [(0.0, 1), (60.0, 1 + 3)])
def test_a_second_signal_ends_at_once_unless_it_is_the_firsts_echo(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch, echo_seconds: float, captioned: int
) -> None:
    monkeypatch.setattr(interruption, "requested", False)
    monkeypatch.setattr(interruption_module, "ECHO_SECONDS", echo_seconds)

    def on_step(flying: list[Clip]) -> None:
        if len(source.rows_captioned) == 1 and not interruption.requested:
            interruption._on_signal(signal.SIGINT, None)
            interruption._on_signal(signal.SIGTERM, None)

    source = SlotSource(on_step=on_step)
    worker, plan, journal = _worker(tmp_path, source, clips, 3)
    with pytest.raises(KeyboardInterrupt):
        worker.run(plan)
    assert len(_results(journal)[0]) == captioned
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_auto_takes_as_many_slots_as_the_captioner_says(tmp_path: Path, clips: list[str]) -> None:
    source = SlotSource()
    worker, plan, journal = _worker(tmp_path, source, clips, None)
    assert worker.run(replace(plan)).slots == 4
    assert source.slots == [4] and len(_results(journal)[0]) == 9


class _SteadyEngine:
    """Works like the engine of slots: a step is a prefill or ends one answer; nothing is added while one waits.

    ends: reason and message of the rows that end with an error.
    """

    def __init__(self, slots: int, ends: dict[int, End]) -> None:
        self._slots, self._errors = slots, ends
        self._waiting: list[int] = []
        self._begun: list[int] = []

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
        assert not self._waiting or self._waiting == self._added, "prepared while others wait"
        self._added = [*self._waiting, request.key]
        self._waiting = list(self._added)

    def step(self) -> list[Event]:
        if self._waiting and len(self._begun) % 2 == 0:  # half of what waits; decoding has its turns too
            half = -(-len(self._waiting) // 2)
            self._begun += self._waiting[:half]
            del self._waiting[:half]
            return [Token(key, 1) for key in self._begun[-half:]]
        if not self._begun:
            self._begun.append(self._waiting.pop(0))
            return []
        key = self._begun.pop(0)
        return [self._errors.get(key, End(key, [1, 2], EndReason.STOP))]


def test_an_engine_that_refills_while_captions_are_in_flight(tmp_path: Path, clips: list[str]) -> None:
    """Rows whose requests end with an error have failed; all others are captioned, each once."""
    errors = {
        2: End(2, [], EndReason.TOO_LONG, "4000 tokens of the prompt …"),
        5: End(5, [1], EndReason.NOT_A_NUMBER, "not a number"),
    }

    class Steady(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            captioner.clips_together = 2
            captioner.engine = lambda slots: _SteadyEngine(slots, errors)  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = _worker(tmp_path, Steady(), [*clips[:7], "/nowhere.mp4", clips[8]], 4)
    stats = worker.run(plan)
    captions, failures = _results(journal)
    assert captions == {row: f"clip {row}" for row in (0, 1, 3, 4, 6, 8)}
    assert sorted(failures) == [2, 5, 7]
    assert "'prompt'" in failures[2] and "4000 tokens" in failures[2] and "'caption'" in failures[5]
    assert (stats.captioned, stats.failed, stats.slots) == (6, 3, 4)


def test_prompts_that_are_too_long_are_not_the_devices_fault(tmp_path: Path, clips: list[str]) -> None:
    class Long(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            errors = {row: End(row, [], EndReason.TOO_LONG, "too long") for row in range(1, 20)}
            captioner.engine = lambda slots: _SteadyEngine(slots, errors)  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = _worker(tmp_path, Long(), clips * 2, 4)
    worker.run(plan)
    assert [len(results) for results in _results(journal)] == [1, 17]


def test_out_of_memory_while_an_engine_is_made(tmp_path: Path, clips: list[str]) -> None:
    class Narrow(SlotSource):
        def load(self, backend: Backend) -> Captioner:
            captioner = super().load(backend)
            original = captioner.engine

            def engine(slots: int) -> Engine:
                if slots > 2:
                    raise RuntimeError("CUDA out of memory")
                return original(slots)

            captioner.engine = engine  # type: ignore[method-assign]
            return captioner

    worker, plan, journal = _worker(tmp_path, Narrow(), clips, 8)
    assert worker.run(plan).slots == 2 and len(_results(journal)[0]) == 9
