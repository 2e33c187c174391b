"""The settings for each kind of NPU on an Ascend host. MindSpore itself stays on the CPU in these tests."""

from __future__ import annotations

import pytest

from pipeline.captioning.backends import Backend, Choice

pytestmark = [pytest.mark.model, pytest.mark.mindspore_only]


@pytest.fixture
def hf32_settings(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A host with NPUs; returns the values that were set for `conv_allow_hf32`."""
    import mindspore
    import torch

    from pipeline.captioning.backends import kernels

    values: list[bool] = []
    monkeypatch.setattr(mindspore, "set_device", lambda device: None)
    monkeypatch.setattr(mindspore.device_context.ascend.op_precision, "conv_allow_hf32", values.append)
    monkeypatch.setattr(kernels, "fused_types", (torch.bfloat16, torch.float16))
    return values


@pytest.mark.parametrize(
    ("soc", "has_bfloat16", "is_fused", "dtype"),
    [
        ("ascend910b", True, True, "bfloat16"),
        ("ascend910", False, False, "float16"),
        ("ascend310p", True, False, "float16"),
    ],
)
def test_the_kind_of_npu_determines_dtype_and_kernel(
    hf32_settings: list[bool], monkeypatch: pytest.MonkeyPatch, soc: str, has_bfloat16: bool, is_fused: bool, dtype: str
) -> None:
    from mindtorch import configs

    from pipeline.captioning.backends import kernels

    monkeypatch.setattr(configs, "SOC", soc)
    monkeypatch.setattr(configs, "SUPPORT_BF16", has_bfloat16)
    monkeypatch.setattr(configs, "ON_A2", soc == "ascend910b")
    chosen = Choice("mindspore", "ascend", 0, "tests").activate(None)
    assert (chosen.device, chosen.dtype_name) == ("npu:0", dtype)
    assert bool(kernels.fused_types) == is_fused, "mindnlp runs a fused kernel only on the 910B and 910_93"
    assert not hf32_settings


def test_float32_on_ascend_is_not_rounded(hf32_settings: list[bool]) -> None:
    assert Choice("mindspore", "ascend", 0, "tests").activate("float32").dtype_name == "float32"
    assert hf32_settings == [False]
