"""The work of one rank with a model in this process: import the framework, check the weights, caption the rows."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable

from .. import backends
from ..backends import Backend
from ..captioners.base import CaptionerSource
from ..journal.journal import Journal
from ..process.watchdog import Watchdog
from ..workers import launch_checks
from ..workers.launch import Launch
from ..workers.world import World, join_world, solo_world
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

    source: CaptionerSource

    def __init__(self, source: CaptionerSource, activate: Callable[[], Backend], device: str = "cpu") -> None:
        self.source = source
        self._activate, self._device = activate, device
        self._backend: Backend | None = None

    def warnings(self, launch: Launch) -> list[str]:
        return launch_checks.warnings(launch, self._device, os.environ)

    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        if launch.launcher == "plain":
            # A single process imports the framework only if there is something to caption.
            return solo_world(watchdog=watchdog)
        return join_world(launch, self._activated().device, watchdog)

    def prepare(self) -> str:
        backend = self._activated()
        self.source.check_dtype(backend.dtype_name)
        self.source.check_weights()
        return backend.dtype_name

    def describe(self) -> list[str]:
        lines = [f"family {self.source.family}"] if self.source.family else []
        lines += self.source.describe()
        backend = self._backend
        if backend is not None:
            lines.append(f"{backend.framework} on {backend.device} in {backend.dtype_name}: {backend.reason}")
        return lines

    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        RankWorker(options, self.source, self._activated(), journal, world, stats).run(plan)

    def _activated(self) -> Backend:
        if self._backend is None:
            self._backend = self._activate()
        return self._backend


def model_work(
    make_source: Callable[[argparse.Namespace], CaptionerSource],
) -> Callable[[argparse.Namespace, JobOptions, Launch], ModelWork]:
    """What `command.main` needs for a command whose captions a model makes.

    make_source: checks the flags of the model and the checkpoint; raises UsageError.
    """

    def make_work(flags: argparse.Namespace, options: JobOptions, launch: Launch) -> ModelWork:
        source = make_source(flags)
        choice = backends.choose(
            options.framework,
            options.device,
            launch.launcher,
            launch.local_rank,
            launch.world_size,
            launch.local_workers,
        )
        return ModelWork(source, functools.partial(choice.activate, options.dtype), choice.device)

    return make_work
