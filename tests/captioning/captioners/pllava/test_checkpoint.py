"""Published layouts are read as they are; what does not fit is listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.captioning.captioners.pllava.checkpoint import CheckpointWeights, canonical_name, expected_weights
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.safetensors_files import read_header
from pipeline.captioning.errors import UsageError
from tests.golden import DATA

Arrays = dict[str, np.ndarray]
CONFIG = PllavaConfig.from_folder(DATA / "mini-a")


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
    """The base without LoRA, under its plain names."""
    return {canonical_name(name): array for name, array in arrays.items() if not _is_lora(name)}


def _same_as_unmerged(weights: CheckpointWeights) -> None:
    weights.check(CONFIG)
    reference = CheckpointWeights(DATA / "mini-a", None, 2.0)
    for name in expected_weights(CONFIG):
        np.testing.assert_array_equal(weights.read(name), reference.read(name), err_msg=name)


def test_unmerged_and_merged_hold_the_same_weights() -> None:
    unmerged = CheckpointWeights(DATA / "mini-a", None, 2.0)
    merged = CheckpointWeights(DATA / "mini-a-merged", None, None)
    assert (unmerged.lora_weights, merged.lora_weights) == (6, 0)
    for weights in (unmerged, merged):
        weights.check(CONFIG)
    for name in expected_weights(CONFIG):
        np.testing.assert_allclose(unmerged.read(name), merged.read(name), atol=1e-6, err_msg=name)


def test_base_with_a_folder_of_all_trained_weights(tmp_path: Path) -> None:
    arrays = _stored("mini-a")
    base = {name: array + 1 if "projector" in name else array for name, array in _plain(arrays).items()}
    base["image_newline"] = np.zeros(64, np.float32)
    _same_as_unmerged(CheckpointWeights(_write(tmp_path / "base", base), _write(tmp_path / "trained", arrays), 2.0))


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.language_model."])
def test_base_with_a_peft_adapter(tmp_path: Path, prefix: str) -> None:
    arrays = _stored("mini-a")
    adapter = {
        prefix + canonical_name(name).replace(".default", "").removeprefix("language_model."): array
        for name, array in arrays.items()
        if _is_lora(name)
    }
    base = _write(tmp_path / "base", _plain(arrays))
    lora = _write(tmp_path / "lora", adapter, "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 8}))
    weights = CheckpointWeights(base, lora, None)
    assert weights.lora_alpha == 2
    _same_as_unmerged(weights)


def test_names_of_newer_transformers(tmp_path: Path) -> None:
    renamed = {
        "model." + name.replace("language_model.model.", "language_model.")
        if not name.startswith("language_model.lm_head")
        else name.removeprefix("language_model."): array
        for name, array in _stored("mini-a-merged").items()
    }
    CheckpointWeights(_write(tmp_path / "new", renamed), None, None).check(CONFIG)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -3.5, 1e38, 2.0**-126], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(read_header(file)[0].read_float32(), expected)


def _without(fragment: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if fragment not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("linear_1.bias"), "missing: multi_modal_projector.linear_1.bias"),
        (lambda a: {**a, "extra.weight": np.zeros(3, np.float32)}, "unexpected: extra.weight"),
        (lambda a: {**a, "language_model.base_model.model.model.norm.weight": np.ones(3)}, "misshapen: .*norm"),
        (_without("layers.1.self_attn.q_proj.lora_A"), "has no lora_A"),
        (_without("layers.1.self_attn.q_proj.base_layer"), "a weight that the checkpoint does not have"),
    ],
)
def test_what_does_not_fit_is_listed(tmp_path: Path, change: Callable[[Arrays], Arrays], message: str) -> None:
    folder = _write(tmp_path / "unfit", change(_stored("mini-a")))
    with pytest.raises(UsageError, match=message):
        CheckpointWeights(folder, None, 2.0).check(CONFIG)


def test_lora_without_alpha_and_use_lora_without_lora(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --lora_alpha"):
        CheckpointWeights(DATA / "mini-a", None, None)
    with pytest.raises(UsageError, match="--use_lora: no LoRA weights"):
        CheckpointWeights(DATA / "mini-a-merged", None, 2.0, needs_lora=True)


def test_an_adapter_on_top_of_lora_is_refused(tmp_path: Path) -> None:
    adapter = {name: array for name, array in _stored("mini-a").items() if _is_lora(name)}
    for part in ("layers.0", "layers."):  # where some of the targets coincide, and where all do
        chosen = {name: array for name, array in adapter.items() if part in name}
        with pytest.raises(UsageError, match="LoRA weights of its own"):
            CheckpointWeights(DATA / "mini-a", _write(tmp_path / part, chosen, "adapter_model.safetensors"), 2.0)
    lora = _write(tmp_path / "lora", adapter, "adapter_model.safetensors")
    fewer = _without("layers.1.self_attn.q_proj.lora")(_stored("mini-a"))
    with pytest.raises(UsageError, match="LoRA weights of its own"):
        CheckpointWeights(DATA / "mini-a", _write(tmp_path / "fewer", fewer), 2.0)
    trained = _write(tmp_path / "trained", _stored("mini-a"))
    _same_as_unmerged(CheckpointWeights(DATA / "mini-a", trained, 2.0))
    (lora / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "use_rslora": True}))
    with pytest.raises(UsageError, match="use_rslora is not supported"):
        CheckpointWeights(_write(tmp_path / "base", _plain(_stored("mini-a"))), lora, None)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UsageError, match="pickle"):
        CheckpointWeights(tmp_path, None, None)


def test_digest_tells_checkpoints_apart() -> None:
    digests = {CheckpointWeights(DATA / name, None, 2.0).digest() for name in ("mini-a", "mini-a-merged")}
    assert len(digests) == 2
