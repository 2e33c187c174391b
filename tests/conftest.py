"""Options of the test run: the framework of the model tests, and which tests share a process.

`--framework`: one framework for each test process, because mindnlp replaces `import torch`.

With pytest-xdist (`-n 2`) the tests of a group run in one process, one after another:

- the files with tests that start a cluster of workers (marker `msrun`): the ports of the clusters are fixed, and two
  clusters at a time would compete for the CPU cores. This group takes longest, so it starts first;
- the files of a folder with a `conftest.py`, which share its fixtures;
- any other file by itself: its tests share module fixtures.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Test processes share the CPU cores. They and the processes that they start compute with one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is imported

import pytest

from pipeline.captioning import backends
from scripts import service_runs
from tests.captioning.run import forked

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--framework", choices=backends.FRAMEWORKS, default="torch", help="for tests marked `model`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests of the framework: on MindSpore only model tests, because the others do not use it.

    The group `msrun` comes first.
    """
    framework = config.getoption("--framework")
    skip = pytest.mark.skip(reason="needs --framework mindspore")
    kept = []
    for item in items:
        if framework == "mindspore" and "model" not in item.keywords:
            continue
        if framework == "torch" and "mindspore_only" in item.keywords:
            item.add_marker(skip)
        kept.append(item)
    items[:] = sorted(kept, key=lambda item: _group(item.nodeid) != "msrun")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give whole groups to the processes, in the order of collection.

    A scheduler of our own, because `--dist loadgroup` of pytest-xdist 3.8 does not see the groups on pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def _group(nodeid: str) -> str:
    return _group_of_file(nodeid.split("::")[0])


@functools.cache
def _group_of_file(name: str) -> str:
    file = ROOT / name
    if "pytest.mark.msrun" in file.read_text(encoding="utf-8"):
        return "msrun"
    has_conftest = file.parent != ROOT / "tests" and (file.parent / "conftest.py").exists()
    return str(Path(name).parent) if has_conftest else name


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> backends.Backend:
    """The framework of this test process, on the CPU in float32."""
    framework = request.config.getoption("--framework")
    return backends.Choice(framework, "cpu", 0, "tests").activate(None)


@pytest.fixture(scope="session")
def torch_run() -> Iterator[forked.TorchRuns]:
    """Runs the captioning commands in one process on PyTorch, without the time that its import takes."""
    with forked.torch_runs() as runs:
        yield runs


@pytest.fixture(scope="module")
def api_forks() -> Iterator[None]:
    """`service_runs.caption` runs the command in forks, without the time that its imports take."""
    modules = ("openai", "pipeline.captioning.captioners.api.service", "pipeline.captioning.run.service.batch_worker")
    forks = forked.Forks(service_runs.COMMAND, *modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_runs, "start", forks.start)
        yield
    forks.close()
