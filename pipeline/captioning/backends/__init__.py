"""The framework of the model code: PyTorch, or MindSpore through mindnlp's torch API.

It is chosen once, before the first `import torch`, from the flags, the launcher and the hardware. `choose` imports no
framework, `Choice.activate` does. All code that differs between the frameworks is in this package.
"""

from __future__ import annotations

import dataclasses
import gc
import glob
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..process.errors import UsageError
from . import memory_errors

if TYPE_CHECKING:
    import torch

FRAMEWORKS = ("mindspore", "torch")
DEVICES = ("ascend", "npu", "cuda", "cpu")
"""`ascend` is MindSpore's name for an NPU, `npu` PyTorch's (through torch_npu)."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Choice:
    """The chosen framework and device, before the framework is imported.

    framework: one of FRAMEWORKS.
    device: one of DEVICES.
    index: index of the device on its host.
    reason: why this framework was chosen, for the log.
    joins_cluster: whether the framework must join msrun's cluster when it starts.
    workers: number of workers of the run; on a CPU they share the host's memory.
    local_workers: number of workers on this host, as far as it is known; each needs a device of its own.
    """

    framework: str
    device: str
    index: int
    reason: str
    joins_cluster: bool = False
    workers: int = 1
    local_workers: int = 1

    def activate(self, dtype: str | None) -> Backend:
        """Import the framework. dtype: one of DTYPES, or None for the default of the device."""
        if self.framework == "mindspore":
            from . import mindspore_backend

            backend = mindspore_backend.activate(self, dtype)
        else:
            from . import torch_backend

            backend = torch_backend.activate(self, dtype)
        return dataclasses.replace(backend, reason=self.reason)


@dataclass(frozen=True)
class Backend:
    """An imported framework, ready for `import torch`.

    framework: one of FRAMEWORKS.
    device: the model's device, in torch's notation.
    dtype_name: one of DTYPES.
    workers: maximum number of workers that share the memory if the device is a CPU.
    reason: why this framework was chosen, for the log.
    """

    framework: str
    device: str
    dtype_name: str
    workers: int = 1
    reason: str = ""

    @property
    def dtype(self) -> torch.dtype:
        import torch

        dtype: Any = getattr(torch, self.dtype_name)
        return dtype

    @property
    def is_accelerator(self) -> bool:
        """Whether the device is a GPU or an NPU: it has its own memory, and computes while the host continues."""
        return self.device != "cpu"

    @property
    def check_every(self) -> int:
        """Decoding steps between two checks for ended answers: an accelerator is idle while the host checks."""
        return 4 if self.is_accelerator else 1

    @property
    def prefill_tokens(self) -> int:
        """Maximum number of tokens in one prefill: more do not fit into a CPU's caches, and this many are enough to
        keep an accelerator busy."""
        return 8192 if self.is_accelerator else 2048

    @property
    def _memory(self) -> Any:
        """The module with an accelerator's memory functions; torch_npu and mindnlp use the same names as PyTorch."""
        import torch

        return torch.cuda if self.device.startswith("cuda") else torch.npu

    def synchronize(self) -> None:
        """Wait until an accelerator has finished all its work."""
        if self.is_accelerator:
            self._memory.synchronize()

    def available_memory(self) -> int:
        """Bytes of device memory that can still be used; on a CPU a quarter of this worker's share."""
        if not self.is_accelerator:
            import psutil

            return int(psutil.virtual_memory().available // self.workers // 4)
        free = int(self._memory.mem_get_info()[0])
        if self.framework == "mindspore":
            return free
        # PyTorch keeps the memory of freed tensors reserved for new ones.
        return free + int(self._memory.memory_reserved() - self._memory.memory_allocated())

    def peak_memory(self) -> int:
        """Peak bytes of tensors on an accelerator so far; 0 on a CPU."""
        return int(self._memory.max_memory_allocated()) if self.is_accelerator else 0

    def peak_during(self, work: Callable[[], None]) -> int:
        """Peak bytes that `work` takes on an accelerator, in addition to those already in use."""
        self.synchronize()
        before = int(self._memory.memory_allocated())
        self._memory.reset_peak_memory_stats()
        work()
        self.synchronize()
        return int(self._memory.max_memory_allocated()) - before

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` is an out-of-memory error; fewer clips in flight may fit."""
        return memory_errors.is_out_of_memory(error)

    def release_memory(self) -> None:
        """Free cached device memory, after an out-of-memory error or a rehearsal."""
        gc.collect()
        if self.is_accelerator:
            self._memory.empty_cache()


def choose(
    framework: str | None,
    device: str | None,
    launcher: str,
    local_rank: int | None = 0,
    workers: int = 1,
    local_workers: int | None = None,
) -> Choice:
    """Choose framework and device. Values of None are chosen here, others are checked.

    framework: one of FRAMEWORKS, or None. device: one of DEVICES, or None.
    launcher: `msrun`, `torchrun` or `plain`.
    local_rank: rank among the workers of this host; None if the environment does not contain it.
    workers: number of workers of the run.
    local_workers: number of workers on this host; None if the environment does not contain it.

    Raises:
        UsageError: launcher, framework and device can't be combined, a package is not installed, or several workers
            would use the same device.
    """
    if framework is None:
        framework, reason = _choose_framework(device, launcher)
    else:
        reason = "--framework"
    if launcher == "msrun" and framework != "mindspore":
        raise UsageError("--framework torch can't run under msrun; start it with torchrun, or as a single process")
    if launcher == "torchrun" and framework != "torch":
        raise UsageError("--framework mindspore can't run under torchrun; start it with msrun")
    for package in ("mindspore", "mindnlp") if framework == "mindspore" else ("torch",):
        if not _is_installed(package):
            raise UsageError(f"{package} is not installed; run scripts/setup.sh, or give another --framework")
    if device is None:
        device = _accelerator(framework) or "cpu"
    _check_pair(framework, device)
    if device == "npu":
        reason += "; PyTorch on NPUs has not been tested on hardware"
    if local_rank is None and workers > 1 and device != "cpu":
        raise UsageError(
            f"LOCAL_RANK is not set: all workers of a host would use its first {device} device; start {workers} "
            "workers with torchrun, or export LOCAL_RANK for each worker (under Slurm it is $SLURM_LOCALID)"
        )
    index = local_rank or 0
    known_local_workers = max(index + 1, local_workers or 1)
    return Choice(framework, device, index, reason, launcher == "msrun", workers, known_local_workers)


def _check_pair(framework: str, device: str) -> None:
    fixes = {
        ("mindspore", "cuda"): "on CUDA use --framework torch",
        ("mindspore", "npu"): "npu is PyTorch's name for an NPU; give --device ascend, or --framework torch",
        ("torch", "ascend"): "on Ascend use mindspore, or give --device npu, which is PyTorch's name for an NPU",
    }
    if (framework, device) in fixes:
        raise UsageError(f"--device {device} can't be combined with {framework}; {fixes[framework, device]}")
    if device == "npu" and not _is_installed("torch_npu"):
        raise UsageError(
            "--device npu: torch_npu, which brings PyTorch to Ascend, is not installed; install the release for the "
            "installed PyTorch, or use --framework mindspore --device ascend"
        )


def _choose_framework(device: str | None, launcher: str) -> tuple[str, str]:
    if launcher == "msrun":
        return "mindspore", "started by msrun"
    if launcher == "torchrun":
        return "torch", "started by torchrun"
    if device == "npu":
        return "torch", "--device npu"
    if device == "ascend" or (device is None and _has_ascend()):
        return "mindspore", "the device is an Ascend NPU"
    if _is_installed("torch"):
        return "torch", "a single process without an Ascend device; --framework mindspore selects MindSpore"
    return "mindspore", "PyTorch is not installed"


def _accelerator(framework: str) -> str | None:
    if framework == "mindspore":
        return "ascend" if _has_ascend() else None
    if _has_ascend() and _is_installed("torch_npu"):
        return "npu"
    return "cuda" if _has_cuda() else None


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _has_ascend() -> bool:
    return bool(glob.glob("/dev/davinci[0-9]*"))


def _has_cuda() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg"))
