"""Which framework the model tests run on: one a process, for mindnlp takes `import torch` over."""

from __future__ import annotations

import pytest

from pipeline.captioning import backends


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--framework", choices=backends.FRAMEWORKS, default="torch", help="for tests marked `model`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On MindSpore run the model tests only; the others do not touch the framework."""
    framework = config.getoption("--framework")
    skip = pytest.mark.skip(reason="needs --framework mindspore")
    kept = []
    for item in items:
        if framework == "mindspore" and "model" not in item.keywords:
            continue
        if framework == "torch" and "mindspore_only" in item.keywords:
            item.add_marker(skip)
        kept.append(item)
    items[:] = kept


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> backends.Backend:
    """The framework of this test process, on the CPU in float32."""
    framework = request.config.getoption("--framework")
    return backends.Choice(framework, "cpu", 0, "tests").activate(None)
