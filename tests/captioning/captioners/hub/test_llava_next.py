"""LLaVA-1.6 on the common captioner: features and block lengths are those of transformers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_next import LlavaNext
from pipeline.captioning.captioners.images.tiles import best_resolution
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.hub import tiny

pytestmark = pytest.mark.model

_SIDE = tiny.CLIP["image_size"]
_PINPOINTS = [[rows * _SIDE, columns * _SIDE] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
_SIZES = ((100, 180), (230, 90), (71, 64), (37, 240))
_INDICES = ((0, 1), (0, 1, 2), (0, 0, 0), (0,))


def _config(**changes: Any) -> dict[str, Any]:
    config = {
        "text_config": tiny.TEXT, "vision_config": tiny.CLIP, "image_token_index": tiny.IMAGE,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_grid_pinpoints": _PINPOINTS,
    }  # fmt: skip
    return config | changes


def _clip(row: int) -> tiny.SizedClip:
    height, width = best_resolution(*_SIZES[row], _PINPOINTS)
    tiles = 1 + height * width // _SIDE**2
    frames = tiny.noise(row, max(_INDICES[row]) + 1, tiles, _SIDE, _SIDE, 3)
    return tiny.SizedClip(row, "", frames, _INDICES[row], size=_SIZES[row])


def _inputs(family: Any, clip: Any) -> dict[str, Any]:
    import torch

    return {
        "pixel_values": tiny.pixels(tiny.sampled(clip)),
        "image_sizes": torch.tensor([clip.size] * len(clip.frame_index)),
    }


def _features(model: Any, inputs: Any) -> Any:
    import torch

    return torch.cat(model.model.get_image_features(**inputs))


TINY = (
    tiny.Tiny(
        name="llava next",
        model_class="LlavaNextForConditionalGeneration",
        config=_config(),
        family=lambda config: LlavaNext(config, tiny.TRANSFORM),
        clips=tuple(map(_clip, range(4))),
        inputs=_inputs,
        features=_features,
        placeholder=tiny.IMAGE,
    ),
)


def test_features_are_those_of_transformers(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_features(TINY[0], backend, tmp_path)


def test_published_names(backend: Backend, tmp_path: Path) -> None:
    tiny.assert_published_names(TINY[0], tmp_path)


def test_lengths_of_blocks_for_many_sizes(backend: Backend) -> None:
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    config = _config(
        vision_config=tiny.CLIP | {"image_size": 336},
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    )
    family = LlavaNext(config, tiny.TRANSFORM)
    frames = tiny.noise(0, 1, 1, 1, 1, 3)  # their content does not count
    sides = (1, 7, 90, 144, 240, 333, 336, 337, 480, 671, 672, 673, 720, 1008, 1080, 1919, 3840)
    for height, width in itertools.product(sides, sides):
        best = select_best_resolution((height, width), config["image_grid_pinpoints"])
        patches, newlines = LlavaNextProcessor._get_unpadded_features(
            None, height, width, 24, 24, best[0] // 336, best[1] // 336
        )
        lengths = family.block_lengths(tiny.SizedClip(0, "", frames, (0, 0), size=(height, width)))
        assert lengths == [576 + patches + newlines] * 2, (height, width)


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"'full' leaves 26 features of 25 patches; CLIP needs 'default'"):
        LlavaNext(_config(vision_feature_select_strategy="full"), tiny.TRANSFORM)
