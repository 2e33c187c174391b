"""The command that describes long videos: captions of their segments, a summary and a title.

    python pipeline/captioning/describe.py video.mp4 --output result.json --pretrained_model_name_or_path FOLDER

From Python: `from pipeline.captioning.describe import describe_videos`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.run.command import run_command
from pipeline.captioning.run.describing.command import command_for
from pipeline.captioning.run.describing.from_python import describe_videos

__all__ = ["describe_videos"]

if __name__ == "__main__":
    command = command_for(sys.argv[1:])
    sys.exit(run_command(command.parser, command.start))
