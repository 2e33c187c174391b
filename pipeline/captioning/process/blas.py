"""Chooses the kernels of OpenBLAS, which numpy uses. Imports no numpy: it must run before numpy is imported.

OpenBLAS 0.3.23, which is part of numpy 1.26, chooses its kernels by the model of the CPU. For models that are newer
than itself it uses kernels for SSE3, which take about five times as long as those for AVX-512.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_VARIABLE = "OPENBLAS_CORETYPE"
_KERNELS = (
    ("SKYLAKEX", {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    ("HASWELL", {"avx2", "fma"}),
)
"""Names of kernels, best first, and the CPU features that they need."""


def choose_kernels(
    environment: MutableMapping[str, str] = os.environ, cpu_info: Path = Path("/proc/cpuinfo")
) -> str | None:
    """Let OpenBLAS use the best kernels that the CPU can run, if `environment` does not choose them.

    cpu_info: a file in Linux's format.

    Returns:
        The chosen kernels; None if OpenBLAS chooses them: the file is missing, or the CPU is not an x86 CPU with AVX2.
    """
    if _VARIABLE in environment:
        return environment[_VARIABLE]
    features = _features(cpu_info)
    for kernels, needed in _KERNELS:
        if needed <= features:
            environment[_VARIABLE] = kernels
            return kernels
    return None


def _features(cpu_info: Path) -> set[str]:
    """The features of the first CPU."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
