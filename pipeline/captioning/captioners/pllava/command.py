"""PLLaVA behind the command of all families."""

from __future__ import annotations

import argparse

from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...process.errors import UsageError
from ..prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM
from .source import PllavaOptions, PllavaSource


def default_sampling(name: str) -> FrameSampling:
    """Which frames are sampled unless flags say otherwise."""
    return FrameSampling("segments", 4)


def make_source(
    name: str, flags: argparse.Namespace, sampling: FrameSampling, generation: GenerationOptions
) -> PllavaSource:
    """The source of a PLLaVA checkpoint.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    if sampling.rule != "segments" or flags.short_side:
        raise UsageError(
            f"--sampling {sampling.rule}: {name} samples segments of unscaled frames; give --num_frames only"
        )
    return PllavaSource(
        PllavaOptions(
            checkpoint=flags.pretrained_model_name_or_path,
            num_frames=sampling.num_frames,
            question=DEFAULT_QUESTION if flags.question is None else flags.question,
            system=DEFAULT_SYSTEM if flags.system is None else flags.system,
            pooling_shape=flags.pooling_shape,
            weight_folder=flags.weight_dir,
            use_lora=flags.use_lora,
            lora_alpha=flags.lora_alpha,
            conv_mode=flags.conv_mode,
        ),
        generation,
    )
