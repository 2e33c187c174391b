"""The command that shows how far a run is.

python -m pipeline.captioning.progress meta.csv
"""

import sys

from pipeline.captioning.monitor.progress import main

if __name__ == "__main__":
    sys.exit(main())
