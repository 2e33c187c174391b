"""The command that captions a meta table through a service that speaks OpenAI's protocol, in one process.

python pipeline/captioning/caption_api.py meta.csv --base_url http://localhost:8000/v1 --num_frames 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.captioners.api.source import ServiceSource
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.captioning.run import command, frame_flags, prompt_flags, run_flags
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.service import flags as service_flags
from pipeline.captioning.run.service.work import ServiceWork
from pipeline.captioning.workers.launch import Launch


def make_parser() -> argparse.ArgumentParser:
    parser = run_flags.make_table_parser("caption_api.py", "Caption every clip of a meta table through a service.")
    prompt_flags.add_prompt_flags(parser)
    service_flags.add_service_flags(parser)
    frame_flags.add_frame_flags(parser, f"if not given, {service_flags.DEFAULT_SAMPLING.num_frames} frames")
    run_flags.add_clip_flags(run_flags.add_row_flags(parser))
    # The job needs these; the results of one process are not padded, so their size is not limited.
    parser.set_defaults(bs=1, pad_length=1 << 24, framework=None, device=None, dtype=None)
    return parser


def make_work(flags: argparse.Namespace, job_options: JobOptions, launch: Launch) -> ServiceWork:
    """Check the flags of the service."""
    service_flags.check_launch(launch)
    service = service_flags.service_options(flags, job_options)
    asks = prompt_flags.asks_from_flags(flags, DEFAULT_QUESTION)
    source = ServiceSource(service, asks, service_flags.service_sampling(flags), flags.short_side or 0)
    return ServiceWork(source, service, job_options)


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), make_work))
