"""The framework under the model code: PyTorch itself, or MindSpore under mindnlp's torch API.

Chosen once, before the first `import torch`, from the flags, the launcher and the hardware; `choose`
imports nothing, `Choice.activate` does. What differs between the two lives in this package.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import memory_errors

if TYPE_CHECKING:
    import torch

FRAMEWORKS = ("mindspore", "torch")
DEVICES = ("ascend", "cuda", "cpu")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Choice:
    """Which framework and device, and why; nothing is imported yet.

    device: one of DEVICES.
    index: number of the device on its host.
    joins: the framework joins msrun's cluster as it starts.
    workers: of the run; on a CPU they share the host's memory.
    """

    framework: str
    device: str
    index: int
    reason: str
    joins: bool = False
    workers: int = 1

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

    def synchronize(self) -> None:
        """Wait until an accelerator has computed all that it was given."""
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        elif self.device.startswith("npu"):
            torch.npu.synchronize()  # mindnlp's

    def available_memory(self) -> int:
        """Bytes of the device that may still be used: on a CPU a quarter of this worker's share."""
        import torch

        if self.device.startswith("cuda"):
            unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return int(torch.cuda.mem_get_info()[0] + unused)
        if self.device.startswith("npu"):
            return int(torch.npu.mem_get_info()[0])  # mindnlp's
        import psutil

        return int(psutil.virtual_memory().available // self.workers // 4)

    def peak_memory(self) -> int:
        """Most bytes of an accelerator that tensors have taken so far; 0 on a CPU."""
        import torch

        if self.device.startswith("cuda"):
            return int(torch.cuda.max_memory_allocated())
        return int(torch.npu.max_memory_allocated()) if self.device.startswith("npu") else 0

    def peak_during(self, work: Callable[[], None]) -> int:
        """Most bytes of an accelerator that `work` takes beside what is taken already."""
        import torch

        device = torch.cuda if self.device.startswith("cuda") else torch.npu
        self.synchronize()
        before = int(device.memory_allocated())
        device.reset_peak_memory_stats()
        work()
        self.synchronize()
        return int(device.max_memory_allocated()) - before

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that memory is used up; with fewer clips at once there may be enough."""
        return memory_errors.is_out_of_memory(error)

    def release_memory(self) -> None:
        """Give cached device memory back after an error of the kind above."""
        import gc

        import torch

        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif self.device.startswith("npu"):
            torch.npu.empty_cache()  # mindnlp's


def choose(framework: str | None, device: str | None, launcher: str, local_rank: int = 0, workers: int = 1) -> Choice:
    """Pick framework and device; flags that are None are chosen here.

    launcher: `msrun`, `torchrun` or `plain`.
    workers: of the run.

    Raises:
        UsageError: the two do not go together, or the framework is not installed.
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
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is not installed; run scripts/setup.sh, or choose another --framework")
    if device is None:
        device = _accelerator(framework) or "cpu"
    if (framework, device) in (("mindspore", "cuda"), ("torch", "ascend")):
        raise UsageError(f"--device {device} does not go with {framework}; on Ascend use mindspore, on CUDA torch")
    return Choice(framework, device, local_rank, reason, joins=launcher == "msrun", workers=workers)


def _choose_framework(device: str | None, launcher: str) -> tuple[str, str]:
    if launcher == "msrun":
        return "mindspore", "started by msrun"
    if launcher == "torchrun":
        return "torch", "started by torchrun"
    if device == "ascend" or (device is None and _has_ascend()):
        return "mindspore", "an Ascend device"
    if importlib.util.find_spec("torch") is not None:
        return "torch", "a plain process without Ascend device; --framework mindspore for the other"
    return "mindspore", "PyTorch is not installed"


def _accelerator(framework: str) -> str | None:
    if framework == "mindspore":
        return "ascend" if _has_ascend() else None
    return "cuda" if _has_cuda() else None


def _has_ascend() -> bool:
    return bool(glob.glob("/dev/davinci[0-9]*"))


def _has_cuda() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg"))
