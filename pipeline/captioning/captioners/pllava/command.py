"""Makes the source of a PLLaVA checkpoint from the flags of a captioning command."""

from __future__ import annotations

import argparse

from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...meta.asks import Asks
from ...process.errors import UsageError
from ..clip_prompts import check_questions
from ..prompts import DEFAULT_SYSTEM, IMAGE_PLACEHOLDER
from .source import PllavaOptions, PllavaSource

DEFAULT_FRAMES = 4


def default_sampling(name: str) -> FrameSampling:
    """Which frames are sampled unless flags say otherwise."""
    return FrameSampling("segments", DEFAULT_FRAMES)


def make_source(
    name: str, flags: argparse.Namespace, asks: Asks, sampling: FrameSampling, generation: GenerationOptions
) -> PllavaSource:
    """The source of a PLLaVA checkpoint, for the command of all families.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    fix = f"the family {name} samples segments of unscaled frames; --num_frames sets their number"
    if sampling.rule != "segments":
        given = f"--fps {flags.fps:g}" if flags.sampling is None else f"--sampling {flags.sampling}"
        raise UsageError(f"{given}: {fix}")
    if flags.short_side is not None:
        raise UsageError(f"--short_side {flags.short_side}: {fix}")
    return pllava_source(flags, asks, sampling.num_frames, generation)


def pllava_source(
    flags: argparse.Namespace, asks: Asks, num_frames: int, generation: GenerationOptions
) -> PllavaSource:
    """The source of a PLLaVA checkpoint.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    system = DEFAULT_SYSTEM if flags.system is None else flags.system
    check_questions(asks, [IMAGE_PLACEHOLDER], system=system)
    return PllavaSource(
        PllavaOptions(
            checkpoint=flags.pretrained_model_name_or_path,
            num_frames=num_frames,
            asks=asks,
            system=system,
            pooling_shape=flags.pooling_shape,
            weight_folder=flags.weight_dir,
            use_lora=flags.use_lora,
            lora_alpha=flags.lora_alpha,
            conv_mode=flags.conv_mode,
        ),
        generation,
    )
