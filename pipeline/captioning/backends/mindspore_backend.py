"""MindSpore under mindnlp's torch API: Ascend NPUs, and the CPU."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from .host_memory import reuse_freed_memory

if TYPE_CHECKING:
    from . import Backend, Choice


def activate(choice: Choice, dtype: str | None, own_operators: bool = True) -> Backend:
    """Import MindSpore on the chosen device, then mindnlp, which puts its torch API in place.

    From here on `import torch` gives mindnlp's. own_operators: see `mindspore_cpu`; without them one
    sees what they are worth.
    """
    from . import Backend

    os.environ.setdefault("GLOG_v", "3")  # errors only; MindSpore warns some 27 times at every start
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"mindspore|mindnlp|mindtorch|diffusers|transformers")
    import mindspore

    if choice.device == "ascend":
        # Without an id: MindSpore deals the visible devices of a host out to the workers of msrun, and
        # a plain process gets the first.
        mindspore.set_device("Ascend")
        if dtype == "float32":
            # By default CANN's convolutions round float32 to HF32; its other products do not.
            mindspore.device_context.ascend.op_precision.conv_allow_hf32(False)
    else:
        mindspore.set_device("CPU")
    if choice.joins:
        # Before anything can start the runtime: that settles which device is whose.
        from mindspore.communication import init

        init()
    import mindnlp  # noqa: F401

    if choice.device == "cpu" and own_operators:
        from . import mindspore_cpu

        mindspore_cpu.install()
        reuse_freed_memory()
    if choice.device == "ascend" and not _has_fused_attention():
        from . import kernels

        kernels.fused_types = ()
    if dtype is None:
        dtype = "float32" if choice.device == "cpu" else _ascend_dtype()
    return Backend(
        framework="mindspore",
        device="npu:0" if choice.device == "ascend" else "cpu",
        dtype_name=dtype,
        workers=choice.workers,
    )


def _ascend_dtype() -> str:
    from mindtorch.configs import SOC, SUPPORT_BF16

    # The 910A and the 310P have no bfloat16; mindnlp's table leaves the latter out.
    return "bfloat16" if SUPPORT_BF16 and "310p" not in SOC else "float16"


def _has_fused_attention() -> bool:
    """Whether mindnlp's attention with a mask is a fused kernel: elsewhere it multiplies, rounds the scores to the
    computing type, and its softmax is of that type too."""
    from mindtorch.configs import ON_A2

    return bool(ON_A2)
