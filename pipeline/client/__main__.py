"""python -m pipeline.client caption a.mp4 b.jpg"""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
