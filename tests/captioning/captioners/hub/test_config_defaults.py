"""Entries that config.json leaves out have the values of transformers; a wrong entry is a usage error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.config_defaults import _PARTS, _TEXT, _VISION, completed, text_settings
from pipeline.captioning.process.errors import UsageError

_CLASSES = {
    "llava": "LlavaConfig",
    "llava_next": "LlavaNextConfig",
    "llava_next_video": "LlavaNextVideoConfig",
    "llava_onevision": "LlavaOnevisionConfig",
    "qwen2_vl": "Qwen2VLConfig",
    "qwen2_5_vl": "Qwen2_5_VLConfig",
    "blip-2": "Blip2Config",
    "janus": "JanusConfig",
    "internvl": "InternVLConfig",
}
_FILE = Path("model/config.json")


def _minimal(family: str) -> dict[str, Any]:
    parts = _PARTS.get(family)
    if parts is None:
        return {"vision_config": {}}
    # Published LLaVA files name the type of both parts, the others need not.
    return {"text_config": {"model_type": parts[0]}, "vision_config": {"model_type": parts[1]}}


@pytest.mark.model
@pytest.mark.parametrize("family", _CLASSES)
def test_added_entries_are_those_of_transformers(backend: Backend, family: str) -> None:
    import transformers

    config = _minimal(family)
    expected = getattr(transformers, _CLASSES[family]).from_dict(_minimal(family)).to_dict()
    done = completed(config, family, _FILE)
    assert config == _minimal(family)
    own = {name: value for name, value in done.items() if name not in ("text_config", "vision_config", "model_type")}
    assert own == {name: expected[name] for name in own}
    for part in ("text_config", "vision_config"):
        added = done.get(part, {})
        assert {name: value for name, value in added.items() if name != "model_type"} == {
            name: expected[part][name] for name in added if name != "model_type"
        }
    assert done["model_type"] == family


@pytest.mark.model
def test_every_kind_of_part_is_that_of_transformers(backend: Backend) -> None:
    import transformers

    others = {"janus_vision_model": "JanusVisionConfig", "blip_2_vision_model": "Blip2VisionConfig"}
    for kind, entries in {**_TEXT, **_VISION}.items():
        if kind.startswith("qwen2_"):
            continue  # towers with the name of the whole model; see above
        made = getattr(transformers, others[kind])() if kind in others else transformers.CONFIG_MAPPING[kind]()
        assert dict(entries) == {name: made.to_dict()[name] for name in entries}, kind


def test_a_square_is_a_list_or_a_number() -> None:
    for size in (448, [448, 448]):
        config = _minimal("internvl") | {"vision_config": {"image_size": size}}
        assert completed(config, "internvl", _FILE)["vision_config"]["image_size"] == size


def test_given_entries_are_kept() -> None:
    done = completed({"vision_config": {"depth": 2, "x": None}, "hidden_size": 8}, "qwen2_vl", _FILE)
    assert done["vision_config"]["depth"] == 2 and done["vision_config"]["patch_size"] == 14
    assert text_settings(done)["hidden_size"] == 8
    windows = {"vision_config": {"fullatt_block_indexes": [0]}}
    assert completed(windows, "qwen2_5_vl", _FILE)["vision_config"]["fullatt_block_indexes"] == [0]
    assert text_settings({"text_config": {"hidden_size": 4}, "hidden_size": 8})["hidden_size"] == 4


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llava", {"vision_config": None}, "model/config.json: vision_config is missing; expected an object"),
        ("llava", {"text_config": "vicuna"}, "model/config.json: text_config is 'vicuna'; expected an object"),
        ("llava", {"vision_feature_layer": "last"}, "vision_feature_layer is 'last'; expected a value like -2"),
        ("llava_next_video", {"spatial_pool_stride": 0}, "spatial_pool_stride is 0; expected a value like 2"),
        ("llava_next", {"image_grid_pinpoints": "all"}, "image_grid_pinpoints is 'all'; expected a value like [[336"),
        ("llava_next", {"image_grid_pinpoints": 336}, "image_grid_pinpoints is 336; expected a value like [[336"),
        ("llava_next", {"image_grid_pinpoints": [336, 672]}, "image_grid_pinpoints is [336, 672]; expected a value"),
        (
            "qwen2_5_vl",
            {"vision_config": {"fullatt_block_indexes": 7}},
            "vision_config: fullatt_block_indexes is 7; expected a value like [7, 15, 23, 31]",
        ),
        ("qwen2_5_vl", {"vision_config": {"fullatt_block_indexes": ["7"]}}, "fullatt_block_indexes is ['7']; expected"),
        (
            "internvl",
            {"vision_config": {"image_size": ["448", "448"]}},
            "image_size is ['448', '448']; expected",
        ),
        ("internvl", {"vision_config": {"patch_size": 0}}, "vision_config: patch_size is 0; expected a value like [14"),
        ("internvl", {"downsample_ratio": True}, "downsample_ratio is True; expected a value like 0.5"),
        ("qwen2_vl", {"vision_config": {"depth": "32"}}, "config.json: vision_config: depth is '32'; expected a value"),
        ("qwen2_5_vl", {"quantization_config": {"quant_method": "awq"}}, "quantized weights (quantization_config)"),
    ],
    ids=str,
)
def test_wrong_entries(family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        completed(_minimal(family) | change, family, _FILE)
    assert message in str(raised.value)
