"""Tiny checkpoints of all families, written once for the tests of this folder."""

from __future__ import annotations

import pytest

from pipeline.captioning.backends import Backend
from tests import tiny_families, tiny_llava_qwen
from tests.tiny_families import Family
from tests.tiny_llava_qwen import Checkpoints


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> dict[str, Family]:
    """By name; `backend` activates the framework of this process before anything imports it."""
    return tiny_families.run(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="session")
def llava_video(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Checkpoints:
    """LLaVA-Video in its publishers' layout."""
    return tiny_llava_qwen.run(tmp_path_factory.mktemp("llava_qwen"))
