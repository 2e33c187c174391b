"""The command that makes an HTML page of captions and frames.

python -m pipeline.captioning.gallery meta_caption.csv --output gallery.html
"""

import sys

from pipeline.captioning.monitor.gallery.command import main

if __name__ == "__main__":
    sys.exit(main())
