"""Reading transforms from checkpoints: settings, usage errors, and that decoding processes need no framework."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.captioners.images import KINDS, from_folder
from pipeline.captioning.captioners.images.crop import Crop
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.images.published import CLIP_MEAN, CLIP_STD, frames, write_folder

ROOT = Path(__file__).resolve().parents[4]
PUBLISHED_IN = {
    "crop": "llava-1.5-7b-hf",
    "square": "llava-onevision-qwen2-7b-ov-hf",
    "tiles": "llava-v1.6-mistral-7b-hf",
    "onevision_tiles": "llava-onevision-qwen2-7b-ov-hf",
    "onevision_square": "llava-onevision-qwen2-7b-ov-hf",
    "patches_of_two": "Qwen2.5-VL-7B-Instruct",
    "internvl": "InternVL3-1B-hf",
    "padded_square": "Janus-Pro-1B-hf",
}
"""A checkpoint for each kind."""
KIND_OF = {name: kind for kind, name in PUBLISHED_IN.items() if not kind.startswith("onevision")}
"""The kind for frames of videos."""

_IN_A_DECODING_PROCESS = """
import pickle, sys
transforms, images = pickle.load(sys.stdin.buffer)
arrays = [transform(images) for transform in transforms]
frameworks = {"torch", "mindspore", "mindnlp", "transformers"} & set(sys.modules)
if frameworks:
    sys.exit(f"imported {frameworks}")
sys.stdout.buffer.write(pickle.dumps(arrays))
"""


def test_a_process_without_a_framework_gives_the_same_pixels(tmp_path: Path) -> None:
    transforms = [from_folder(write_folder(tmp_path, name), kind) for kind, name in PUBLISHED_IN.items()]
    assert sorted(PUBLISHED_IN) == sorted(KINDS)
    images = frames((120, 90))
    command = [sys.executable, "-c", _IN_A_DECODING_PROCESS]
    message = pickle.dumps((transforms, images))
    done = subprocess.run(command, input=message, capture_output=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    for transform, found in zip(transforms, pickle.loads(done.stdout), strict=True):
        np.testing.assert_array_equal(found, transform(images))


def test_settings_of_the_file(tmp_path: Path) -> None:
    crop = Crop.from_folder(write_folder(tmp_path, "llava-1.5-7b-hf", resample=2, size=400, crop_size=336))
    assert (crop.size, crop.crop_size, crop.resample) == (400, (336, 336), 2)
    assert crop.mean == tuple(CLIP_MEAN)
    assert crop.std == tuple(CLIP_STD)
    assert crop.rescale_factor == 0.00392156862745098
    same_for_all = Crop.from_folder(write_folder(tmp_path, "llava-1.5-7b-hf", image_mean=0.5, resample=None))
    assert (same_for_all.mean, same_for_all.resample) == ((0.5, 0.5, 0.5), 3)


def test_overrides_replace_fields_of_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "Qwen2.5-VL-7B-Instruct")
    assert PatchesOfTwo.from_folder(folder).max_pixels == 12845056
    changed = from_folder(folder, "patches_of_two", max_pixels=28 * 28 * 64)
    assert changed([frames((900, 500), 1)[0]]).shape == (1, 140, 280, 3)
    assert str(changed) != str(PatchesOfTwo.from_folder(folder))


def test_limits_of_qwen_given_as_edges(tmp_path: Path) -> None:
    edges = {"shortest_edge": 5000, "longest_edge": 90000}
    folder = write_folder(tmp_path, "Qwen2.5-VL-7B-Instruct", min_pixels=None, max_pixels=None, size=edges)
    transform = PatchesOfTwo.from_folder(folder)
    assert (transform.min_pixels, transform.max_pixels) == (5000, 90000)


@pytest.mark.parametrize(
    ("checkpoint", "changes", "message"),
    [
        ("llava-1.5-7b-hf", {"size": None}, 'size is missing; expected a size in pixels: {"shortest_edge": N}'),
        ("llava-1.5-7b-hf", {"size": {"shortest_edge": 0}}, "size is {'shortest_edge': 0}; expected a size in pixels"),
        ("llava-1.5-7b-hf", {"size": {"width": 336}}, "size is {'width': 336}; expected a size in pixels"),
        ("llava-1.5-7b-hf", {"crop_size": "336"}, "crop_size is '336'; expected a size in pixels"),
        ("llava-1.5-7b-hf", {"resample": 9}, "resample is 9; expected a filter of PIL: 0 (nearest), 1 (lanczos)"),
        ("llava-1.5-7b-hf", {"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5]; expected three numbers"),
        ("llava-1.5-7b-hf", {"image_mean": None}, "image_mean is missing; expected three numbers"),
        ("llava-1.5-7b-hf", {"image_std": [0.5, 0, 1]}, "image_std is [0.5, 0, 1]; expected three positive numbers"),
        ("llava-1.5-7b-hf", {"rescale_factor": "1/255"}, "rescale_factor is '1/255'; expected a positive number"),
        ("llava-1.5-7b-hf", {"do_normalize": False}, "do_normalize is False; expected true"),
        ("llava-1.5-7b-hf", {"do_center_crop": False}, "do_center_crop is False; expected true"),
        (
            "llava-1.5-7b-hf",
            {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
            "do_pad is True; expected false",
        ),
        ("llava-v1.6-mistral-7b-hf", {"crop_size": 224}, "crop_size is 224; expected the size of a tile, 336"),
        ("llava-v1.6-mistral-7b-hf", {"image_grid_pinpoints": []}, "image_grid_pinpoints is []; expected a list of"),
        ("llava-v1.6-mistral-7b-hf", {"image_grid_pinpoints": [[336]]}, "image_grid_pinpoints is [[336]]; expected"),
        (
            "llava-v1.6-mistral-7b-hf",
            {"image_grid_pinpoints": [[336, 400]]},
            "image_grid_pinpoints 336x400 is no multiple of the tile size 336",
        ),
        ("Qwen2.5-VL-7B-Instruct", {"patch_size": 0}, "patch_size is 0; expected a whole number of at least 1"),
        ("Qwen2.5-VL-7B-Instruct", {"max_pixels": 100}, "min_pixels 3136 is more than max_pixels 100"),
        ("InternVL3-1B-hf", {"max_patches": 2.5}, "max_patches is 2.5; expected a whole number of at least 1"),
        ("InternVL3-1B-hf", {"min_patches": 13}, "min_patches 13 is more than max_patches 12"),
        ("Janus-Pro-1B-hf", {"size": {"height": 384, "width": 400}}, "'width': 400}; expected a square"),
    ],
)
def test_usage_errors(tmp_path: Path, checkpoint: str, changes: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path, checkpoint, **changes)
    expected = re.escape(str(folder / "preprocessor_config.json")) + ": .*" + re.escape(message)
    with pytest.raises(UsageError, match=expected):
        from_folder(folder, KIND_OF[checkpoint])


VIDEO_FILES = ("video_preprocessor_config.json", "video_processor_config.json")


@pytest.mark.parametrize("name", VIDEO_FILES)
@pytest.mark.parametrize(
    ("checkpoint", "key", "value", "own"),
    [
        # As published for InternVL3.5.
        ("InternVL3-1B-hf", "size", {"height": 384, "width": 384}, "{'height': 448, 'width': 448}"),
        ("InternVL3-1B-hf", "image_mean", CLIP_MEAN, "[0.485, 0.456, 0.406]"),
        ("llava-onevision-qwen2-7b-ov-hf", "image_std", CLIP_STD, "[0.5, 0.5, 0.5]"),
        ("llava-1.5-7b-hf", "crop_size", {"height": 224, "width": 224}, "{'height': 336, 'width': 336}"),
        ("llava-1.5-7b-hf", "size", {"height": 336, "width": 336}, "{'shortest_edge': 336}"),
        ("Qwen2.5-VL-7B-Instruct", "image_mean", 0.5, str(CLIP_MEAN)),
    ],
)
def test_another_transform_for_videos_is_refused(
    tmp_path: Path, checkpoint: str, key: str, value: object, own: str, name: str
) -> None:
    folder, kind = write_folder(tmp_path, checkpoint), KINDS[KIND_OF[checkpoint]]
    (folder / name).write_text(json.dumps({key: value}))
    both = f"{folder / name}: {key} is {value}, but {own} in {folder / 'preprocessor_config.json'}; "
    with pytest.raises(UsageError, match=re.escape(both)):
        kind.check_video_file(folder)


@pytest.mark.parametrize(
    ("checkpoint", "entries"),
    [
        ("llava-onevision-qwen2-7b-ov-hf", {"size": 384, "crop_size": None, "image_mean": 0.5, "do_pad": False}),
        ("llava-1.5-7b-hf", {"size": {"shortest_edge": 336}, "crop_size": 336, "image_std": CLIP_STD}),
        ("Qwen2.5-VL-7B-Instruct", {"size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}}),
        ("InternVL3-1B-hf", {}),
    ],
)
def test_the_same_transform_for_videos_is_accepted(tmp_path: Path, checkpoint: str, entries: dict[str, Any]) -> None:
    folder = write_folder(tmp_path, checkpoint)
    (folder / VIDEO_FILES[0]).write_text(json.dumps(entries))
    KINDS[KIND_OF[checkpoint]].check_video_file(folder)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"preprocessor_config\.json is missing or empty"):
        from_folder(tmp_path, "square")
