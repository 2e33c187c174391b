"""Starts MindSpore with mindnlp's torch API, on Ascend NPUs or on the CPU."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from .host_memory import reuse_freed_memory

if TYPE_CHECKING:
    from . import Backend, Choice


def activate(choice: Choice, dtype: str | None, own_operators: bool = True) -> Backend:
    """Import MindSpore on the chosen device, then mindnlp. Afterwards `import torch` imports mindnlp's torch API.

    dtype: one of DTYPES, or None for the default of the device.
    own_operators: replace the operators listed in `mindspore_cpu`; False only to measure the effect of the replacement.
    """
    from . import Backend

    os.environ.setdefault("GLOG_v", "3")  # errors only; MindSpore logs about 27 warnings at every start
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=r"mindspore|mindnlp|mindtorch|diffusers|transformers")
    import mindspore

    if choice.device == "ascend":
        # Without a device id, MindSpore assigns the visible devices of a host to the workers of msrun; a single
        # process gets the first device.
        mindspore.set_device("Ascend")
        if dtype == "float32":
            # By default CANN rounds float32 to HF32 in convolutions, but not in other products.
            mindspore.device_context.ascend.op_precision.conv_allow_hf32(False)
    else:
        mindspore.set_device("CPU")
    if choice.joins_cluster:
        # Before anything starts MindSpore's runtime: `init` determines the device of each worker.
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

    # The 910A and the 310P have no bfloat16; the 310P is missing in mindnlp's table.
    return "bfloat16" if SUPPORT_BF16 and "310p" not in SOC else "float16"


def _has_fused_attention() -> bool:
    """Whether mindnlp's attention with a mask is a fused kernel. Otherwise it consists of single operators, which round
    the scores to the model's dtype and compute the softmax in this type."""
    from mindtorch.configs import ON_A2

    return bool(ON_A2)
