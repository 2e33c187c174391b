"""LLaVA-OneVision on the common captioner: features are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_onevision import LlavaOnevision
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model

_CONFIG: dict[str, Any] = {
    "text_config": tiny.TEXT | {"model_type": "qwen2"}, "vision_config": tiny.SIGLIP, "image_token_index": tiny.IMAGE,
    "video_token_index": tiny.VIDEO, "vision_feature_layer": -2, "vision_feature_select_strategy": "full",
    "image_grid_pinpoints": [[98 * rows, 98 * columns] for rows in range(1, 7) for columns in range(1, 7)],
}  # fmt: skip


def _features(model: Any, inputs: Any) -> Any:
    import torch

    inner = model.model
    features = inner.get_video_features(
        inputs["pixel_values_videos"], _CONFIG["vision_feature_layer"], _CONFIG["vision_feature_select_strategy"]
    )
    return torch.cat([features[0], inner.image_newline[None]])


TINY = (
    tiny.Tiny(
        name="llava onevision",
        model_class="LlavaOnevisionForConditionalGeneration",
        config=_CONFIG,
        family=lambda config: LlavaOnevision(config, tiny.TRANSFORM),
        clips=tiny.square_clips(tiny.SIGLIP["image_size"]),
        inputs=lambda family, clip: {"pixel_values_videos": tiny.pixels(tiny.sampled(clip))[None]},
        features=_features,
    ),
)


def test_features_are_those_of_transformers(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_features(TINY[0], backend, tmp_path)


def test_published_names(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_published_names(TINY[0], tmp_path)


def test_usage_errors() -> None:
    config = _CONFIG | {"vision_feature_select_strategy": "default"}
    with pytest.raises(UsageError, match=r"'default' leaves 48 features of 49 patches; .* SigLIP needs 'full'"):
        LlavaOnevision(config, tiny.TRANSFORM)
