"""The model families, and to which of them a checkpoint belongs.

Framework-free. The module that makes the source of a family is imported only when the family is chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..clips.sampling import FrameSampling
from ..process.errors import UsageError
from .checkpoint_config import read_config
from .prompts import DEFAULT_QUESTION


@dataclass(frozen=True)
class Family:
    """A model family.

    architectures: values of `architectures` in config.json that belong to it.
    model_types: values of `model_type` that belong to it if no architecture is known.
    module: the module below `captioners` that has its `make_source`.
    flags: flags of the command that only this family and a few others know.
    rate_sampling: the default in place of the family's `default_sampling` if `--fps` is given; None for no other.
    default_question: what is asked about every clip if the user gives no question; may be empty.
    """

    name: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    module: str
    flags: tuple[str, ...] = ()
    rate_sampling: FrameSampling | None = None
    default_question: str = DEFAULT_QUESTION


_PLLAVA, _PIXELS = ("pooling_shape", "conv_mode"), ("min_pixels", "max_pixels")
FAMILIES = (
    Family("pllava", ("PllavaForConditionalGeneration",), ("pllava",), "pllava.command", _PLLAVA),
    Family(
        "llava_qwen",
        ("LlavaQwenForCausalLM",),
        ("llava_qwen",),
        "hub.llava_qwen_source",
        ("vision_tower",),
        # What the loader of LLaVA-Video does if it is not told to take a fixed number of frames.
        rate_sampling=FrameSampling("step", 0, fps=1.0, max_frames=64),
    ),
    Family("llava", ("LlavaForConditionalGeneration",), ("llava",), "hub.build"),
    Family("llava_next", ("LlavaNextForConditionalGeneration",), ("llava_next",), "hub.build"),
    Family("llava_next_video", ("LlavaNextVideoForConditionalGeneration",), ("llava_next_video",), "hub.build"),
    Family("llava_onevision", ("LlavaOnevisionForConditionalGeneration",), ("llava_onevision",), "hub.build"),
    Family("qwen2_vl", ("Qwen2VLForConditionalGeneration",), ("qwen2_vl",), "hub.build", _PIXELS),
    Family("qwen2_5_vl", ("Qwen2_5_VLForConditionalGeneration",), ("qwen2_5_vl",), "hub.build", _PIXELS),
    # It has no chat: it continues an empty text, as for image captions in its paper.
    Family("blip-2", ("Blip2ForConditionalGeneration",), ("blip-2", "blip_2"), "hub.build", default_question=""),
    Family("janus", ("JanusForConditionalGeneration",), ("janus",), "hub.build"),
    Family("internvl", ("InternVLForConditionalGeneration",), ("internvl",), "hub.build", ("max_tiles",)),
)


def family_of(folder: Path, chosen: str | None) -> tuple[Family, str]:
    """The family of a checkpoint, and why. chosen: the value of `--family`, which takes precedence.

    Raises:
        UsageError: config.json is missing or unreadable, or names no supported family.
    """
    config = read_config(folder)
    found = _family_in(config)
    if chosen is not None:
        differs = found is not None and found[0].name != chosen
        also = f", although config.json has {found[1]}, which is {found[0].name}" if found and differs else ""
        return next(family for family in FAMILIES if family.name == chosen), f"--family{also}"
    if found is None:
        architectures = ", ".join(_architectures(config)) or "(none)"
        raise UsageError(
            f"{folder / 'config.json'}: architecture {architectures} with model_type {config.get('model_type')!r} is "
            f"not supported. Supported families: {', '.join(family.name for family in FAMILIES)}; --family selects one"
        )
    return found[0], f"{found[1]} in config.json"


def _family_in(config: Mapping[str, Any]) -> tuple[Family, str] | None:
    """The family that config.json names, and the entry that names it; None if it is not supported."""
    for family in FAMILIES:
        for name in _architectures(config):
            if name in family.architectures:
                return family, f"architecture {name}"
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family, f"model_type {config['model_type']}"
    return None


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def check_flags(family: Family, flags: argparse.Namespace) -> None:
    """Refuse flags that a family does not know.

    Raises:
        UsageError: a flag is given that belongs to other families only, or an empty system prompt for a family whose
            template writes its own.
    """
    if flags.system == "" and family.name != "pllava":
        raise UsageError(
            f"--system '' is only for pllava; {family.name} has the system prompt of its template: leave --system out, "
            "or give a text"
        )
    for name in sorted({name for other in FAMILIES for name in other.flags} - set(family.flags)):
        value = getattr(flags, name)
        if value is not None:
            shown = "-".join(map(str, value)) if isinstance(value, tuple) else value
            known = ", ".join(other.name for other in FAMILIES if name in other.flags)
            raise UsageError(f"--{name} {shown} is not for the family {family.name}, only for {known}; leave it out")
