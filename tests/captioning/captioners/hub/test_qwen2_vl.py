"""Qwen2-VL and Qwen2.5-VL on the common captioner: features are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.qwen2_vl import Qwen2Vl
from pipeline.captioning.clips.clip import Clip
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model

_START, _END = 292, 293
_CLASSES = {"qwen2_vl": "Qwen2VLForConditionalGeneration", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
_VISION = {
    "qwen2_vl": {"depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14},
    "qwen2_5_vl": {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64,
        "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [2], "tokens_per_second": 2,
    },
}  # fmt: skip
# Frames of each clip: how many distinct ones, their height and width, and the index of each sampled frame.
_CLIPS = (
    (2, 84, 84, (0, 1)),
    (3, 56, 112, (0, 1, 2)),
    (1, 84, 56, (0, 0, 0, 0)),
    (4, 140, 84, (0, 1, 2, 3)),
)


def _config(kind: str) -> dict[str, Any]:
    text = {key: value for key, value in tiny.TEXT.items() if key != "model_type"}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    return {
        "model_type": kind, "text_config": text, "vision_config": _VISION[kind], "image_token_id": tiny.IMAGE,
        "video_token_id": tiny.VIDEO, "vision_start_token_id": _START, "vision_end_token_id": _END,
    }  # fmt: skip


def _inputs(family: Any, clip: Clip) -> dict[str, Any]:
    """Flat patches in the order of Qwen2VLImageProcessor: pairs, blocks of 2 x 2 patches, channels, frames, pixels."""
    import torch

    pixels = tiny.pixels(family.units(clip))
    pairs, _, _, height, width = pixels.shape
    rows, columns = height // 14, width // 14
    split = pixels.reshape(pairs, 2, 3, rows // 2, 2, 14, columns // 2, 2, 14)
    flat = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(pairs * rows * columns, -1)
    inputs = {"pixel_values_videos": flat, "video_grid_thw": torch.tensor([[pairs, rows, columns]])}
    if family.config["model_type"] == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = [1.0]  # what the family takes if a clip has no times
    return inputs


def _tiny(kind: str) -> tiny.Tiny:
    return tiny.Tiny(
        name=kind,
        model_class=_CLASSES[kind],
        config=_config(kind),
        family=lambda config: Qwen2Vl(config, None, tiny.MEAN, tiny.STD),
        names=None,
        clips=[Clip(row, "", tiny.noise(row, n, h, w, 3), index) for row, (n, h, w, index) in enumerate(_CLIPS)],
        inputs=_inputs,
        features=lambda model, inputs: model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"]
        )[0],
        before=(*tiny.BEFORE, _START),
        after=(_END, *tiny.AFTER),
    )


TINY = tuple(map(_tiny, _VISION))


@pytest.mark.parametrize("model", TINY, ids=lambda model: model.name)
def test_features_are_those_of_transformers(model: tiny.Tiny, backend: Backend, tmp_path: Path) -> None:
    tiny.assert_features(model, backend, tmp_path)
