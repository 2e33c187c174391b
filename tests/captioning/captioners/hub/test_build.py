"""The frame transform of a checkpoint fits its vision tower."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.captioning.captioners.hub import build
from pipeline.captioning.clips.clip import Clip
from tests.captioning.captioners.images.published import write_folder


def test_llava_with_a_siglip_tower_has_the_transform_of_siglip(tmp_path: Path) -> None:
    """As llava-interleave-qwen-0.5b-hf."""
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14},
        "text_config": {"model_type": "qwen2"},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_folder(tmp_path, "llava-onevision-qwen2-7b-ov-hf", image_processor_type="SiglipImageProcessor")
    family = build.make_family("llava", tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 640, 3), np.uint8))
    frames = family.frame_transform([image])
    np.testing.assert_array_equal(frames[0], np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC)))
    assert family.block_lengths(Clip(0, "", frames, (0,))) == [27 * 27]
