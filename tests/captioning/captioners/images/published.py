"""preprocessor_config.json as published checkpoints have it, and frames of any size to compare image processors on.

The entries are written from memory of the published files and from the defaults of transformers' classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_HALF = [0.5, 0.5, 0.5]
_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
_COMMON = {**_STEPS, "resample": 3, "rescale_factor": 0.00392156862745098}
_CLIP = {**_COMMON, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_CLIP_336 = {
    **_CLIP,
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "size": {"shortest_edge": 336},
}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_QWEN = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-1.5-7b-hf": {
        **_CLIP_336,
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
    },
    "llava-v1.6-vicuna-7b-hf": {
        **_CLIP_336,
        "aspect_ratio_setting": "anyres",
        "do_pad": True,
        "image_grid_pinpoints": _PINPOINTS,
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
    },
    "llava-v1.6-mistral-7b-hf": {
        **_CLIP_336,
        "aspect_ratio_setting": "anyres",
        "image_grid_pinpoints": _PINPOINTS,
        "image_processor_type": "LlavaNextImageProcessor",
    },
    "LLaVA-NeXT-Video-7B-hf": {
        **_CLIP_336,
        "do_pad": True,
        "image_grid_pinpoints": _PINPOINTS,
        "image_processor_type": "LlavaNextVideoImageProcessor",
        "processor_class": "LlavaNextVideoProcessor",
    },
    "llava-onevision-qwen2-7b-ov-hf": {
        **_COMMON,
        "do_pad": True,
        "image_grid_pinpoints": [[384 * row, 384 * column] for row in range(1, 7) for column in range(1, 7)],
        "image_mean": _HALF,
        "image_std": _HALF,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "size": {"height": 384, "width": 384},
    },
    "Qwen2.5-VL-7B-Instruct": _QWEN,
    "blip2-opt-2.7b": {
        **_CLIP,
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "Blip2Processor",
        "size": {"height": 224, "width": 224},
    },
    "Janus-Pro-1B-hf": {
        **_COMMON,
        "background_color": [127, 127, 127],
        "image_mean": _HALF,
        "image_std": _HALF,
        "image_processor_type": "JanusImageProcessor",
        "processor_class": "JanusProcessor",
        "min_size": 14,
        "size": {"height": 384, "width": 384},
    },
    "InternVL3-1B-hf": {
        **_COMMON,
        "crop_size": None,
        "crop_to_patches": False,
        "data_format": "channels_first",
        "default_to_square": True,
        "do_center_crop": None,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": 12,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "size": {"height": 448, "width": 448},
    },
}

SIZES = [
    (640, 480),
    (480, 640),
    (1280, 720),
    (272, 640),
    (336, 336),
    (384, 384),
    (448, 448),
    (337, 335),
    (1001, 333),
    (151, 905),
    (57, 31),
    (30, 30),
    (1300, 40),
    (17, 300),
]
"""(width, height) of frames: usual, square, the sizes of vision towers, odd, wide, tall and tiny."""


def write_folder(folder: Path, checkpoint: str, **changes: Any) -> Path:
    """Write the file of a published checkpoint into `folder`. A change to None stores null; returns the folder."""
    entries = {**PUBLISHED[checkpoint], **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def frames(size: tuple[int, int], count: int = 2) -> list[Image.Image]:
    """Frames of (width, height): the first smooth and almost gray, then noise, then noise on a gradient with edges."""
    width, height = size
    random = np.random.default_rng(width * 10007 + height)
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[..., np.newaxis]
    gray = ramp + np.arange(3) + random.integers(0, 3, (height, width, 3))
    noise = random.integers(0, 256, (height, width, 3))
    edges = np.where(ramp.astype(int) // 20 % 2, 250, ramp) * np.array([1, 0.8, 0.5]) + noise / 51
    kinds = [gray, noise, edges.clip(0, 255)]
    return [Image.fromarray(kinds[index % 3].astype(np.uint8)) for index in range(count)]
