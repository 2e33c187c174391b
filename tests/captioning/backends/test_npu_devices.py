"""On Ascend all tensors of an operator must be on one device. The emulated NPU finds violations without hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import RunError
from scripts.worker_loop import LoadedClips, generated_ids
from tests.golden import DATA, LORA_ALPHA, QUESTION, token_ids
from tests.npu_emulation import MissingOnNpuError, MixedDevicesError, emulated_npu

if TYPE_CHECKING:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

pytestmark = [pytest.mark.model, pytest.mark.mindspore_only]

TINY = Path(__file__).parents[3] / "pretrained_models" / "pllava-tiny"
CHECKPOINTS = {"mini-a": (DATA / "mini-a", LORA_ALPHA, (4, 4, 4)), "pllava-tiny": (TINY, None, None)}
GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 3},
    "nucleus": {"do_sample": True, "top_p": 0.9, "temperature": 0.7},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 2},
}


_SHAPES = ((4, 3), (2, 40), (2, 40))  # (heads, tokens) of query, key and value; two query heads share a key head


def _captioner(backend: Backend, checkpoint: str, **generation: Any) -> PllavaCaptioner:
    folder, alpha, pooling = CHECKPOINTS[checkpoint]
    options = PllavaOptions(folder, 4, Asks.single(QUESTION), "", pooling, lora_alpha=alpha)
    return PllavaSource(options, GenerationOptions(**{"max_new_tokens": 10, **generation})).load(backend)


def _clips(captioner: PllavaCaptioner) -> list[Clip]:
    size, rng = captioner._source.frame_processor.crop_size, np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, size, size, 3), np.uint8)
    indices = ((0, 1, 2, 3), (0, 0, 0, 0), (0, 0, 1, 1))
    return [Clip(row, "", frames[: index[-1] + 1], index) for row, index in enumerate(indices)]


@pytest.mark.parametrize(
    ("checkpoint", "generation"), [("mini-a", "greedy"), *(("pllava-tiny", generation) for generation in GENERATIONS)]
)
def test_captions_mix_no_devices(backend: Backend, checkpoint: str, generation: str) -> None:
    on_cpu = _captioner(backend, checkpoint, **GENERATIONS[generation])
    expected = token_ids(on_cpu, _clips(on_cpu), slots=2)
    with emulated_npu() as npu:
        captioner = _captioner(npu, checkpoint, **GENERATIONS[generation])
        assert {parameter.device.type for parameter in captioner._model.parameters()} == {"npu"}
        found = token_ids(captioner, _clips(captioner), slots=2)
        if generation == "greedy":
            captioner.max_slots()  # runs a rehearsal
    assert found == expected


def test_float16_mixes_no_devices(backend: Backend) -> None:
    """Uses the bool mask for Ascend's fused attention. Not bfloat16, because MindSpore's CPU does not support it."""
    with emulated_npu("float16") as npu:
        captioner = _captioner(npu, "pllava-tiny", max_new_tokens=4)  # MindSpore's CPU is slow in float16
        assert all(token_ids(captioner, _clips(captioner), slots=2))
        asks = Asks(tuple(Ask(name, Question(f"{name} {QUESTION}")) for name in ("Now.", "Then, in another way.")))
        answers = generated_ids(captioner, LoadedClips(_clips(captioner)), npu, 2, asks=asks)
        assert len(answers) == 6 and all(answers.values())


def test_mindnlp_reads_the_bool_mask_as_intended(backend: Backend) -> None:
    import torch

    from pipeline.captioning.backends import kernels

    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(0, 1, (2, heads, size, 16)).astype(np.float16) for heads, size in _SHAPES)
    visible = rng.random((2, 1, 3, 40)) < 0.5
    float_mask = np.where(visible, 0, kernels.MASKED).astype(np.float32)
    with emulated_npu("float16") as npu:
        tensors = [torch.from_numpy(array).to(npu.device) for array in (query, key, value)]
        mask = kernels.score_mask(torch.from_numpy(float_mask).to(npu.device), torch.float16)
        assert mask.dtype == torch.bool
        found = kernels.masked_attention(*tensors, 0.25, mask).to("cpu").numpy()
    scores = query.astype(np.float64) @ np.repeat(key, 2, 1).swapaxes(2, 3).astype(np.float64) * 0.25 + float_mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ np.repeat(value, 2, 1)
    assert np.linalg.norm(found - expected) < 0.004 * np.linalg.norm(expected)


def test_the_emulation_detects_mixed_devices(backend: Backend) -> None:
    """No error is raised for operators with tensors of one device, the NPU or the CPU."""
    import torch

    def tensors(device: str) -> tuple[Any, Any]:
        return torch.ones((3, 4)).to(device), torch.tensor([0, 2]).to(device)

    def stored(cache: Any, value: Any) -> None:
        cache[0:3] = value

    operations = {
        "add": lambda first, second, index: first + second,
        "cat": lambda first, second, index: torch.cat([first, second]),
        "where": lambda first, second, index: torch.where(first > 0, first, second),
        "linear": lambda first, second, index: torch.nn.functional.linear(first, second),
        "getitem": lambda first, second, index: first[index],
        "setitem": lambda first, second, index: stored(first, second),
        "gather": lambda first, second, index: torch.gather(first, 1, index[None]),
    }
    with emulated_npu() as npu:
        on_npu, npu_index = tensors(npu.device)
        on_cpu, cpu_index = tensors("cpu")
        for name, operation in operations.items():
            operation(on_npu, on_npu, npu_index)
            operation(on_cpu, on_cpu, cpu_index)
            with pytest.raises(MixedDevicesError):
                operation(on_npu, on_cpu, cpu_index)
                pytest.fail(name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("count_nonzero", (0,)), "no operator count_nonzero"),
        (("isin", None), "isin has no pyboost kernel isin"),
        (("silu", True), "silu: too many positional arguments"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_emulation_detects_missing_operators(backend: Backend, call: tuple[Any, ...], message: str) -> None:
    import torch
    from mindtorch.executor import execute

    name, *arguments = call
    with emulated_npu() as npu:
        execute("silu", torch.ones(3).to(npu.device))
        with pytest.raises(MissingOnNpuError, match=message):
            execute(name, torch.ones(3).to(npu.device), *arguments)


@pytest.mark.parametrize("misplaced", ["masks and positions of the engine", "a weight", "a buffer", "pixels"])
def test_a_tensor_on_the_wrong_device_is_detected(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, misplaced: str
) -> None:
    import torch

    from pipeline.captioning.generation.engine import SlotEngine

    with emulated_npu() as npu:
        captioner = _captioner(npu, "mini-a")
        model = captioner._model
        if misplaced == "masks and positions of the engine":
            monkeypatch.setattr(SlotEngine, "_upload", lambda self, values: torch.from_numpy(values.copy()))
        elif misplaced == "a weight":
            bias = model.multi_modal_projector.linear_1.bias
            model.multi_modal_projector.linear_1.bias = torch.nn.Parameter(bias.to("cpu"))
        elif misplaced == "a buffer":
            embeddings = model.vision_tower.vision_model.embeddings
            embeddings.position_ids = embeddings.position_ids.to("cpu")
        else:
            monkeypatch.setattr(captioner, "_backend", backend)
        with pytest.raises((RunError, RuntimeError), match="MixedDevicesError: "):
            token_ids(captioner, _clips(captioner), slots=2)
