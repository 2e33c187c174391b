"""BLIP-2 with OPT and with T5: each sampled frame gets the caption of transformers' `generate`, and they are joined."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import DTYPES, Backend
from pipeline.captioning.captioners.hub.blip2 import Blip2
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason

from . import random_models as small

IMAGE = 290
SIDE = 28
QUERIES = 6
CLIPS = small.clips(SIDE)
GREEDY = GenerationOptions(max_new_tokens=8)
OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
T5 = {
    "model_type": "t5",
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 300,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
TEXTS = {"opt": OPT, "t5": T5}
TIED = {"tied opt": {**OPT, "tie_word_embeddings": True}}


def _config(text: str, attention: str) -> Any:
    """attention: of the vision tower. Text model and Q-Former keep transformers' own."""
    from transformers import Blip2Config

    config = Blip2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 14,
        },
        qformer_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 2,
        },
        text_config=(TEXTS | TIED)[text],
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )
    config._attn_implementation = attention
    config.text_config._attn_implementation = "eager"
    return config


def _family(text: str) -> Blip2:
    return Blip2(_config(text, "eager").to_dict(), small.TRANSFORM)


def _model(text: str, attention: str) -> Any:
    return small.filled(_family(text).model_class(), _config(text, attention), 0.25)


def _ours(text: str) -> Any:
    from pipeline.captioning.generation.attention import set_attention

    config = _config(text, "eager")
    set_attention(config)
    return small.filled(_family(text).model_class(), config, 0.25)


@pytest.mark.parametrize("text", TEXTS)
def test_features_are_those_of_transformers(backend: Backend, text: str) -> None:
    import torch

    with torch.no_grad():
        expected = _model(text, "eager").get_image_features(small.pixels(CLIPS[3], range(4)))
        found = _family(text).features(_ours(text), torch.from_numpy(CLIPS[3].frames))
    assert found.shape == (4, QUERIES, 64)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5, rtol=1e-5)


def test_the_published_models_have_32_tokens_for_each_frame(backend: Backend) -> None:
    from transformers import Blip2Config

    family = Blip2(Blip2Config().to_dict(), small.TRANSFORM)
    assert family.block_lengths(CLIPS[1]) == [32] * 3 and family.unit_bytes(4) > 0


@pytest.mark.parametrize(("text", "refused"), [("opt", []), ("t5", ["float16"])])
def test_only_t5_refuses_float16(backend: Backend, text: str, refused: list[str]) -> None:
    family = _family(text)
    assert [name for name in DTYPES if family.dtype_problem(name)] == refused


def test_a_frame_that_is_sampled_twice_gets_one_caption(backend: Backend) -> None:
    captioner = small.captioner(_family("opt"), _ours("opt"), backend, GREEDY, CLIPS[3])
    shapes = [tuple(request.embeddings.shape) for request in captioner.prepare(CLIPS)]
    tokens = QUERIES + len(small.BEFORE + small.AFTER)
    assert shapes == [(frames, tokens, 64) for frames in (2, 3, 1, 4)]


def test_the_middle_frame_alone_is_captioned_like_the_same_frame_among_others(backend: Backend) -> None:
    captioner = small.captioner(_family("opt"), _ours("opt"), backend, GREEDY, CLIPS[3])
    alone = Clip(9, "", CLIPS[3].frames[2:3], (0,))
    both = small.ends(captioner.engine(2), captioner.prepare([CLIPS[3], alone]))
    assert both[9, 0].ids == both[3, 0].parts[2].ids != both[3, 0].parts[0].ids
    assert captioner.caption(both[9, 0]).text == " ".join(map(str, both[9, 0].ids))


def test_empty_answers_are_left_out_of_the_caption(backend: Backend) -> None:
    from pipeline.captioning.generation.joined import JoinedEnd

    captioner = small.captioner(_family("opt"), _ours("opt"), backend, GREEDY, CLIPS[3])
    parts = [End(0, ids, EndReason.STOP) for ids in ([1], [], [1], [2], [1])]
    caption = captioner.caption(JoinedEnd(0, [1, 1, 2, 1], EndReason.STOP, parts=tuple(parts)))
    assert caption.text == "1; 2; 1" and caption.tokens == 4 and not caption.truncated


@pytest.mark.parametrize("text", TEXTS | TIED)
def test_a_checkpoint_loads(backend: Backend, tmp_path: Path, text: str) -> None:
    """With a copy of every tied weight, and without."""
    from safetensors.torch import save_file

    from pipeline.captioning.captioners.loading import load_weights, meta_model

    stored = _model(text, "eager")
    copies, published = tmp_path / "copies", tmp_path / "published"
    stored.save_pretrained(published)
    copies.mkdir()
    save_file({name: value.clone() for name, value in stored.state_dict().items()}, copies / "model.safetensors")
    for folder in (copies, published):
        empty = meta_model(_family(text).model_class(), _config(text, "eager"))
        loaded = load_weights(
            empty, CheckpointWeights(folder, _family(text).weight_names()), backend.device, backend.dtype
        )
        names = dict(loaded.named_parameters())
        assert "query_tokens" in names and "qformer.layernorm.weight" in names
        for name, value in stored.state_dict().items():
            assert bool((value == loaded.state_dict()[name]).all()), name
    head, embeddings = loaded.language_model.lm_head.weight, loaded.get_input_embeddings().weight
    assert (head is embeddings) == (text in TIED)


def test_the_rehearsal_and_the_slots_count_all_prompts(backend: Backend) -> None:
    captioner = small.captioner(_family("opt"), _ours("opt"), backend, GREEDY, CLIPS[3])
    captioner._rehearse(2)
    assert captioner.stages()["decode_tokens"] == 0
    engine = captioner.engine(2)
    for row in range(2):
        engine.add(captioner.prepare([dataclasses.replace(CLIPS[3], row=row)])[0])
    assert engine.free == 0 and engine.active == 2
    events = engine.step()  # one batch for all eight prompts
    assert sum(isinstance(event, End) for event in events) == 2 and engine.free == 2


@pytest.mark.model
def test_relative_positions_of_t5_do_not_depend_on_rounding(backend: Backend) -> None:
    """On PyTorch the buckets are those of transformers; its float32 logarithms give others with mindnlp on a CPU."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    from pipeline.captioning.captioners.hub.blip2_model import position_buckets

    assert position_buckets(torch.tensor([-64, -32, -16, 15, 16, 31, 32, 63, 64])).numpy().tolist() == [
        14, 12, 10, 25, 26, 27, 28, 29, 30,
    ]  # fmt: skip
    t5 = next(module for module in _ours("t5").modules() if isinstance(module, T5Attention))
    assert t5._relative_position_bucket is position_buckets
    if backend.framework == "torch":
        positions = torch.arange(-600, 601)[None]
        for arguments in itertools.product((True, False), (16, 32), (128, 256)):
            expected = T5Attention._relative_position_bucket(positions, *arguments)
            assert bool((position_buckets(positions, *arguments) == expected).all()), arguments
