"""LLaVA-OneVision on the common captioner: features are those of transformers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.anyres import Anyres
from pipeline.captioning.captioners.hub.llava_onevision import LlavaOnevision
from pipeline.captioning.captioners.images.tiles import grid_shape
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model

_SIDE = tiny.SIGLIP["image_size"]
_ASPECT = {"vision_aspect_ratio": "anyres_max_9"}
_CONFIG: dict[str, Any] = {
    "text_config": tiny.TEXT | {"model_type": "qwen2"}, "vision_config": tiny.SIGLIP, "image_token_index": tiny.IMAGE,
    "video_token_index": tiny.VIDEO, "vision_feature_layer": -2, "vision_feature_select_strategy": "full",
    **_ASPECT, "image_grid_pinpoints": [[98 * rows, 98 * columns] for rows in range(1, 7) for columns in range(1, 7)],
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


def _image(row: int, height: int, width: int) -> tiny.SizedClip:
    rows, columns = grid_shape(height, width, tuple(map(tuple, _CONFIG["image_grid_pinpoints"])), _SIDE)
    frames = tiny.noise(row, 1, 1 + rows * columns, _SIDE, _SIDE, 3)
    return tiny.SizedClip(row, "", frames, (0,), size=(height, width), is_image=True)


def _image_features(model: Any, inputs: Any) -> Any:
    return model.model.get_image_features(**inputs)[0]


def _image_inputs(family: Any, clip: Any) -> dict[str, Any]:
    import torch

    return {"pixel_values": tiny.pixels(clip.frames), "image_sizes": torch.tensor([clip.size])}


def test_still_images_are_those_of_transformers(backend: Backend, tmp_path: Path) -> None:
    """The last three have so many patches that their grids are shrunk."""
    sizes = ((98, 98), (50, 20), (150, 400), (400, 400), (588, 500), (300, 588))
    images = tuple(_image(row, *size) for row, size in enumerate(sizes))
    model = replace(TINY[0], clips=images, inputs=_image_inputs, features=_image_features)
    # PyTorch rounds the positions between patches to float32; features differ by up to 6 from patch to patch.
    tiny.assert_features(model, backend, tmp_path, tolerance=1e-4)
    limited, unlimited = Anyres.of(_CONFIG, most_tiles=9), Anyres.of(_CONFIG)
    is_shrunk = [limited.length(image) < unlimited.length(image) for image in images]
    assert is_shrunk == [False, False, False, True, True, True]


def test_lengths_of_images_of_many_sizes(backend: Backend) -> None:
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

    pinpoints = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    vision = tiny.SIGLIP | {"image_size": 384}
    family = LlavaOnevision(
        _CONFIG | {"vision_config": vision, "image_grid_pinpoints": pinpoints, **_ASPECT}, tiny.TRANSFORM
    )
    counted = SimpleNamespace(vision_aspect_ratio="anyres_max_9")
    for height, width in itertools.product((1, 7, 90, 240, 383, 384, 720, 1080, 1536, 2304, 3840, 6001), repeat=2):
        best = select_best_resolution((height, width), pinpoints)
        scales = best[0] // 384, best[1] // 384
        tokens = LlavaOnevisionProcessor._get_unpadded_features(counted, height, width, 27, 27, *scales)
        clip = tiny.SizedClip(0, "", tiny.noise(0, 1, 3, 1, 1, 3), (0,), size=(height, width), is_image=True)
        assert family.block_lengths(clip) == [27**2 + sum(tokens)], (height, width)


def test_published_names(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_published_names(TINY[0], tmp_path)


def test_usage_errors() -> None:
    config = _CONFIG | {"vision_feature_select_strategy": "default"}
    with pytest.raises(UsageError, match=r"vision_aspect_ratio 'pad' is not supported; set anyres_max_9"):
        LlavaOnevision(_CONFIG | {"vision_aspect_ratio": "pad"}, tiny.TRANSFORM)
    with pytest.raises(UsageError, match=r"'default' leaves 48 features of 49 patches; .* SigLIP needs 'full'"):
        LlavaOnevision(config, tiny.TRANSFORM)
