"""Freed memory is reused: a second allocation of the same size causes no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from pipeline.captioning.backends.host_memory import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
for _ in range(20):
    held = [np.ones(20 * 2**20, np.uint8) for _ in range(5)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_reused_memory_causes_fewer_page_faults() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("", "reuse")
    ]
    assert faults[1] < faults[0] / 2, faults
