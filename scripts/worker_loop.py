"""The loop of a worker (`RankWorker.caption`) without a run: for the benchmark and for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip, LoadFailure
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.generation.requests import End, Engine, Event, Request
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.meta.results import RowResult
from pipeline.captioning.run.clip_rows import ClipRowLoader, ClipRows, RowTasks
from pipeline.captioning.run.loaded_model import LoadedModel
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.work import RankWorker
from pipeline.captioning.workers.leases import RowTask
from pipeline.captioning.workers.world import solo_world
from scripts.without_model import SourceWithoutModel, row_of


class LoadedClips:
    """Replaces a `ClipLoader` for clips that are already loaded."""

    wait_seconds = decode_seconds = 0.0

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = list(clips)

    @property
    def has_ended(self) -> bool:
        return not self._clips

    def next_clip(self, wait: float | None = None) -> Clip | None:
        return self._clips.pop(0) if self._clips else None


def generated_ids(
    captioner: Captioner,
    loader: ClipLoader | LoadedClips,
    backend: Backend,
    slots: int,
    refill: bool = True,
    asks: Asks | None = None,
) -> dict[tuple[int, int], list[int]]:
    """The generated token ids of all clips of `loader`, by row and number of the question.

    slots: maximum number of clips in flight.
    refill: fill a slot as soon as it is free; otherwise wait until all slots are free.
    asks: the questions; None for those that the captioner has itself.

    Raises:
        RuntimeError: a clip could not be decoded or captioned.
    """
    options = JobOptions(
        meta_path=Path("meta.csv"), output=Path("out.csv"), batch_size=slots, pad_length=4096, skip_if_existing=False,
        restart=False, limit=None, decode_timeout=60, decode_workers=1, max_failure_rate=1, stall_timeout=1800,
        framework=None, device=None, dtype=None,
    )  # fmt: skip
    recorder = _Recorder(captioner, refill, has_questions=asks is not None)
    source = _LoadedSource(recorder)
    source.asks = asks or SourceWithoutModel.asks
    journal: Any = _NoJournal()
    worker = RankWorker(options, ClipRows(source), LoadedModel(source, lambda: backend), journal, solo_world())
    worker.stats.slots = slots
    tasks = RowTasks(source.asks)
    worker.caption(ClipRowLoader(_TaskedClips(loader, tasks), tasks), recorder, slots)  # type: ignore[arg-type]
    return recorder.ids


class _LoadedSource(SourceWithoutModel):
    """The source of a captioner that is already loaded."""

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner

    def load(self, backend: Backend) -> Captioner:
        return self._captioner


class _TaskedClips:
    """The clips of a loader, each with the task of its row, which in a run comes from rank 0."""

    def __init__(self, loader: ClipLoader | LoadedClips, tasks: RowTasks) -> None:
        self._loader, self._tasks = loader, tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def next_clip(self, wait: float | None = None) -> Clip | LoadFailure | None:
        clip = self._loader.next_clip(wait)
        if clip is not None:
            list(self._tasks.rows([RowTask(clip.row, clip.path)]))
        return clip


class _NoJournal:
    durable = 0

    def start(self, rows: Iterable[int], retry: bool = False) -> None:
        pass

    def finish(self, results: Sequence[RowResult]) -> None:
        for result in results:
            for failure in result.failures:
                raise RuntimeError(f"row {result.row}: {failure}")


class _Recorder(Captioner):
    """A captioner that stores the token ids instead of decoding them to text.

    has_questions: ask the given questions, not those that the captioner has itself.
    """

    def __init__(self, captioner: Captioner, refill: bool, has_questions: bool) -> None:
        self._captioner, self._refill, self._has_questions = captioner, refill, has_questions
        self.clips_together = captioner.clips_together
        self.ids: dict[tuple[int, int], list[int]] = {}

    def engine(self, slots: int) -> Engine:
        engine = self._captioner.engine(slots)
        return engine if self._refill else _WholeBatches(engine)

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        return self._captioner.prepare(clips, questions if self._has_questions else None, systems)

    def caption(self, end: End) -> Caption:
        self.ids[row_of(end), end.question] = end.ids
        return Caption("stored", len(end.ids), False)

    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        return self._captioner.max_slots(text_tokens, answer_tokens)

    def stages(self) -> Mapping[str, float]:
        return self._captioner.stages()


class _WholeBatches:
    """An engine whose slots are filled together: once they are full, it accepts no request until all have ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._fills = engine, True
        self.on_token = engine.on_token
        self.add, self.cancel = engine.add, engine.cancel

    @property
    def free(self) -> int:
        self._fills = not self._engine.active or (self._fills and self._engine.free > 0)
        return self._engine.free if self._fills else 0

    @property
    def active(self) -> int:
        return self._engine.active

    @property
    def waiting(self) -> int:
        return 0

    @property
    def requests_needed(self) -> int:
        return self.free

    def step(self) -> list[Event]:
        return self._engine.step()
