"""The checks and the description of a PLLaVA checkpoint before its model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.captioners.safetensors_files import StoredTensor
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.process.errors import UsageError
from tests.golden import DATA, LORA_ALPHA, QUESTION

Arrays = dict[str, np.ndarray]


def _source(folder: Path, **generation: float) -> PllavaSource:
    options = PllavaOptions(
        folder, 4, Asks.single(QUESTION), "", lora_alpha=LORA_ALPHA if folder.name == "mini-a" else None
    )
    return PllavaSource(options, GenerationOptions(**generation))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a checkpoint, which a test can change."""
    return Path(shutil.copytree(DATA / "mini-a-merged", tmp_path / "checkpoint"))


def test_the_fingerprint_does_not_change_between_versions() -> None:
    fingerprint = dict(_source(DATA / "mini-a").fingerprint())
    assert fingerprint.pop("preprocessing").startswith("FrameProcessor(crop_size=336, clip_short_edge=336, ")
    assert fingerprint == {
        "checkpoint": "config a38094947084afaa weights ca9746255a3fa42d",
        "tokenizer": "a8f828c66b250929",
        "lora alpha": "2.0",
        "prompt": "USER:<image> Describe the video in details. ASSISTANT:",
        "stop ids": "(2,)",
        "frames": "4",
        "pooling shape": "16-12-12",
        "generation": "max_new_tokens=200 num_beams=1",
    }


def test_penalties_of_the_checkpoint_apply_unless_a_flag_overrides_them(folder: Path) -> None:
    plain = _source(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.05}))
    source = _source(folder)
    assert source.generation.penalty == 1.05
    assert source.fingerprint()["generation"] == "max_new_tokens=200 num_beams=1 repetition_penalty=1.05"
    assert source.describe()[-1] == "repetition penalty 1.05 (generation_config.json)"
    assert source.prompts.pieces(source.longest, QUESTION) == plain.prompts.pieces(plain.longest, QUESTION)
    overridden = _source(folder, repetition_penalty=1.0)
    assert overridden.fingerprint() == plain.fingerprint()
    assert overridden.describe() == plain.describe()


def test_an_invalid_config_is_a_usage_error(folder: Path) -> None:
    for content, message in (("[]", "holds no JSON object"), ("{}", "has no image_token_index")):
        (folder / "config.json").write_text(content)
        with pytest.raises(UsageError, match=rf"config\.json.* {message}"):
            _source(folder)


def _without(fragment: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if fragment not in name}


@pytest.mark.model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("linear_1.bias"), "1 weights: missing: multi_modal_projector.linear_1.bias"),
        (lambda a: {**a, "extra.weight": np.zeros(3, np.float32)}, "1 weights: unexpected: extra.weight"),
        (lambda a: {**a, "language_model.model.norm.weight": np.ones(3)}, r"misshapen: .*norm.* \(3,\), .* \(64,\)"),
        (lambda a: {**_without("lm_head")(a), "b": np.ones(1)}, r"2 weights: missing: .*lm_head.*; unexpected: b$"),
    ],
)
def test_weights_that_do_not_fit_are_listed_before_any_is_read(
    folder: Path,
    change: Callable[[Arrays], Arrays],
    message: str,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StoredTensor, "read_float32", lambda self: pytest.fail("a weight was read"))
    _source(folder).check_weights()
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    source = _source(folder)
    with pytest.raises(UsageError, match=message):
        source.check_weights()
