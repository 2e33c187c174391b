"""LLaVA-NeXT-Video on the common captioner: features are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_next_video import LlavaNextVideo
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model


def _config(**changes: Any) -> dict[str, Any]:
    config = {
        "text_config": tiny.TEXT, "vision_config": tiny.CLIP, "image_token_index": tiny.IMAGE,
        "video_token_index": tiny.VIDEO, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "spatial_pool_mode": "average", "spatial_pool_stride": 2,
        "image_grid_pinpoints": [[70, 140], [140, 70], [140, 140], [210, 70], [70, 210]],
    }  # fmt: skip
    return config | changes


def _features(model: Any, inputs: Any) -> Any:
    features = model.model.get_video_features(inputs["pixel_values_videos"])[0]
    return features.reshape(-1, features.shape[-1])


def _tiny(name: str, **changes: Any) -> tiny.Tiny:
    return tiny.Tiny(
        name=name,
        model_class="LlavaNextVideoForConditionalGeneration",
        config=_config(**changes),
        family=lambda config: LlavaNextVideo(config, tiny.TRANSFORM),
        clips=tiny.square_clips(tiny.CLIP["image_size"]),
        inputs=lambda family, clip: {"pixel_values_videos": tiny.pixels(tiny.sampled(clip))[None]},
        features=_features,
    )


TINY = (
    _tiny("llava next video"),
    _tiny("llava next video max", spatial_pool_mode="max", spatial_pool_stride=3),
)


@pytest.mark.parametrize("model", TINY, ids=lambda model: model.name)
def test_features_are_those_of_transformers(model: tiny.Tiny, backend: Backend, tmp_path: Path) -> None:
    tiny.assert_features(model, backend, tmp_path)


def test_published_names(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_published_names(TINY[0], tmp_path)


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"spatial_pool_mode 'conv' is not supported; set average or max"):
        LlavaNextVideo(_config(spatial_pool_mode="conv"), tiny.TRANSFORM)
