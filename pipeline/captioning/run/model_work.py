"""The work of one rank with a model in this process: import the framework, check the weights, caption the rows."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable

from .. import backends
from ..backends import Backend
from ..captioners.base import CaptionerSource, Source
from ..captioners.named_prompts import frame_warnings
from ..journal.journal import Journal
from ..process.watchdog import Watchdog
from ..workers import launch_checks
from ..workers.launch import Launch
from ..workers.world import World, join_world, solo_world
from .clip_rows import ClipRows
from .loaded_model import LoadedModel
from .model_rows import ModelRows
from .options import JobOptions
from .planning import RankPlan
from .rank_stats import RankStats
from .rank_work import RankWork
from .work import RankWorker


class ModelWork(RankWork):
    """Captions the rows with the model of `source`.

    activate: imports the framework and returns it; is called once.
    device: one of `backends.DEVICES`, for warnings.
    """

    source: Source
    rows: ModelRows

    def __init__(self, source: CaptionerSource, activate: Callable[[], Backend], device: str = "cpu") -> None:
        self.source, self.rows = source, ClipRows(source)
        self.model, self.device = LoadedModel(source, activate), device

    def warnings(self, launch: Launch) -> list[str]:
        source = self.model.source
        return [
            *launch_checks.warnings(launch, self.device, os.environ),
            *frame_warnings(source.asks, source.sampling),
        ]

    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        if launch.launcher == "plain":
            # A single process imports the framework only if there is something to caption.
            return solo_world(watchdog=watchdog)
        return join_world(launch, self.model.backend.device, watchdog)

    def prepare(self) -> str:
        return self.model.check()

    def describe(self) -> list[str]:
        family = self.model.source.family
        lines = [f"family {family}"] if family else []
        lines += self.source.describe()
        if self.model.is_active:
            backend = self.model.backend
            lines.append(f"{backend.framework} on {backend.device} in {backend.dtype_name}: {backend.reason}")
        return lines

    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        RankWorker(options, self.rows, self.model, journal, world, stats).run(plan)


def model_work(
    make_source: Callable[[argparse.Namespace], CaptionerSource],
) -> Callable[[argparse.Namespace, JobOptions, Launch], ModelWork]:
    """What `command.main` needs for a command whose captions a model makes.

    make_source: checks the flags of the model and the checkpoint; raises UsageError.
    """

    def make_work(flags: argparse.Namespace, options: JobOptions, launch: Launch) -> ModelWork:
        return work_of_source(make_source(flags), options.framework, options.device, options.dtype, launch)

    return make_work


def work_of_source(
    source: CaptionerSource, framework: str | None, device: str | None, dtype: str | None, launch: Launch
) -> ModelWork:
    """The work of captioning with the model of `source`. framework, device, dtype: as in `JobOptions`.

    Raises:
        UsageError: the choice is not possible.
    """
    choice = backends.choose(
        framework,
        device,
        launch.launcher,
        launch.local_rank,
        launch.world_size,
        launch.local_workers,
    )
    return ModelWork(source, functools.partial(choice.activate, dtype), choice.device)
