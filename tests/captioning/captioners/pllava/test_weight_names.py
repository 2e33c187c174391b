"""Published layouts can be read without conversion, and contain the weights of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.pllava.weight_names import weight_names
from pipeline.captioning.captioners.weights import CheckpointWeights
from tests.golden import DATA

pytestmark = pytest.mark.model

Arrays = dict[str, np.ndarray]
CONFIG = PllavaConfig.from_folder(DATA / "mini-a")
NAMES = weight_names(CONFIG)


def _shapes(config: PllavaConfig) -> dict[str, tuple[int, ...]]:
    from pipeline.captioning.captioners.loading import meta_model, weight_shapes
    from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

    return weight_shapes(meta_model(PllavaForConditionalGeneration, config))


def _stored(name: str) -> Arrays:
    arrays: Arrays = {}
    for file in sorted((DATA / name).glob("*.safetensors")):
        arrays |= load_file(file)
    return arrays


def _write(folder: Path, arrays: Arrays, file: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(DATA / "mini-a" / "config.json", folder)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / file)
    return folder


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def _plain(arrays: Arrays) -> Arrays:
    """The base weights without LoRA, with the model's names."""
    return {NAMES.model_name(name): array for name, array in arrays.items() if not _is_lora(name)}


def _assert_same_as_unmerged(weights: CheckpointWeights) -> None:
    shapes = _shapes(CONFIG)
    weights.check(shapes)
    reference = CheckpointWeights(DATA / "mini-a", NAMES, lora_alpha=2.0)
    for name in shapes:
        np.testing.assert_array_equal(weights.read(name), reference.read(name), err_msg=name)


def test_the_model_has_the_stored_shapes(backend: Backend) -> None:
    for checkpoint in ("mini-a", "mini-a-merged"):
        stored = {name: array.shape for name, array in _plain(_stored(checkpoint)).items()}
        last = f"vision_tower.vision_model.encoder.layers.{CONFIG.vision_layers}."
        not_run = {name for name in stored if name.startswith(last) or ".post_layernorm." in name}
        not_run |= {name for name in stored if name.endswith("image_newline")}
        assert len([name for name in not_run if name.startswith(last)]) == 16, "one layer of the tower is not run"
        assert _shapes(CONFIG) == {name: shape for name, shape in stored.items() if name not in not_run}
        assert {name for name in stored if NAMES.is_unused(name)} == not_run


def _shapes_with(text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    settings = {"image_token_index": 500, "vision_config": CONFIG.vision, "text_config": CONFIG.text | text}
    return _shapes(PllavaConfig.from_dict(settings))


def test_grouped_keys_tied_heads_and_biases_change_the_shapes(backend: Backend) -> None:
    unchanged = _shapes_with({})
    grouped = _shapes_with({"num_key_value_heads": 2, "head_dim": 24})
    layer = "language_model.model.layers.2.self_attn"
    assert {name.removeprefix(layer): grouped[name] for name in grouped if name.startswith(layer)} == {
        ".q_proj.weight": (96, 64),
        ".k_proj.weight": (48, 64),
        ".v_proj.weight": (48, 64),
        ".o_proj.weight": (64, 96),
    }
    tied = _shapes_with({"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True})
    assert set(unchanged) - set(tied) == {"language_model.lm_head.weight"}
    biases = {name: shape for name, shape in tied.items() if name not in unchanged}
    assert len(biases) == 3 * 7 and biases[f"{layer}.o_proj.bias"] == (64,)


def test_unmerged_and_merged_checkpoints_give_the_same_weights(backend: Backend) -> None:
    unmerged = CheckpointWeights(DATA / "mini-a", NAMES, lora_alpha=2.0)
    merged = CheckpointWeights(DATA / "mini-a-merged", NAMES)
    assert (unmerged.lora_weights, merged.lora_weights) == (6, 0)
    shapes = _shapes(CONFIG)
    for weights in (unmerged, merged):
        weights.check(shapes)
    for name in shapes:
        np.testing.assert_allclose(unmerged.read(name), merged.read(name), atol=1e-6, err_msg=name)


def test_base_with_a_folder_of_all_trained_weights(tmp_path: Path, backend: Backend) -> None:
    arrays = _stored("mini-a")
    base = {name: array + 1 if "projector" in name else array for name, array in _plain(arrays).items()}
    base["image_newline"] = np.zeros(64, np.float32)
    base["vision_tower.vision_model.embeddings.position_ids"] = np.arange(577)[None]
    folders = _write(tmp_path / "base", base), _write(tmp_path / "trained", arrays)
    _assert_same_as_unmerged(CheckpointWeights(folders[0], NAMES, folders[1], 2.0))


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.language_model."])
def test_base_with_a_peft_adapter(tmp_path: Path, prefix: str, backend: Backend) -> None:
    arrays = _stored("mini-a")
    adapter = {
        prefix + NAMES.model_name(name).replace(".default", "").removeprefix("language_model."): array
        for name, array in arrays.items()
        if _is_lora(name)
    }
    base = _write(tmp_path / "base", _plain(arrays))
    lora = _write(tmp_path / "lora", adapter, "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 8}))
    weights = CheckpointWeights(base, NAMES, lora)
    assert weights.lora_alpha == 2
    _assert_same_as_unmerged(weights)


def test_trained_weights_with_lora_replace_the_checkpoints(tmp_path: Path, backend: Backend) -> None:
    trained = _write(tmp_path / "trained", _stored("mini-a"))
    _assert_same_as_unmerged(CheckpointWeights(DATA / "mini-a", NAMES, trained, 2.0))


def test_names_of_newer_transformers(tmp_path: Path, backend: Backend) -> None:
    renamed = {
        "model." + name.replace("language_model.model.", "language_model.")
        if not name.startswith("language_model.lm_head")
        else name.removeprefix("language_model."): array
        for name, array in _stored("mini-a-merged").items()
    }
    CheckpointWeights(_write(tmp_path / "new", renamed), NAMES).check(_shapes(CONFIG))
