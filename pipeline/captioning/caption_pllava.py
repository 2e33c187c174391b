"""The command that captions a meta table with PLLaVA; it has a default folder for the checkpoint.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/caption_pllava.py meta.csv --bs 16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.captioners.pllava import command as pllava
from pipeline.captioning.captioners.pllava.source import PllavaSource
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.captioning.process.arguments import positive_int
from pipeline.captioning.run import command, model_flags, prompt_flags, run_flags
from pipeline.captioning.run.model_work import model_work


def make_parser() -> argparse.ArgumentParser:
    parser = run_flags.make_parser("caption_pllava.py", "Caption every clip of a meta table with PLLaVA.")
    model = model_flags.add_model_flags(parser, Path("./pretrained_models/pllava"))
    model.add_argument(
        "--num_frames",
        type=positive_int,
        default=pllava.DEFAULT_FRAMES,
        help="number of frames sampled from each clip",
    )
    return parser


def make_source(flags: argparse.Namespace) -> PllavaSource:
    """Check the checkpoint and the flags of the model."""
    model_flags.check_model_flags(flags)
    asks = prompt_flags.asks_from_flags(flags, DEFAULT_QUESTION)
    return pllava.pllava_source(flags, asks, flags.num_frames, model_flags.generation_options(flags))


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), model_work(make_source)))
