"""What a model multiplies for one clip: the sizes of its vision tower, its projector and its text model.

For the roofline limit. Knows nothing about devices and times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.captioning.captioners.pllava.configuration import PllavaConfig


@dataclass(frozen=True)
class Tower:
    """A vision tower and its projector.

    units: what the tower processes independently of each other, of one clip: frames or pairs of frames.
    patches: tokens of a unit. patch_values: values of a patch.
    attended: tokens that a token attends to, on average over the layers.
    mlp_matrices: matrices of width x intermediate in the MLP of a layer.
    projector: rows of a unit, and rows and columns of the matrix, of each linear layer of the projector.
    """

    units: int
    patches: int
    patch_values: int
    width: int
    intermediate: int
    layers: int
    attended: float
    mlp_matrices: int
    projector: Sequence[tuple[int, int, int]]

    @property
    def operations(self) -> float:
        """Operations of all matrix products for one clip."""
        weights = 4 * self.width**2 + self.mlp_matrices * self.width * self.intermediate
        layer = 2 * self.patches * weights + 4 * self.patches * self.attended * self.width
        projected = sum(2 * count * rows * columns for count, rows, columns in self.projector)
        return self.units * (self.layers * layer + 2 * self.patches * self.patch_values * self.width + projected)


@dataclass(frozen=True)
class ModelShape:
    """tower: for one clip. text: the configuration of the text model."""

    tower: Tower
    text: Mapping[str, Any]


def pllava_shape(config: PllavaConfig, frames: int) -> ModelShape:
    """frames: distinct frames of a clip."""
    vision, patches, width = config.vision, config.patch_grid**2, config.text["hidden_size"]
    tower = Tower(
        units=frames,
        patches=patches,
        patch_values=3 * vision["patch_size"] ** 2,
        width=vision["hidden_size"],
        intermediate=vision["intermediate_size"],
        layers=config.vision_layers,
        attended=patches,
        mlp_matrices=2,
        projector=((patches, vision["hidden_size"], width), (patches, width, width)),
    )
    return ModelShape(tower, config.text)


def onevision_shape(config: Mapping[str, Any], units: tuple[int, ...]) -> ModelShape:
    """LLaVA-OneVision. config: entries of config.json. units: shape of the frames of a clip."""
    vision, text = config["vision_config"], config["text_config"]
    patches, width = (vision["image_size"] // vision["patch_size"]) ** 2, text["hidden_size"]
    tower = Tower(
        units=units[0],
        patches=patches,
        patch_values=3 * vision["patch_size"] ** 2,
        width=vision["hidden_size"],
        intermediate=vision["intermediate_size"],
        layers=vision["num_hidden_layers"],
        attended=patches,
        mlp_matrices=2,
        projector=((patches, vision["hidden_size"], width), (patches, width, width)),
    )
    return ModelShape(tower, text)


def qwen2_5_vl_shape(config: Mapping[str, Any], units: tuple[int, ...]) -> ModelShape:
    """Qwen2.5-VL. config: entries of config.json. units: shape (pairs, 2, height, width, 3) of the pairs of a clip."""
    vision = config["vision_config"]
    patch, merge, layers = vision["patch_size"], vision["spatial_merge_size"], vision["depth"]
    patches = units[2] * units[3] // patch**2
    full = len(vision["fullatt_block_indexes"])
    window = min(patches, (vision["window_size"] // patch) ** 2)
    merged = merge**2 * vision["hidden_size"]
    tower = Tower(
        units=units[0],
        patches=patches,
        patch_values=3 * vision["temporal_patch_size"] * patch**2,
        width=vision["hidden_size"],
        intermediate=vision["intermediate_size"],
        layers=layers,
        attended=(full * patches + (layers - full) * window) / layers,
        mlp_matrices=3,
        projector=(
            (patches // merge**2, merged, merged),
            (patches // merge**2, merged, vision["out_hidden_size"]),
        ),
    )
    return ModelShape(tower, config)


def text_parameters(text: Mapping[str, Any]) -> int:
    """Number of weights that every token is multiplied with: the layers and the output head of the text model."""
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head_dim = text.get("head_dim") or width // heads
    kv_heads = text.get("num_key_value_heads") or heads
    layer = 2 * width * head_dim * (heads + kv_heads) + 3 * width * text["intermediate_size"]
    return text["num_hidden_layers"] * layer + width * text["vocab_size"]
