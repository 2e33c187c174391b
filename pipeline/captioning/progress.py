"""The command that shows the progress of a run.

python -m pipeline.captioning.progress meta.csv
"""

import sys

from pipeline.captioning.monitor.progress import main

if __name__ == "__main__":
    sys.exit(main())
