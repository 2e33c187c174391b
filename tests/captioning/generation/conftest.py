"""Fixtures for the engine's tests: tiny models, and the reference answers from transformers."""

from __future__ import annotations

import pytest

from pipeline.captioning.backends import Backend

from . import reference
from .checked_engine import Setup, text_model
from .reference import Case
from .text_models import MODELS


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    return reference.run(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module", params=MODELS)
def setup(request: pytest.FixtureRequest, backend: Backend, references: dict[str, list[Case]]) -> Setup:
    return Setup(text_model(request.param), backend, references[request.param])


@pytest.fixture(scope="module")
def llama(backend: Backend, references: dict[str, list[Case]]) -> Setup:
    return Setup(text_model("llama"), backend, references["llama"])


@pytest.fixture(params=[True, False])
def with_prefix(request: pytest.FixtureRequest, backend: Backend) -> bool:
    """Whether the engine has a shared prefix."""
    if backend.framework == "mindspore" and not request.param:
        pytest.skip("too slow on MindSpore; some of the fixed schedules have no prefix")
    return bool(request.param)
