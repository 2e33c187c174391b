"""Qwen2-VL and Qwen2.5-VL on the common captioner: features are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.qwen2_vl import Qwen2Vl
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import UsageError
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
_TRANSFORM = PatchesOfTwo(mean=tiny.MEAN, std=tiny.STD)
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

    frames = tiny.sampled(clip)
    frames = np.concatenate([frames, frames[len(frames) - len(frames) % 2 : len(frames)]])
    pixels = tiny.pixels(frames.reshape(-1, 2, *frames.shape[1:]))
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
        family=lambda config: Qwen2Vl(config, _TRANSFORM),
        has_published_names=False,
        clips=[Clip(row, "", tiny.noise(row, n, h, w, 3), index) for row, (n, h, w, index) in enumerate(_CLIPS)],
        inputs=_inputs,
        features=lambda model, inputs: model.model.visual(
            inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]
        ),
        before=(*tiny.BEFORE, _START),
        after=(_END, *tiny.AFTER),
    )


TINY = tuple(map(_tiny, _VISION))


@pytest.mark.parametrize("model", TINY, ids=lambda model: model.name)
def test_features_are_those_of_transformers(model: tiny.Tiny, backend: Backend, tmp_path: Path) -> None:
    """Grids with and without whole windows of 2 x 2 visual tokens, in one row, in one window; several pairs at once.

    On both frameworks transformers' tower runs with the weights of our captioner.
    """
    import torch

    captioner = model.captioner(backend, model.write(tmp_path))
    family, _ = model.made()
    sizes = ((112, 112), (84, 140), (140, 84), (112, 84), (28, 196), (196, 28), (56, 56), (28, 28))
    for row, (height, width) in enumerate(sizes):
        clip = Clip(row, "", tiny.noise(row, 5, height, width, 3), (0, 1, 2, 3, 4))
        with torch.no_grad():
            (found,) = captioner._blocks([clip])[0]
            expected = model.features(captioner._model, _inputs(family, clip))
        assert len(found) == family.block_lengths(clip)[0] == 3 * height * width // 28**2
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=tiny.TOLERANCE)


@pytest.mark.parametrize("kind", _VISION)
def test_memory_follows_the_largest_frame_and_the_tower(kind: str) -> None:
    def unit_bytes(max_pixels: int, **vision: int) -> int:
        config = {
            **_config(kind),
            "vision_config": {"spatial_merge_size": 2, "temporal_patch_size": 2, **_VISION[kind]},
        }
        config["vision_config"] |= vision
        transform = PatchesOfTwo(mean=tiny.MEAN, std=tiny.STD, min_pixels=1, max_pixels=max_pixels)
        return Qwen2Vl(config, transform).unit_bytes(2)

    width = {"qwen2_vl": "embed_dim", "qwen2_5_vl": "hidden_size"}[kind]
    published = unit_bytes(256 * 28**2, **{width: 1280})
    # 1024 patches: the input, queries, keys and values; queries and keys in float32, swapped, and both products.
    assert published >= 1024 * 1280 * (4 * 2 + 4 * 2 * 4)
    assert unit_bytes(1024 * 28**2, **{width: 1280}) == 4 * published
    assert unit_bytes(256 * 28**2, **{width: 2560}) == 2 * published
    assert unit_bytes(1) > 0  # the smallest frame is one visual token


def test_different_patches_are_refused() -> None:
    vision = {"spatial_merge_size": 2, "temporal_patch_size": 2, **_VISION["qwen2_vl"], "patch_size": 16}
    with pytest.raises(UsageError, match=r"\(16, 2, 2\), but \(14, 2, 2\) in preprocessor_config"):
        Qwen2Vl({"model_type": "qwen2_vl", "vision_config": vision}, _TRANSFORM)


@pytest.mark.parametrize(
    ("frames", "duration", "seconds"), [(8, 20.0, 5.0), (5, 5.0, 2.0), (1, 3.0, 6.0), (4, 0.0, 1.0), (32, 60.0, 3.75)]
)
def test_seconds_of_a_pair_are_those_of_the_publishers_loader(frames: int, duration: float, seconds: float) -> None:
    """qwen-vl-utils: frames / duration are sampled per second. An odd last frame is repeated and does not count."""
    index = [*range(frames), *[frames - 1] * (frames % 2)]
    clip = Clip(0, "", tiny.noise(0, frames, 56, 56, 3), tuple(index), duration=duration)
    family, _ = _tiny("qwen2_5_vl").made()
    assert family._seconds_per_pair(clip) == seconds
