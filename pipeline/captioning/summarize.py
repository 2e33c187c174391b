"""The command that writes a summary and a title for each video, from the captions of its segments.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/summarize.py segments_caption.csv --pretrained_model_name_or_path FOLDER --bs 16
    python pipeline/captioning/summarize.py segments_caption.csv --base_url http://localhost:8000/v1
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.run.command import run_command
from pipeline.captioning.run.summaries.command import command_for

if __name__ == "__main__":
    command = command_for(sys.argv[1:])
    sys.exit(run_command(command.parser, command.start))
