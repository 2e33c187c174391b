"""LLaVA-1.5 on the common captioner: features are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava import Llava
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model


def _config(**changes: Any) -> dict[str, Any]:
    config = {
        "text_config": tiny.TEXT, "vision_config": tiny.CLIP, "image_token_index": tiny.IMAGE,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    return config | changes


def _features(model: Any, inputs: Any) -> Any:
    import torch

    return torch.cat(model.model.get_image_features(**inputs))


def _tiny(name: str, **changes: Any) -> tiny.Tiny:
    config = _config(**changes)
    return tiny.Tiny(
        name=name,
        model_class="LlavaForConditionalGeneration",
        config=config,
        family=lambda config: Llava(config, tiny.TRANSFORM),
        clips=tiny.square_clips(config["vision_config"]["image_size"]),
        inputs=lambda family, clip: {"pixel_values": tiny.pixels(tiny.sampled(clip))},
        features=_features,
        placeholder=tiny.IMAGE,
    )


TINY = (
    _tiny("llava"),
    _tiny("llava siglip", vision_config=tiny.SIGLIP, vision_feature_select_strategy="full"),
    _tiny("llava class token", vision_feature_select_strategy="full", vision_feature_layer=3),
)


@pytest.mark.parametrize("model", TINY, ids=lambda model: model.name)
def test_features_are_those_of_transformers(model: tiny.Tiny, backend: Backend, tmp_path: Path) -> None:
    tiny.assert_features(model, backend, tmp_path)


def test_published_names(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_published_names(TINY[0], tmp_path)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("image_newline", "model.image_newline"),
        (
            "base_model.model.language_model.model.layers.1.self_attn.q_proj.lora_A.weight",
            "model.language_model.layers.1.self_attn.q_proj.lora_A.weight",
        ),
        (
            "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight",
            "model.language_model.layers.1.self_attn.q_proj.lora_A.weight",
        ),
        (
            "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
            "model.language_model.layers.1.self_attn.q_proj.lora_B.weight",
        ),
        (
            "base_model.model.multi_modal_projector.linear_1.lora_B.weight",
            "model.multi_modal_projector.linear_1.lora_B.weight",
        ),
    ],
)
def test_names_of_stored_weights(stored: str, name: str) -> None:
    assert Llava(_config(), tiny.TRANSFORM).weight_names().model_name(stored) == name


def test_unused_weights() -> None:
    names = Llava(_config(), tiny.TRANSFORM).weight_names()
    layer = "model.vision_tower.vision_model.encoder.layers.{}.mlp.fc1.weight"
    assert [names.is_unused(layer.format(number)) for number in range(4)] == [False, False, False, True]
    assert names.is_unused("model.image_newline") and not names.is_unused("lm_head.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": tiny.CLIP | {"model_type": "pixtral"}}, "vision tower type 'pixtral' is not supported"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer \[-2, -5\] is not supported"),
        ({"vision_feature_layer": -6}, "vision_feature_layer -6 is not in a tower of 4 layers"),
        ({"vision_feature_layer": 5}, "vision_feature_layer 5 is not in a tower of 4 layers"),
    ],
)
def test_usage_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Llava(_config(**changes), tiny.TRANSFORM)
