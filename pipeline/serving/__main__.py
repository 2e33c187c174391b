"""Starts the server: `python -m pipeline.serving --pretrained_model_name_or_path FOLDER`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
