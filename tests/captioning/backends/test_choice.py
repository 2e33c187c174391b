"""The choice of framework and device before a framework is imported; a missing device is a usage error."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.captioning import backends
from pipeline.captioning.backends import choose
from pipeline.captioning.process.errors import UsageError

TORCH_NPU = """
import types
import torch

torch.npu = types.SimpleNamespace(
    is_available=lambda: True,
    device_count=lambda: 2,
    set_device=lambda index: torch.npu.calls.append(("set_device", index)),
    is_bf16_supported=lambda: True,
    matmul=types.SimpleNamespace(allow_hf32=True),
    conv=types.SimpleNamespace(allow_hf32=True),
    synchronize=lambda: torch.npu.calls.append("synchronize"),
    empty_cache=lambda: torch.npu.calls.append("empty_cache"),
    reset_peak_memory_stats=lambda: None,
    mem_get_info=lambda: (1000, 4000),
    memory_reserved=lambda: 500,
    memory_allocated=lambda: 300,
    max_memory_allocated=lambda: 700,
    calls=[],
)
"""


@pytest.fixture
def no_ascend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_has_ascend", lambda: False)


@pytest.fixture
def torch_npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host with NPUs and a package torch_npu, which defines `torch.npu` when it is imported."""
    import torch

    (tmp_path / "torch_npu.py").write_text(TORCH_NPU)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch, "npu", None, raising=False)
    monkeypatch.setattr(backends, "_has_ascend", lambda: True)
    yield
    sys.modules.pop("torch_npu", None)


@pytest.mark.parametrize(
    ("framework", "device", "message"),
    [
        ("torch", "ascend", "on Ascend use mindspore, or give --device npu"),
        ("mindspore", "npu", "give --device ascend, or --framework torch"),
        ("mindspore", "cuda", "on CUDA use --framework torch"),
        ("torch", "npu", "torch_npu, which brings PyTorch to Ascend, is not installed"),
        (None, "npu", "torch_npu, which brings PyTorch to Ascend, is not installed"),
    ],
)
def test_pairs_that_can_not_be_combined(no_ascend: None, framework: str | None, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        choose(framework, device, "plain")


def test_the_launcher_has_priority_over_the_hardware(torch_npu: None) -> None:
    choices = {
        (launcher, framework): choose(framework, None, launcher)
        for launcher, framework in (("plain", None), ("plain", "torch"), ("torchrun", None), ("msrun", None))
    }
    assert [(choice.framework, choice.device) for choice in choices.values()] == [
        ("mindspore", "ascend"),
        ("torch", "npu"),
        ("torch", "npu"),
        ("mindspore", "ascend"),
    ]
    assert "not been tested" in choices["torchrun", None].reason
    assert "not been tested" not in choices["msrun", None].reason


def test_pytorch_without_torch_npu_uses_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_has_ascend", lambda: True)
    monkeypatch.setattr(backends, "_has_cuda", lambda: False)
    assert choose("torch", None, "plain").device == "cpu"


def test_pytorch_on_npus(torch_npu: None) -> None:
    import torch

    backend = choose("torch", None, "torchrun", 1, 4, 2).activate(None)
    assert (backend.framework, backend.device, backend.dtype_name) == ("torch", "npu:1", "bfloat16")
    assert backend.is_accelerator and ("set_device", 1) in torch.npu.calls
    assert backend.available_memory() == 1000 + 500 - 300, "memory reserved for new tensors is available"
    assert backend.peak_memory() == 700
    assert backend.peak_during(lambda: torch.npu.calls.append("work")) == 700 - 300
    backend.release_memory()
    assert torch.npu.calls[1:] == ["synchronize", "work", "synchronize", "empty_cache"]
    assert torch.npu.conv.allow_hf32, "bfloat16 does not need the change"
    assert choose("torch", "npu", "plain").activate("float32").dtype_name == "float32"
    assert not torch.npu.conv.allow_hf32 and not torch.npu.matmul.allow_hf32


def test_each_device_has_its_collectives_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as distributed

    from pipeline.captioning.workers.collectives import TorchCollectives

    backend_names: list[str] = []
    monkeypatch.setattr(distributed, "init_process_group", backend_names.append)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for device in ("npu:1", "cuda:0", "cpu"):
        TorchCollectives(device)
    assert backend_names == ["hccl", "nccl", "gloo"]


@pytest.fixture
def two_gpus(no_ascend: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """PyTorch sees two GPUs; returns the devices that were selected."""
    import torch

    selected: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    return selected


def test_a_rank_without_a_local_rank_uses_no_gpu(no_ascend: None) -> None:
    with pytest.raises(UsageError, match=r"LOCAL_RANK is not set: .* start 4 workers with torchrun, or export"):
        choose("torch", "cuda", "torchrun", None, 4)
    assert choose("torch", "cuda", "torchrun", None, 1).index == 0
    assert choose("torch", "cpu", "torchrun", None, 4).index == 0


@pytest.mark.parametrize(("local_rank", "local_workers"), [(0, 3), (2, 3), (2, None)])
def test_more_workers_than_gpus(two_gpus: list[int], local_rank: int, local_workers: int | None) -> None:
    """Every rank of the host detects it, also the first one, which reports it."""
    with pytest.raises(UsageError, match="3 workers on this host need a cuda device each, but PyTorch sees 2;"):
        choose("torch", "cuda", "torchrun", local_rank, 6, local_workers).activate(None)
    assert not two_gpus


def test_each_worker_uses_a_different_gpu(two_gpus: list[int]) -> None:
    started = [choose("torch", "cuda", "torchrun", rank, 2, 2).activate(None) for rank in range(2)]
    assert [backend.device for backend in started] == ["cuda:0", "cuda:1"] and two_gpus == [0, 1]
    assert {backend.dtype_name for backend in started} == {"bfloat16"}


def test_no_gpu(no_ascend: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda: PyTorch sees no CUDA device; check the driver"):
        choose("torch", "cuda", "plain").activate(None)


def test_float32_on_cuda_is_not_rounded(two_gpus: list[int]) -> None:
    import torch

    def switches() -> tuple[bool, bool, str]:
        matmul = torch.get_float32_matmul_precision()
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, matmul

    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        choose("torch", "cuda", "plain").activate(None)
        assert switches() == (True, True, "high"), "16-bit types do not need the change"
        choose("torch", "cuda", "plain").activate("float32")
        assert switches() == (False, False, "highest")
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
