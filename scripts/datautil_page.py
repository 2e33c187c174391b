"""Writes `docs/datautil.md`, the page of the meta table utilities, from their table of operations.

python -m scripts.datautil_page
"""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.catalogue import OPERATIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "datautil.md"

INTRODUCTION = """# Meta tables before and after captioning

<!-- made by `python -m scripts.datautil_page` -->

A table of the videos (or images) in a folder and all folders in it, with `path`, `id` and `relpath`:

```bash
python -m pipeline.datasets.convert video /path/to/folder --output meta.csv
```

One or many tables, `.csv`, `.csv.gz` or `.parquet`, patterns too, merged and worked on
([tables.md](tables.md) describes the formats):

```bash
python -m pipeline.datasets.datautil 'DATA_caption_part*.csv' --output DATA_caption.csv
python -m pipeline.datasets.datautil DATA.csv --difference DATA_caption.csv --output DATA_remaining.csv
python -m pipeline.datasets.datautil DATA_caption.csv --info --fmin 16 --remove-empty-caption --output train.parquet
```

- Operations are carried out in the order in which they are given, and each says what it did:
  `difference: 1,000 -> 37 rows`.
- A row is done if it has a caption. One that failed has none, so `--difference` brings it back.
- Nothing is written over an input, unless `--overwrite` allows it; then, and wherever a file is replaced, the old one
  stays as `.bak`. The suffix of `--output` says the kind, or `--format`. `--shard N` writes `NAME_0.csv`, `NAME_1.csv`
  and so on.
- CSV cells stay the strings they are. On the way into Parquet, columns of nothing but numbers become numbers, unless
  that would lose something, as leading zeros.
- Names of Open-Sora v1.3 work as well, and underscores as well as hyphens.
- `--key id` compares tables by `id` instead of `path`. `--seed`, `--num-workers` and `--timeout` (seconds for looking
  at one file) are for the operations that need them.

In Python: `operate(read_tables(files), [(operation, value), …], Settings())` of `pipeline.datasets.datautil`.

| operation | also | what it does | needs | makes | example |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    lines = []
    for operation in OPERATIONS:
        value = f" {operation.metavar}" if operation.value else ""
        aliases = ", ".join(f"`--{alias}`" for alias in operation.aliases)
        needs = ", ".join(f"`{name}`" if name != "key" else "the `--key`" for name in operation.needs)
        makes = ", ".join(f"`{name}`" for name in operation.makes)
        cells = [f"`{operation.flag}{value}`", aliases, operation.summary, needs, makes, f"`{operation.example}`"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return INTRODUCTION + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
