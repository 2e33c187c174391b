"""Checkpoints of all families, in their published layouts, load without memory for a second copy and give equal logits.

The reference is `from_pretrained` on PyTorch, for both frameworks.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.families import family_of
from pipeline.captioning.captioners.hub import build
from pipeline.captioning.captioners.weights import CheckpointWeights, WeightNames
from pipeline.captioning.process.errors import UsageError
from tests import tiny_families
from tests.tiny_families import Family
from tests.tiny_family_configs import CONFIGS

pytestmark = pytest.mark.model

_TOLERANCE = 3e-5  # the frameworks differ by up to 1.7e-5 in logits around 1


def _names(folder: Path) -> WeightNames:
    family, _ = family_of(folder, None)
    return build.make_family(family.name, folder).weight_names()


def _empty(name: str, folder: Path, attention: str | None = None) -> tuple[Any, CheckpointWeights]:
    """A model without memory, and the weights of its checkpoint. attention: None for that of our engines."""
    import transformers

    from pipeline.captioning.captioners.loading import meta_model
    from pipeline.captioning.generation.attention import set_attention

    model_class = getattr(transformers, CONFIGS[name].model_class)
    config = model_class.config_class.from_pretrained(folder)
    if attention:
        config._attn_implementation = attention
    else:
        set_attention(config)
    return meta_model(model_class, config), CheckpointWeights(folder, _names(folder))


def _logits(model: Any, family: Family) -> np.ndarray:
    import torch

    with torch.no_grad():
        output = model(**{key: torch.from_numpy(value) for key, value in family.inputs.items()}, use_cache=False)
    logits: np.ndarray = output.logits.numpy()
    return logits


@pytest.mark.parametrize("attention", ["eager", None], ids=["eager", "ours"])
@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_logits_are_those_of_from_pretrained(
    families: dict[str, Family], backend: Backend, name: str, attention: str | None
) -> None:
    import torch

    from pipeline.captioning.captioners.loading import load_weights

    if backend.framework == "mindspore" and attention:
        pytest.skip("slow on MindSpore; BLIP-2's text models have eager attention in the other case")
    family = families[name]
    model, weights = _empty(name, family.folder, attention)
    loaded = load_weights(model, weights, "cpu", torch.float32)
    np.testing.assert_allclose(_logits(loaded, family), family.logits, rtol=0, atol=_TOLERANCE)


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_buffers_are_those_of_a_built_model(families: dict[str, Family], name: str) -> None:
    """Rotary frequencies of every module and positions; kept in float32 when the weights are in bfloat16."""
    import torch

    from pipeline.captioning.captioners.loading import load_weights

    model, weights = _empty(name, families[name].folder)
    built = type(model)(model.config)
    loaded = load_weights(model, weights, "cpu", torch.bfloat16)
    expected, found = dict(built.named_buffers()), dict(loaded.named_buffers())
    assert set(found) == set(expected)
    for key, buffer in found.items():
        assert buffer.dtype == expected[key].dtype, key
        np.testing.assert_array_equal(buffer.numpy(), expected[key].numpy(), err_msg=key)
    rotary = sum(key.endswith("inv_freq") for key in found)
    assert rotary == {"qwen2_vl": 4, "qwen2_5_vl": 4, "blip2_opt": 0, "blip2_t5": 0}.get(name, 1)


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_names_of_stored_weights(families: dict[str, Family], name: str) -> None:
    """Published names become the model's names; the model's own names, as newer checkpoints have them, stay."""

    from pipeline.captioning.captioners.loading import weight_shapes
    from pipeline.captioning.captioners.safetensors_files import stored_tensors

    model, _ = _empty(name, families[name].folder)
    names = _names(families[name].folder)
    model_names = set(weight_shapes(model))
    stored = [tensor.name for tensor in stored_tensors(families[name].folder)]
    assert {names.model_name(key) for key in stored} == model_names and len(stored) == len(model_names)
    assert {names.model_name(key) for key in model_names} == model_names
    adapter = f"base_model.model.{stored[0]}".replace(".weight", ".base_layer.weight")
    assert names.model_name(adapter) == names.model_name(stored[0])
    is_old = not name.startswith(("blip2", "janus"))
    assert is_old == (set(stored) != model_names)


def _copy(family: Family, folder: Path) -> dict[str, np.ndarray]:
    """A copy of the checkpoint without its weight files; returns its weights by stored name."""
    arrays: dict[str, np.ndarray] = {}
    folder.mkdir()
    for file in family.folder.iterdir():
        if file.suffix == ".safetensors":
            arrays |= load_file(file)
        elif file.name != "model.safetensors.index.json":
            shutil.copy(file, folder)
    return arrays


@pytest.mark.parametrize(
    ("name", "stored", "published"),
    [
        ("qwen2_vl", "model.embed_tokens.weight", ["lm_head.weight"]),
        ("qwen2_vl", "model.embed_tokens.weight", ["model.embed_tokens.weight", "lm_head.weight"]),
        ("llava_onevision", "language_model.model.embed_tokens.weight", ["language_model.lm_head.weight"]),
        ("blip2_opt", "language_model.model.decoder.embed_tokens.weight", ["language_model.lm_head.weight"]),
        ("blip2_t5", "language_model.shared.weight", ["language_model.encoder.embed_tokens.weight"]),
        (
            "blip2_t5",
            "language_model.shared.weight",
            [f"language_model.{part}.weight" for part in ("decoder.embed_tokens", "encoder.embed_tokens", "shared")],
        ),
    ],
    ids=str,
)
def test_a_tied_weight_may_have_any_of_its_names(
    families: dict[str, Family], tmp_path: Path, name: str, stored: str, published: list[str]
) -> None:
    import torch

    from pipeline.captioning.captioners.loading import load_weights

    arrays = _copy(families[name], tmp_path / name)
    value = arrays.pop(stored)
    save_file(arrays | {key: value.copy() for key in published}, tmp_path / name / "model.safetensors")
    model, weights = _empty(name, tmp_path / name)
    loaded = load_weights(model, weights, "cpu", torch.float32)
    np.testing.assert_allclose(_logits(loaded, families[name]), families[name].logits, rtol=0, atol=_TOLERANCE)


def test_an_untied_head_must_be_stored(families: dict[str, Family], tmp_path: Path) -> None:
    from pipeline.captioning.captioners.loading import check_weights

    arrays = _copy(families["qwen2_5_vl"], tmp_path / "checkpoint")
    del arrays["lm_head.weight"]
    arrays["visual.extra"] = np.ones(1, np.float32)
    save_file(arrays, tmp_path / "checkpoint/model.safetensors")
    model, weights = _empty("qwen2_5_vl", tmp_path / "checkpoint")
    with pytest.raises(UsageError, match=r"2 weights: missing: lm_head\.weight; unexpected: model\.visual\.extra$"):
        check_weights(model, weights)


def test_unused_weights_are_not_unexpected(families: dict[str, Family], tmp_path: Path) -> None:
    """A bias that old T5 checkpoints contain, and the parts of Janus that make images, if the family removes them."""
    import torch

    from pipeline.captioning.captioners.loading import check_weights, load_weights

    arrays = _copy(families["blip2_t5"], tmp_path / "t5")
    bias = "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(arrays | {bias: np.ones((32, 4), np.float32)}, tmp_path / "t5/model.safetensors")
    check_weights(*_empty("blip2_t5", tmp_path / "t5"))

    janus, weights = _empty("janus", families["janus"].folder)
    for part in ("vqmodel", "generation_embeddings", "generation_aligner", "generation_head"):
        setattr(janus.model, part, torch.nn.Identity())
    loaded = load_weights(janus, weights, "cpu", torch.float32)
    np.testing.assert_allclose(_logits(loaded, families["janus"]), families["janus"].logits, rtol=0, atol=_TOLERANCE)


def test_an_adapter_of_the_whole_model_is_merged(families: dict[str, Family], tmp_path: Path) -> None:
    """PEFT's names, with the model's names of older and of newer transformers."""
    folder = families["qwen2_5_vl"].folder
    names = _names(folder)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 32)).astype(np.float32), rng.normal(size=(32, 2)).astype(np.float32)
    name = "model.language_model.layers.1.self_attn.q_proj.weight"
    plain = CheckpointWeights(folder, names).read(name)
    for prefix in ("model.layers.1", "model.language_model.layers.1"):
        key = f"base_model.model.{prefix}.self_attn.q_proj"
        save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
        merged = CheckpointWeights(folder, names, tmp_path, lora_alpha=4.0).read(name)
        np.testing.assert_allclose(merged, plain + 2 * (b @ a), rtol=1e-5, atol=1e-5)


def test_lora_for_a_further_name_of_a_tied_weight_is_an_error(families: dict[str, Family], tmp_path: Path) -> None:
    from pipeline.captioning.captioners.loading import check_weights

    arrays = _copy(families["qwen2_vl"], tmp_path / "checkpoint")
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
    arrays["lm_head.lora_A.weight"] = np.ones((2, 32), np.float32)
    arrays["lm_head.lora_B.weight"] = np.ones((len(arrays["lm_head.weight"]), 2), np.float32)
    save_file(arrays, tmp_path / "checkpoint/model.safetensors")
    (tmp_path / "checkpoint/adapter_config.json").write_text('{"lora_alpha": 4}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"LoRA for lm_head\.weight, which is tied to model\.language_model\.embed"):
        check_weights(*_empty("qwen2_vl", tmp_path / "checkpoint"))
