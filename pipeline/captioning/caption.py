"""The command that captions a meta table with any supported model family.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/caption.py meta.csv --pretrained_model_name_or_path FOLDER --bs 16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.run import command, family_source, frame_flags, run_flags
from pipeline.captioning.run.family_source import make_source
from pipeline.captioning.run.model_work import model_work


def make_parser() -> argparse.ArgumentParser:
    parser = run_flags.make_parser("caption.py", "Caption every clip of a meta table.")
    frame_flags.add_frame_flags(parser)
    family_source.add_family_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), model_work(make_source)))
