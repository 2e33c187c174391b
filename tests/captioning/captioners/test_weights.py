"""Weights are found by a family's names, LoRA is merged, and one message lists all weights that do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.captioning.captioners.safetensors_files import StoredTensor
from pipeline.captioning.captioners.weights import CheckpointWeights, WeightNames
from pipeline.captioning.process.errors import UsageError
from tests.golden import DATA

Arrays = dict[str, np.ndarray]
NAMES = WeightNames((("base_model.model.", ""), ("old.", "tower."), ("tower.", "never.")), lambda name: name == "spare")
ADAPTERS = WeightNames((("base_model.model.", ""),), lambda name: False, "4 is usual")
PLAIN = WeightNames((), lambda name: False)
RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(size=(3, 4)).astype(np.float32), np.ones(3, np.float32)
LORA_A, LORA_B = RNG.normal(size=(2, 4)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
BASE = {"tower.weight": WEIGHT, "tower.bias": BIAS}
ADAPTER = {"base_model.model.tower.lora_A.weight": LORA_A, "base_model.model.tower.lora_B.weight": LORA_B}
ADAPTER_OF_TOWER = {"tower.lora_A.weight": LORA_A, "tower.lora_B.weight": LORA_B}
UNMERGED = {
    "tower.base_layer.weight": WEIGHT,
    "tower.bias": BIAS,
    "tower.lora_A.default.weight": LORA_A,
    "tower.lora_B.default.weight": LORA_B,
}
SHAPES = {"tower.weight": (3, 4), "tower.bias": (3,)}


def _write(folder: Path, arrays: Arrays, file: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / file)
    return folder


def test_the_first_matching_prefix_is_replaced() -> None:
    stored = {
        "base_model.model.old.w": "old.w",
        "old.w": "tower.w",
        "other.old.w": "other.old.w",
        "old.q.base_layer.weight": "tower.q.weight",
        "old.q.lora_A.default.weight": "tower.q.lora_A.default.weight",
    }
    assert {name: NAMES.model_name(name) for name in stored} == stored


def test_lora_is_merged(tmp_path: Path) -> None:
    expected = WEIGHT + np.float32(3 / 2) * (LORA_B @ LORA_A)
    base, adapter = _write(tmp_path / "base", BASE), _write(tmp_path / "lora", ADAPTER)
    for weights in (
        CheckpointWeights(base, ADAPTERS, adapter, 3.0, needs_lora=True),
        CheckpointWeights(_write(tmp_path / "unmerged", UNMERGED), ADAPTERS, lora_alpha=3.0),
    ):
        assert (weights.lora_weights, weights.lora_alpha) == (1, 3.0)
        weights.check(SHAPES)
        np.testing.assert_array_equal(weights.read("tower.weight"), expected)
        np.testing.assert_array_equal(weights.read("tower.bias"), BIAS)


def test_trained_weights_replace_those_of_the_checkpoint(tmp_path: Path) -> None:
    trained = {"tower.bias": np.full(3, 7, np.float32)}
    weights = CheckpointWeights(_write(tmp_path / "base", BASE), PLAIN, _write(tmp_path / "trained", trained))
    np.testing.assert_array_equal(weights.read("tower.bias"), trained["tower.bias"])
    np.testing.assert_array_equal(weights.read("tower.weight"), WEIGHT)
    assert weights.lora_alpha is None


def test_a_tower_in_a_folder_of_its_own(tmp_path: Path) -> None:
    tower = _write(tmp_path / "tower", {"old.weight": WEIGHT + 1, "old.bias": BIAS + 1, "old.extra": BIAS})
    base = _write(tmp_path / "base", {"tower.bias": BIAS, "spare": BIAS})
    names = WeightNames((("old.", "tower."),), lambda name: name in ("spare", "tower.extra"))
    weights = CheckpointWeights(base, names, tower_folder=tower)
    weights.check(SHAPES)
    np.testing.assert_array_equal(weights.read("tower.weight"), WEIGHT + 1)
    np.testing.assert_array_equal(weights.read("tower.bias"), BIAS)
    with pytest.raises(UsageError, match=r"missing: tower\.weight"):
        CheckpointWeights(base, names).check(SHAPES)
    with_lora = CheckpointWeights(base, names, _write(tmp_path / "lora", ADAPTER_OF_TOWER), 3.0, tower_folder=tower)
    expected = WEIGHT + 1 + np.float32(3 / 2) * (LORA_B @ LORA_A)
    np.testing.assert_array_equal(with_lora.read("tower.weight"), expected)


def test_rows_that_are_not_used_are_left_out(tmp_path: Path) -> None:
    names = WeightNames((), lambda name: False, rows={"tower.weight": 2, "tower.bias": 5})
    weights = CheckpointWeights(_write(tmp_path / "unmerged", UNMERGED), names, lora_alpha=3.0)
    weights.check({"tower.weight": (2, 4), "tower.bias": (3,)})
    expected = WEIGHT + np.float32(3 / 2) * (LORA_B @ LORA_A)
    np.testing.assert_array_equal(weights.read("tower.weight"), expected[:2])
    with pytest.raises(UsageError, match=r"misshapen: tower\.bias is \(3,\), the config asks for \(5,\)"):
        weights.check({"tower.weight": (2, 4), "tower.bias": (5,)})


def test_alpha_is_read_from_the_flag_or_the_adapter(tmp_path: Path) -> None:
    base, adapter = _write(tmp_path / "base", BASE), _write(tmp_path / "lora", ADAPTER)
    with pytest.raises(UsageError, match=r"lora holds LoRA weights, but .*: give --lora_alpha \(4 is usual\)$"):
        CheckpointWeights(base, ADAPTERS, adapter)
    with pytest.raises(UsageError, match=r"give --lora_alpha$"):
        CheckpointWeights(_write(tmp_path / "unmerged", UNMERGED), PLAIN)
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps({"lora_alpha": 16, "r": 2}))
    assert CheckpointWeights(base, ADAPTERS, adapter).lora_alpha == 16
    assert CheckpointWeights(base, ADAPTERS, adapter, 3.0).lora_alpha == 3
    for content, message in (
        ('{"lora_alpha": 2, "use_rslora": true}', "use_rslora is not supported"),
        ('{"r": 2}', "has no valid lora_alpha"),
        ("[]", "has no valid lora_alpha"),
    ):
        settings.write_text(content)
        with pytest.raises(UsageError, match=message):
            CheckpointWeights(base, ADAPTERS, adapter)


def test_use_lora_without_lora_weights_is_a_usage_error(tmp_path: Path) -> None:
    base = _write(tmp_path / "base", BASE)
    with pytest.raises(UsageError, match="--use_lora: no LoRA weights"):
        CheckpointWeights(base, PLAIN, lora_alpha=2.0, needs_lora=True)


def test_alpha_without_lora_is_a_usage_error(tmp_path: Path) -> None:
    base = _write(tmp_path / "base", BASE)
    with pytest.raises(UsageError, match=r"^--lora_alpha 2: no LoRA weights .* in .*base; leave it out, or give"):
        CheckpointWeights(base, PLAIN, lora_alpha=2.0)
    with pytest.raises(UsageError, match=r"--lora_alpha 0\.5: no LoRA weights .* in .*trained or .*base; leave it out"):
        CheckpointWeights(base, PLAIN, _write(tmp_path / "trained", BASE), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tower.lora_A.default.weight": None}, "LoRA for tower.weight has no lora_A"),
        ({"tower.base_layer.weight": None}, "LoRA for tower.weight, but the checkpoint does not contain this weight"),
        ({"tower.lora_A.default.weight": np.ones((2, 5), np.float32)}, "do not fit (3, 4)"),
        ({"tower.lora_B.default.weight": np.ones((3, 1), np.float32)}, "do not fit (3, 4)"),
    ],
)
def test_lora_that_does_not_fit_is_a_usage_error(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in (UNMERGED | change).items() if array is not None}
    with pytest.raises(UsageError, match=re.escape(message)):
        CheckpointWeights(_write(tmp_path / "unfit", arrays), PLAIN, lora_alpha=2.0)


def test_every_mismatch_is_in_one_message_before_a_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {name: np.ones(2, np.float32) for name in ("a", "b", "extra", "spare", "layer.inv_freq", "position_ids")}
    weights = CheckpointWeights(_write(tmp_path / "unfit", stored), NAMES)
    monkeypatch.setattr(StoredTensor, "read_float32", lambda self: pytest.fail("a weight was read"))
    with pytest.raises(UsageError) as refused:
        weights.check({"a": (2,), "b": (3,), "c": (2,), "d": (2,)})
    assert str(refused.value) == (
        "the checkpoint does not fit its config.json, 5 weights: missing: c; missing: d; unexpected: extra; "
        "unexpected: position_ids; misshapen: b is (2,), the config asks for (3,)"
    )
    with pytest.raises(UsageError, match=r"29 weights: (missing: \d+; ){20}and 9 more$"):
        CheckpointWeights(_write(tmp_path / "a", {"a": stored["a"]}), PLAIN).check(
            {"a": (2,)} | {str(number): (2,) for number in range(29)}
        )


def test_an_adapter_on_top_of_lora_is_refused(tmp_path: Path) -> None:
    unmerged = _write(tmp_path / "unmerged", UNMERGED)
    with pytest.raises(UsageError, match="both hold LoRA weights"):
        CheckpointWeights(unmerged, ADAPTERS, _write(tmp_path / "lora", ADAPTER), 2.0)
    # Trained weights with LoRA and its base weights replace the checkpoint's LoRA.
    trained = _write(tmp_path / "trained", UNMERGED | {"tower.base_layer.weight": WEIGHT + 1})
    weights = CheckpointWeights(unmerged, ADAPTERS, trained, 2.0)
    np.testing.assert_array_equal(weights.read("tower.weight"), WEIGHT + 1 + LORA_B @ LORA_A)
    two = UNMERGED | {f"second.{name.removeprefix('tower.')}": array for name, array in UNMERGED.items()}
    with pytest.raises(UsageError, match="both hold LoRA weights"):  # only one of the two would be replaced
        CheckpointWeights(_write(tmp_path / "two", two), ADAPTERS, trained, 2.0)


def test_the_digest_does_not_change_between_versions() -> None:
    assert CheckpointWeights(DATA / "mini-a", PLAIN, lora_alpha=2.0).digest() == "ca9746255a3fa42d"
    assert CheckpointWeights(DATA / "mini-a-merged", PLAIN).digest() == "43b84b2daeebe75c"


def test_fine_tuned_weights_have_different_digests(tmp_path: Path) -> None:
    """Config, names, types, shapes and sizes are the same; only the values of one tensor differ."""
    rng = np.random.default_rng(1)
    # The first tensor is too large to be read completely.
    arrays = {"tower.weight": rng.normal(size=(3000, 1000)).astype(np.float32), "tower.bias": np.ones(3, np.float32)}
    digests = {CheckpointWeights(_write(tmp_path / "base", arrays), PLAIN).digest()}
    for name, value in arrays.items():
        tuned = arrays | {name: value + np.float32(1e-3)}
        digests.add(CheckpointWeights(_write(tmp_path / f"tuned {name}", tuned), PLAIN).digest())
    assert len(digests) == 3
    again = CheckpointWeights(_write(tmp_path / "elsewhere", arrays), PLAIN).digest()
    assert again in digests, "the digest depends on the folder"


def test_adapters_have_different_digests(tmp_path: Path) -> None:
    base = _write(tmp_path / "base", BASE)
    digests = set()
    for number, name in enumerate([None, *ADAPTER]):
        changed = ADAPTER | ({name: ADAPTER[name] * 2} if name else {})
        adapter = _write(tmp_path / f"lora{number}", changed)
        digests.add(CheckpointWeights(base, ADAPTERS, adapter, 3.0).digest())
    one = BIAS.copy()
    one[1] = 2
    other = _write(tmp_path / "other", BASE | {"tower.bias": one})
    digests.add(CheckpointWeights(other, ADAPTERS, tmp_path / "lora0", 3.0).digest())
    assert len(digests) == 4
