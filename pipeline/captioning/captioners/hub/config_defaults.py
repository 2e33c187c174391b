"""Completes and checks config.json, which often leaves out entries that have the default value of transformers.

Only entries that are read before the framework is imported are added; transformers adds the others when it builds the
model. The default values are those of transformers 4.55. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...process.errors import UsageError
from ..images.tiles import DEFAULT_PINPOINTS, ONEVISION_PINPOINTS

_TEXT: Mapping[str, Mapping[str, Any]] = {
    "llama": {"hidden_size": 4096},
    "mistral": {"hidden_size": 4096},
    "qwen2": {"hidden_size": 4096},
    "opt": {"hidden_size": 768},
    "t5": {"d_model": 512},
}
"""By the type of the text model."""

_SIGLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 224, "patch_size": 16}
_QWEN_TOWER = {"depth": 32, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_VISION: Mapping[str, Mapping[str, Any]] = {
    "clip_vision_model": {**_SIGLIP, "patch_size": 32},
    "siglip_vision_model": _SIGLIP,
    "internvl_vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    },
    "janus_vision_model": {
        "hidden_size": 1024,
        "image_size": 384,
        "patch_size": 16,
        "mlp_ratio": 4.0,
        "projection_dim": 2048,
    },
    "blip_2_vision_model": {"hidden_size": 1408, "intermediate_size": 6144, "image_size": 224, "patch_size": 14},
    "qwen2_vl": {**_QWEN_TOWER, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4},
    "qwen2_5_vl": {
        **_QWEN_TOWER,
        "hidden_size": 3584,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "tokens_per_second": 4,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
"""By the type of the vision tower."""

_LLAVA = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
_PINPOINTS = list(map(list, DEFAULT_PINPOINTS))
_ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "llava": _LLAVA,
    "llava_next": {**_LLAVA, "image_grid_pinpoints": _PINPOINTS},
    "llava_next_video": {
        **_LLAVA,
        "spatial_pool_mode": "average",
        "spatial_pool_stride": 2,
        "image_grid_pinpoints": _PINPOINTS,
    },
    "llava_onevision": {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": list(map(list, ONEVISION_PINPOINTS)),
    },
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "blip-2": {"num_query_tokens": 32},
    "janus": {},
    "internvl": {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "downsample_ratio": 0.5,
    },
}
"""By the family."""

_SIDES = ("image_size", "patch_size")
"""Entries that are a number, or a list of height and width."""

_PARTS = {
    "llava": ("llama", "clip_vision_model"),
    "llava_next": ("llama", "clip_vision_model"),
    "llava_next_video": ("llama", "clip_vision_model"),
    "llava_onevision": ("qwen2", "siglip_vision_model"),
    "blip-2": ("opt", "blip_2_vision_model"),
    "janus": ("llama", "janus_vision_model"),
    "internvl": ("qwen2", "internvl_vision"),
}
"""By the family: type of the text model and of the vision tower, if config.json does not name them."""


def completed(config: Mapping[str, Any], family: str, path: Path) -> dict[str, Any]:
    """A copy of `config` with the entries that it leaves out.

    family: name of the family, whose `model_type` the copy has. path: of config.json, for messages.

    Raises:
        UsageError: a part is missing, an entry has the wrong type, or the weights are quantized.
    """
    if config.get("quantization_config"):
        raise UsageError(f"{path}: quantized weights (quantization_config) are not supported; use the unquantized ones")
    done = {**config, "model_type": family}
    _complete(done, _ENTRIES[family], str(path))
    vision = _part(config, "vision_config", path)
    if family in _PARTS:
        text = _part(config, "text_config", path)
        text_type, vision_type = _PARTS[family]
        text.setdefault("model_type", text_type)
        if family.startswith("llava"):  # the others have one kind of tower
            vision_type = vision.setdefault("model_type", vision_type)
        _complete(text, _TEXT.get(text["model_type"], {}), f"{path}: text_config")
        done["text_config"] = text
    else:
        vision_type = family
        if "text_config" in config:
            _part(config, "text_config", path)
    _complete(vision, _VISION.get(vision_type, {}), f"{path}: vision_config")
    is_apart = isinstance(done.get("text_config"), dict)
    _check_lengths(text_settings(done), f"{path}: text_config" if is_apart else str(path))
    return {**done, "vision_config": vision}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the path of a file before the message of a UsageError that is about an entry of the file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of the text model: those of the whole file in the published layout of the Qwen families."""
    text: Mapping[str, Any] | None = config.get("text_config")
    return config if text is None else text


def _part(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        found = "is missing" if part is None else f"is {part!r}"
        raise UsageError(f"{path}: {name} {found}; expected an object, as in the published checkpoint")
    if not isinstance(part.get("model_type", ""), str):
        raise UsageError(f"{path}: {name}: model_type is {part['model_type']!r}; expected a text")
    return dict(part)


def _check_lengths(text: Mapping[str, Any], where: str) -> None:
    """Check the entries that `LengthLimit` reads. A window may be null; an absent entry has its default value."""
    for name in ("max_position_embeddings", "num_hidden_layers", "max_window_layers", "sliding_window"):
        value = text.get(name, 1)
        if value is not None or name != "sliding_window":
            check_whole_number(name, value, where)


def check_whole_number(name: str, value: object, where: str) -> None:
    """Check an entry.

    where: the file and the part of it that has the entry, for the message.

    Raises:
        UsageError: the value is not a whole number of at least 0.
    """
    if not _is_whole(value):
        raise UsageError(f"{where}: {name} is {value!r}; expected a whole number")


def _complete(entries: dict[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Add `defaults`, and check that entries have the types of their defaults; sizes are positive."""
    for name, default in defaults.items():
        value = entries.setdefault(name, default)
        if not (_is_like(value, default) or (name in _SIDES and _is_like(value, 1))):
            raise UsageError(f"{where}: {name} is {value!r}; expected a value like {default!r}")


def _is_like(value: object, default: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, list):
        return isinstance(value, list) and all(_is_item_like(item, default[0]) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and value > 0
    if default < 0:  # a layer of the tower; the family refuses lists with a message of its own
        return isinstance(value, int | list)
    return isinstance(value, int) and value > 0


def _is_item_like(value: object, default: Any) -> bool:
    return _is_like(value, default) if isinstance(default, list) else _is_whole(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
