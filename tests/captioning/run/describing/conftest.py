"""Videos that the tests of descriptions share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import render_clip


@pytest.fixture(scope="package")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos of 3, 2 and 1 s."""
    folder = tmp_path_factory.mktemp("videos")
    return [render_clip(folder / f"{name}.mp4", n, 8 * (3 - n)) for n, name in enumerate("abc")]
