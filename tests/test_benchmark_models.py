"""The models of the benchmark and their roofline limits, without running them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.captioning.clips.clip import Clip
from scripts.model_shapes import pllava_shape, text_parameters
from scripts.presets import FAMILY_PRESETS, preset_config
from scripts.roofline import ClipLoad, Rates, roofline_limit

_RECORDED = Path("docs/measurements/torch-63m-4-12-12.json")


def test_the_limit_of_pllava_is_the_recorded_one() -> None:
    engine = json.loads(_RECORDED.read_text(encoding="utf-8"))["engine"]["1"]
    load = ClipLoad(engine["prompt_tokens"], prefix=60, new_tokens=200)
    limit = roofline_limit(pllava_shape(preset_config("63m"), 4), load, 1, 4, Rates(**engine["rates"]))
    assert limit.as_dict() == {name: pytest.approx(value) for name, value in engine["limit"].items()}


@pytest.mark.parametrize("name", FAMILY_PRESETS)
@pytest.mark.parametrize("size", [(112, 112), (512, 288), (160, 120), (288, 512)])
def test_a_clip_has_about_650_visual_tokens(name: str, size: tuple[int, int]) -> None:
    preset = FAMILY_PRESETS[name]
    frames = preset.transform([Image.new("RGB", size)] * preset.num_frames)
    clip = Clip(0, "", frames, tuple(range(preset.num_frames)), size=size[::-1])
    assert sum(preset.family().block_lengths(clip)) == pytest.approx(650, rel=0.06)


@pytest.mark.parametrize("name", FAMILY_PRESETS)
def test_the_model_has_about_63_million_weights(name: str) -> None:
    preset = FAMILY_PRESETS[name]
    frames = preset.transform([Image.new("RGB", (320, 240))] * preset.num_frames)
    clip = Clip(0, "", frames, tuple(range(preset.num_frames)))
    shape = preset.shape(preset.config, preset.family().units(clip).shape)
    tower = shape.tower
    layer = 4 * tower.width**2 + tower.mlp_matrices * tower.width * tower.intermediate
    projector = sum(rows * columns for _, rows, columns in tower.projector)
    weights = tower.layers * layer + tower.patch_values * tower.width + projector + text_parameters(shape.text)
    assert weights == pytest.approx(63e6, rel=0.05)
