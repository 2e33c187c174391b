"""The framework under the model code: PyTorch itself, or MindSpore under mindnlp's torch API.

Chosen once, before the first `import torch`, from the flags, the launcher and the hardware; `choose`
imports nothing, `Choice.activate` does. What differs between the two lives in this package.
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
    """Which framework and device, and why; nothing is imported yet.

    device: one of DEVICES.
    index: number of the device on its host.
    joins: the framework joins msrun's cluster as it starts.
    workers: of the run; on a CPU they share the host's memory.
    local_workers: of them on this host, as far as is known; each needs a device of its own.
    """

    framework: str
    device: str
    index: int
    reason: str
    joins: bool = False
    workers: int = 1
    local_workers: int = 1

    def activate(self, dtype: str | None) -> Backend:
        """Import the framework. dtype: one of DTYPES, or None for the device's own."""
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

    device: where the model goes, in torch's notation.
    workers: how many share the memory of a CPU device at most.
    reason: why this framework was chosen.
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
        """Whether the device computes beside the host, with memory of its own."""
        return self.device != "cpu"

    @property
    def check_every(self) -> int:
        """Decoding steps between two looks at what has ended: an accelerator waits while the host looks."""
        return 4 if self.is_accelerator else 1

    @property
    def prefill_tokens(self) -> int:
        """Prompts are prefilled together up to so many tokens: a CPU's caches bear no more, and an
        accelerator is busy with so many."""
        return 8192 if self.is_accelerator else 2048

    @property
    def _memory(self) -> Any:
        """The module of an accelerator's memory figures; torch_npu's and mindnlp's have the names of PyTorch's."""
        import torch

        return torch.cuda if self.device.startswith("cuda") else torch.npu

    def synchronize(self) -> None:
        """Wait until an accelerator has computed all that it was given."""
        if self.is_accelerator:
            self._memory.synchronize()

    def available_memory(self) -> int:
        """Bytes of the device that may still be used: on a CPU a quarter of this worker's share."""
        if not self.is_accelerator:
            import psutil

            return int(psutil.virtual_memory().available // self.workers // 4)
        free = int(self._memory.mem_get_info()[0])
        if self.framework == "mindspore":
            return free
        # PyTorch keeps what tensors have given back.
        return free + int(self._memory.memory_reserved() - self._memory.memory_allocated())

    def peak_memory(self) -> int:
        """Most bytes of an accelerator that tensors have taken so far; 0 on a CPU."""
        return int(self._memory.max_memory_allocated()) if self.is_accelerator else 0

    def peak_during(self, work: Callable[[], None]) -> int:
        """Most bytes of an accelerator that `work` takes beside what is taken already."""
        self.synchronize()
        before = int(self._memory.memory_allocated())
        self._memory.reset_peak_memory_stats()
        work()
        self.synchronize()
        return int(self._memory.max_memory_allocated()) - before

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that memory is used up; with fewer clips at once there may be enough."""
        return memory_errors.is_out_of_memory(error)

    def release_memory(self) -> None:
        """Give cached device memory back after an error of the kind above."""
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
    """Pick framework and device; flags that are None are chosen here.

    launcher: `msrun`, `torchrun` or `plain`.
    local_rank: among the workers of this host; None if the environment does not tell.
    workers: of the run; local_workers: of them on this host, None if the environment does not tell.

    Raises:
        UsageError: the two do not go together, the framework is not installed, or several workers would take the
            same device.
    """
    if framework is None:
        framework, reason = _choose_framework(device, launcher)
    else:
        reason = "--framework"
    if launcher == "msrun" and framework != "mindspore":
        raise UsageError("--framework torch can't run under msrun; start it with torchrun, or as one plain process")
    if launcher == "torchrun" and framework != "torch":
        raise UsageError("--framework mindspore can't run under torchrun; start it with msrun")
    for package in ("mindspore", "mindnlp") if framework == "mindspore" else ("torch",):
        if not _is_installed(package):
            raise UsageError(f"{package} is not installed; run scripts/setup.sh, or choose another --framework")
    if device is None:
        device = _accelerator(framework) or "cpu"
    _check_pair(framework, device)
    if device == "npu":
        reason += "; PyTorch on NPUs has not been proven on hardware"
    if local_rank is None and workers > 1 and device != "cpu":
        raise UsageError(
            f"LOCAL_RANK is not set: all workers of a host would take its first {device} device; start {workers} "
            "workers with torchrun, or export LOCAL_RANK for each (under Slurm it is $SLURM_LOCALID)"
        )
    index = local_rank or 0
    most = max(index + 1, local_workers or 1)
    return Choice(framework, device, index, reason, launcher == "msrun", workers, most)


def _check_pair(framework: str, device: str) -> None:
    refused = {
        ("mindspore", "cuda"): "on CUDA use --framework torch",
        ("mindspore", "npu"): "that is PyTorch's name for it: give --device ascend, or --framework torch",
        ("torch", "ascend"): "on Ascend use mindspore, or give --device npu, which is PyTorch's name for it",
    }
    if (framework, device) in refused:
        raise UsageError(f"--device {device} does not go with {framework}; {refused[framework, device]}")
    if device == "npu" and not _is_installed("torch_npu"):
        raise UsageError(
            "--device npu: torch_npu, which brings PyTorch to Ascend, is not installed; install the release that goes "
            "with the installed PyTorch, or use --framework mindspore --device ascend"
        )


def _choose_framework(device: str | None, launcher: str) -> tuple[str, str]:
    if launcher == "msrun":
        return "mindspore", "started by msrun"
    if launcher == "torchrun":
        return "torch", "started by torchrun"
    if device == "npu":
        return "torch", "--device npu"
    if device == "ascend" or (device is None and _has_ascend()):
        return "mindspore", "an Ascend device"
    if _is_installed("torch"):
        return "torch", "a plain process without Ascend device; --framework mindspore for the other"
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
