"""InternVL: captions are those of transformers' `generate`, and published names are the model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.internvl import InternVl
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError

from . import random_models as small

IMAGE = 290
SIDE = 56
CLIPS = small.clips(SIDE)
GREEDY = GenerationOptions(max_new_tokens=small.NEW_TOKENS)


def _config(attention: str, **vision: Any) -> Any:
    from transformers import InternVLConfig

    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": [SIDE, SIDE],
        "patch_size": [14, 14],
        **vision,
    }
    text = {**small.TEXT, "model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": False}
    config = InternVLConfig(vision_config=tower, text_config=text, image_token_id=IMAGE)
    config._attn_implementation = attention
    return config


def _family(**vision: Any) -> InternVl:
    return InternVl(_config("eager", **vision).to_dict(), small.TRANSFORM)


def _model(attention: str, **vision: Any) -> Any:
    return small.filled(_family().model_class(), _config(attention, **vision), 0.15)


def _ours(backend: Backend, **vision: Any) -> Any:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

    return _model(UNMASKED_ATTENTION, **vision)


@pytest.mark.parametrize("pooled", [True, False])
def test_features_are_those_of_transformers(backend: Backend, pooled: bool) -> None:
    """With and without the layer norm after the tower, and with the normalised queries of the largest tower."""
    import torch

    vision = {"use_mean_pooling": pooled, "use_qk_norm": not pooled, "norm_type": "layer_norm"}
    frames = CLIPS[3].frames
    with torch.no_grad():
        expected = _model("eager", **vision).get_image_features(small.pixels(CLIPS[3], range(4)))
        found = _family(**vision).features(_ours(backend, **vision), torch.from_numpy(frames))
    assert found.shape == (4, 4, 64) and _family().block_lengths(CLIPS[3]) == [4] * 4
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["published", "names of the model"])
def test_a_checkpoint_loads_in_both_layouts(backend: Backend, tmp_path: Path, layout: str) -> None:
    from safetensors.torch import save_file

    from pipeline.captioning.captioners.loading import load_weights, meta_model

    stored = _model("eager")
    if layout == "published":
        stored.save_pretrained(tmp_path)
    else:
        save_file(stored.state_dict(), tmp_path / "model.safetensors")
    weights = CheckpointWeights(tmp_path, _family().weight_names())
    loaded = load_weights(meta_model(_family().model_class(), _config("eager")), weights, backend.device, backend.dtype)
    expected = dict(stored.named_parameters())
    assert expected and all(bool((value == expected[name]).all()) for name, value in loaded.named_parameters())


def test_the_published_models_have_256_tokens_for_each_frame(backend: Backend) -> None:
    from transformers import InternVLConfig

    family = InternVl(InternVLConfig().to_dict(), small.TRANSFORM)
    assert family.block_lengths(CLIPS[1]) == [256] * 3 and family.unit_bytes(4) > 0


def test_the_published_names() -> None:
    names = _family().weight_names()
    for stored, name in (
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("vision_tower.encoder.layer.0.lambda_1", "model.vision_tower.encoder.layer.0.lambda_1"),
        ("multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias"),
        (
            "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        ),
    ):
        assert names.model_name(stored) == name


def test_features_that_transformers_does_not_compute_are_refused() -> None:
    config = _config("eager").to_dict()
    for change, message in (
        ({"vision_feature_layer": -2}, "vision_feature_layer -2"),
        ({"vision_feature_select_strategy": "full"}, "'full'"),
        ({"vision_config": {**config["vision_config"], "image_size": [56, 84]}}, r"image_size \[56, 84\]"),
    ):
        with pytest.raises(UsageError, match=message):
            InternVl({**config, **change}, small.TRANSFORM)


def test_the_prompt_of_a_typical_clip_is_counted_with_its_blocks(backend: Backend) -> None:
    captioner = small.captioner(_family(), _ours(backend), backend, GREEDY, CLIPS[3])
    (request,) = captioner.prepare([dataclasses.replace(CLIPS[3], row=7)])
    prefix = len(small.BEFORE)
    assert request.key == (7, 0) and request.has_prefix
    assert request.next_position == prefix + 4 * 4 + 3 * len(small.BETWEEN) + len(small.AFTER)
    assert request.length == request.next_position - prefix == len(request.embeddings)
