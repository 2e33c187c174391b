"""Models of any family are filled completely on both frameworks, with tied heads and computed buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.safetensors_files import StoredTensor
from pipeline.captioning.captioners.weights import CheckpointWeights, WeightNames
from pipeline.captioning.process.errors import RunError, UsageError

pytestmark = pytest.mark.model

NAMES = WeightNames((), lambda name: False)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 24,
    "max_position_embeddings": 128,
}


def _llama(settings: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**TEXT, **settings))


def _linear(_: None) -> Any:
    from torch import nn

    return nn.Linear(3, 2)


def _filled(build: Any, config: Any) -> Any:
    """A model with random weights and computed buffers."""
    import torch

    from pipeline.captioning.captioners.loading import fill_model, meta_model

    rng = np.random.default_rng(0)
    return fill_model(
        meta_model(build, config),
        "cpu",
        lambda name, shape: torch.from_numpy(rng.normal(0, 0.2, tuple(shape)).astype(np.float32)),
    )


def _same_buffers(filled: Any, built: Any) -> None:
    expected = dict(built.named_buffers())
    found = dict(filled.named_buffers())
    assert expected and set(found) == set(expected)
    for name, buffer in found.items():
        assert buffer.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(buffer.numpy(), expected[name].numpy(), err_msg=name)


def test_grouped_and_tied_shapes_are_those_of_the_config(backend: Backend) -> None:
    from pipeline.captioning.captioners.loading import meta_model, weight_shapes

    grouped = weight_shapes(meta_model(_llama, {"num_key_value_heads": 2, "tie_word_embeddings": False}))
    assert grouped["model.layers.1.self_attn.q_proj.weight"] == (32, 32)
    assert grouped["model.layers.1.self_attn.k_proj.weight"] == (16, 32)
    assert grouped["lm_head.weight"] == grouped["model.embed_tokens.weight"] == (24, 32)
    tied = weight_shapes(meta_model(_llama, {"num_key_value_heads": 2, "tie_word_embeddings": True}))
    assert set(grouped) - set(tied) == {"lm_head.weight"} and len(grouped) == len(tied) + 1


def test_a_tied_head_stays_tied(backend: Backend) -> None:
    model = _filled(_llama, {"tie_word_embeddings": True})
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    untied = _filled(_llama, {"tie_word_embeddings": False})
    assert np.abs(untied.lm_head.weight.numpy() - untied.model.embed_tokens.weight.numpy()).max() > 0.1


@pytest.mark.parametrize(
    "rope_scaling",
    [
        None,
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
def test_buffers_of_a_text_model_follow_its_config(backend: Backend, rope_scaling: dict[str, Any] | None) -> None:
    settings = {"rope_scaling": rope_scaling, "rope_theta": 5000.0}
    filled, built = _filled(_llama, settings), _llama(settings)
    _same_buffers(filled, built)
    assert filled.model.rotary_emb.attention_scaling == built.model.rotary_emb.attention_scaling


def test_buffers_of_vision_towers_are_computed(backend: Backend) -> None:
    """CLIP has positions. Qwen's tower has a rotary module without a config, its text model one in every layer."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPVisionConfig(**tower, image_size=28, patch_size=14)
    _same_buffers(_filled(CLIPVisionModel, clip), CLIPVisionModel(clip))
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    text = TEXT | {"num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    qwen = Qwen2_5_VLConfig(vision_config=vision, text_config=text)
    filled = _filled(Qwen2_5_VLForConditionalGeneration, qwen)
    assert sum(name.endswith("inv_freq") for name, _ in filled.named_buffers()) == 4  # tower, text model, its layers
    _same_buffers(filled, Qwen2_5_VLForConditionalGeneration(qwen))


@pytest.mark.parametrize("is_buffer", [True, False])
def test_a_tensor_that_is_not_filled_is_an_error(backend: Backend, is_buffer: bool) -> None:
    import torch

    class Family(torch.nn.Module):
        def __init__(self, _: None) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 2)
            if is_buffer:
                self.inner.register_buffer("window", torch.ones(4), persistent=False)
            else:
                self.inner.window = torch.ones(4)

    with pytest.raises(RunError, match=r"^Family was not filled: inner\.window still on the meta device$"):
        _filled(Family, None)


def test_a_rotary_module_of_an_unknown_kind_is_an_error(backend: Backend) -> None:
    import torch

    class Rotary(torch.nn.Module):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.register_buffer("inv_freq", torch.ones(width), persistent=False)

    class Family(torch.nn.Module):
        def __init__(self, _: None) -> None:
            super().__init__()
            self.rotary = Rotary()

    with pytest.raises(
        RunError, match=r"rotary: Rotary can't be computed again: its frequencies are \(8,\), not \(4,\)"
    ):
        _filled(Family, None)


def _linear_weights(folder: Path, **changes: np.ndarray) -> CheckpointWeights:
    arrays = {"weight": np.full((2, 3), 0.1, np.float32), "bias": np.zeros(2, np.float32)} | changes
    save_file(arrays, folder / "model.safetensors")
    return CheckpointWeights(folder, NAMES)


def test_weights_are_loaded_and_rounded_once(tmp_path: Path, backend: Backend) -> None:
    import torch

    from pipeline.captioning.captioners.loading import load_weights, meta_model

    for dtype in (torch.float32, torch.float16):
        model = load_weights(meta_model(_linear, None), _linear_weights(tmp_path), "cpu", dtype)
        assert model.weight.dtype == dtype
        expected = np.full((2, 3), 0.1, np.float32 if dtype == torch.float32 else np.float16)
        np.testing.assert_array_equal(model.weight.numpy(), expected)


def test_weights_that_overflow_or_are_not_finite_are_an_error(tmp_path: Path, backend: Backend) -> None:
    import torch

    from pipeline.captioning.captioners.loading import load_weights, meta_model

    large = _linear_weights(tmp_path, bias=np.array([0, -1e6], np.float32))
    load_weights(meta_model(_linear, None), large, "cpu", torch.float32)
    with pytest.raises(RunError, match=r"weight bias has values up to 1e\+06, too large for float16; give --dtype"):
        load_weights(meta_model(_linear, None), large, "cpu", torch.float16)
    damaged = _linear_weights(tmp_path, bias=np.array([0, np.nan], np.float32))
    with pytest.raises(RunError, match="weight bias holds values that are not finite"):
        load_weights(meta_model(_linear, None), damaged, "cpu", torch.float32)


def test_load_weights_checks_names_and_shapes_before_it_reads(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from pipeline.captioning.captioners.loading import load_weights, meta_model

    weights = _linear_weights(tmp_path, weight=np.ones((2, 4), np.float32), extra=np.ones(1, np.float32))
    monkeypatch.setattr(StoredTensor, "read_float32", lambda self: pytest.fail("a weight was read"))
    with pytest.raises(UsageError, match=r"2 weights: unexpected: extra; misshapen: weight is \(2, 4\), .* \(2, 3\)"):
        load_weights(meta_model(_linear, None), weights, "cpu", torch.float32)
