from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.captioning.process.blas import choose_kernels

_AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("features", "kernels"),
    [
        (f"fpu sse2 avx2 fma {_AVX512} avx512_bf16", "SKYLAKEX"),
        ("fpu sse2 avx2 fma avx512f avx512cd", "HASWELL"),  # Xeon Phi has only a part of AVX-512
        ("fpu sse2 avx fma", None),
    ],
)
def test_the_best_kernels_that_the_cpu_can_run_are_chosen(tmp_path: Path, features: str, kernels: str | None) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nflags\t\t: {features}\nbugs\t\t:\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    environment: dict[str, str] = {}
    assert choose_kernels(environment, cpu_info) == kernels
    assert environment == ({"OPENBLAS_CORETYPE": kernels} if kernels else {})


def test_openblas_chooses_on_other_cpus_and_users_choose_first(tmp_path: Path) -> None:
    arm = tmp_path / "cpuinfo"
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    environment: dict[str, str] = {}
    assert choose_kernels(environment, arm) is choose_kernels(environment, tmp_path / "missing") is None
    assert choose_kernels({"OPENBLAS_CORETYPE": "ZEN"}, arm) == "ZEN"
    assert environment == {}


def test_the_choice_is_made_before_numpy_is_imported() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    program = "import sys, os, pipeline.captioning; print('numpy' in sys.modules, os.environ.get('OPENBLAS_CORETYPE'))"
    output = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert output.stdout.decode().split() == ["False", str(choose_kernels({}))]
