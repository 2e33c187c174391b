"""Searches captions. See `command`.

python -m pipeline.search index meta_caption.csv --database captions.db
python -m pipeline.search query "red AND star" --database captions.db
"""

import sys

from pipeline.search.command import main

if __name__ == "__main__":
    sys.exit(main())
