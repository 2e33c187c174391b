"""Janus: captions are those of transformers' `generate`, and no part that generates images is built or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.janus import Janus
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError

from . import random_models as small

IMAGE = 290
SIDE = 32
CLIPS = small.clips(SIDE)
GREEDY = GenerationOptions(max_new_tokens=small.NEW_TOKENS)
GENERATION_PARTS = ("model.vqmodel.", "model.generation_")


def _config(attention: str) -> Any:
    from transformers import JanusConfig

    tower = {
        "hidden_size": 32,
        "mlp_ratio": 2.0,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 16,
        "projection_dim": 64,
        "num_image_tokens": 4,
    }
    decoder = {"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1, 1]}
    generation = {
        **decoder,
        "num_res_blocks": 1,
        "latent_channels": 32,
        "projection_dim": 64,
        "image_token_embed_dim": 64,
    }
    config = JanusConfig(
        text_config={**small.TEXT, "model_type": "llama"},
        vision_config=tower,
        vq_config=generation,
        image_token_id=IMAGE,
    )
    config._attn_implementation = attention
    return config


def _family() -> Janus:
    return Janus(_config("eager").to_dict(), small.TRANSFORM)


def _theirs() -> Any:
    """transformers' own model, with the parts that generate images."""
    from transformers import JanusForConditionalGeneration

    return small.filled(JanusForConditionalGeneration, _config("eager"), 0.15)


def _ours(backend: Backend) -> Any:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

    return small.filled(_family().model_class(), _config(UNMASKED_ATTENTION), 0.15)


def test_features_are_those_of_transformers(backend: Backend) -> None:
    import torch

    with torch.no_grad():
        expected = _theirs().model.get_image_features(small.pixels(CLIPS[3], range(4)))
        found = _family().features(_ours(backend), torch.from_numpy(CLIPS[3].frames))
    assert found.shape == (4, 4, 64) and _family().block_lengths(CLIPS[3]) == [4] * 4
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5, rtol=1e-5)


def test_the_published_models_have_576_tokens_for_each_frame(backend: Backend) -> None:
    from transformers import JanusConfig

    family = Janus(JanusConfig().to_dict(), small.TRANSFORM)
    assert family.block_lengths(CLIPS[1]) == [576] * 3 and family.unit_bytes(4) > 0


def test_a_checkpoint_loads_without_the_parts_that_generate_images(backend: Backend, tmp_path: Path) -> None:
    from pipeline.captioning.captioners.loading import load_weights, meta_model, weight_shapes

    theirs = _theirs()
    theirs.save_pretrained(tmp_path)
    names = _family().weight_names()
    empty = meta_model(_family().model_class(), _config("eager"))
    loaded = load_weights(empty, CheckpointWeights(tmp_path, names), backend.device, backend.dtype)
    stored = dict(theirs.named_parameters())
    left_out = set(stored) - set(weight_shapes(loaded))
    assert left_out == {name for name in stored if name.startswith(GENERATION_PARTS)} and len(left_out) > 20
    for name, value in loaded.named_parameters():
        assert bool((value == stored[name]).all()), name


def test_a_missing_weight_is_a_usage_error(backend: Backend, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from pipeline.captioning.captioners.loading import meta_model, weight_shapes

    stored = {name: value for name, value in _theirs().state_dict().items() if name != "model.aligner.fc1.bias"}
    save_file(stored, tmp_path / "model.safetensors")
    expected = weight_shapes(meta_model(_family().model_class(), _config("eager")))
    with pytest.raises(UsageError, match=r"1 weights: missing: model\.aligner\.fc1\.bias"):
        CheckpointWeights(tmp_path, _family().weight_names()).check(expected)
