"""LLaVA-Video in its publishers' layout: translation of the config, names of weights, places of newlines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_qwen import LlavaQwen, onevision_config
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import UsageError

pytestmark = pytest.mark.model

_HALF, _FILE = (0.5, 0.5, 0.5), Path("model/config.json")
_PUBLISHED: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 18944, "mm_hidden_size": 1152, "mm_newline_position": "grid",
    "mm_projector_type": "mlp2x_gelu", "mm_spatial_pool_mode": "bilinear", "num_hidden_layers": 28,
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "vocab_size": 152064,
}  # fmt: skip


def _family(config: dict[str, Any]) -> LlavaQwen:
    return LlavaQwen(config, Square(size=(384, 384), mean=_HALF, std=_HALF))


# Tokens for frames of 27 x 27 patches: tokens of one frame, of three, and places of the newlines of the first.
@pytest.mark.parametrize(
    ("mode", "newlines", "one", "three", "places"),
    [
        ("bilinear", "grid", 210, 630, [14, 29, 44]),
        ("bilinear", "frame", 197, 591, [196, 393, 590]),
        ("bilinear", "one_token", 197, 589, [588]),
        ("bilinear", "no_token", 196, 588, []),
        ("average", "grid", 182, 546, [13, 27, 41]),
        ("max", "frame", 170, 510, [169, 339, 509]),
        ("max", "one_token", 170, 508, [507]),
    ],
)
def test_places_of_newlines(
    mode: str, newlines: str, one: int, three: int, places: list[int], backend: Backend
) -> None:
    import torch

    config = onevision_config(_PUBLISHED | {"mm_spatial_pool_mode": mode, "mm_newline_position": newlines}, 100, _FILE)
    family = _family(config)
    clips = [Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), index) for index in ((0,), (1, 0, 1))]
    assert [family.block_lengths(clip) for clip in clips] == [[one], [three]]
    side = 14 if mode == "bilinear" else 13
    features = torch.arange(2 * side**2, dtype=torch.float32).reshape(2, side**2, 1) + 1
    model = SimpleNamespace(model=SimpleNamespace(image_newline=torch.zeros(1)))
    (block,) = family.blocks(model, features, clips[1])
    values = block[:, 0].numpy()
    assert len(values) == three
    assert np.flatnonzero(values == 0)[:3].tolist() == places
    first, second = np.split(features[..., 0].numpy().reshape(-1), 2)
    np.testing.assert_array_equal(values[values != 0], np.concatenate([second, first, second]))


def test_the_published_tower() -> None:
    config = onevision_config(_PUBLISHED, 151647, _FILE)
    assert config["text_config"]["vocab_size"] == 151647
    names = _family(config).weight_names()
    layer = "model.vision_tower.vision_tower.vision_model.encoder.layers.{}.mlp.fc1.weight"
    assert [names.is_unused(names.model_name(layer.format(number))) for number in (25, 26)] == [False, True]
    assert names.is_unused(names.model_name("vision_model.head.probe")), "of the tower's own folder"
    assert names.is_unused(names.model_name("text_model.embeddings.token_embedding.weight"))
    assert names.model_name("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight") == (
        "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    )


def test_the_context_is_the_shorter_one() -> None:
    lengths = {"max_position_embeddings": 131072, "tokenizer_model_max_length": 32768}
    for config in (_PUBLISHED | lengths, _PUBLISHED | {"tokenizer_model_max_length": 32768}):
        assert onevision_config(config, 100, _FILE)["text_config"]["max_position_embeddings"] == 32768
    assert "max_position_embeddings" not in onevision_config(_PUBLISHED, 100, _FILE)["text_config"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_position_embeddings": "32768", "tokenizer_model_max_length": 32768},
            "text_config: max_position_embeddings is '32768'; expected a whole number",
        ),
        ({"tokenizer_model_max_length": "32768"}, "tokenizer_model_max_length is '32768'; expected a whole number"),
        ({"hidden_size": None}, "text_config: hidden_size is None; expected a value like 4096"),
        ({"quantization_config": {"bits": 4}}, r"quantized weights \(quantization_config\) are not supported"),
    ],
)
def test_entries_of_the_wrong_type(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^model/config.json: {message}"):
        onevision_config(_PUBLISHED | changes, 100, _FILE)


def test_a_text_width_that_is_left_out_has_the_default_of_transformers() -> None:
    config = {key: value for key, value in _PUBLISHED.items() if key != "hidden_size"}
    assert onevision_config(config, 100, _FILE)["text_config"]["hidden_size"] == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mm_vision_tower": "openai/clip-vit-large-patch14-336"},
            "openai/clip-vit-large-patch14-336 is not known",
        ),
        ({"mm_hidden_size": 1024}, "mm_hidden_size is 1024, but the vision tower has 1152"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported"),
        ({"add_faster_video": True}, "add_faster_video is not supported"),
        (
            {"mm_spatial_pool_mode": "nearest"},
            "pool_mode 'nearest' is not supported; set one of bilinear, average, max",
        ),
        (
            {"mm_newline_position": "x"},
            "position 'x' is not supported; set one of grid, frame, one_token, no_token",
        ),
    ],
)
def test_usage_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _family(onevision_config(_PUBLISHED | changes, 100, _FILE))
