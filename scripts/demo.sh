#!/usr/bin/env bash
# Sets up, captions eight rendered clips with two msrun workers on MindSpore's CPU backend, and prints each caption
# and the true caption. The clips, the tables, the gallery and the logs are in demo_output/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
source .venv/bin/activate

begin=$SECONDS
rm -rf demo_output
python -m scripts.clip_world demo_output --clips 8 --seed 2026
msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=demo_output/msrun_log --tail_worker_log=0 \
    pipeline/captioning/caption_pllava.py demo_output/meta.csv --bs 4 \
    --pretrained_model_name_or_path pretrained_models/pllava-tiny
python -m pipeline.captioning.gallery demo_output/meta_caption.csv --output demo_output/gallery.html
python - "$((SECONDS - begin))" <<'PYTHON'
import csv
import json
import sys

with open("demo_output/meta_caption.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    print(f"\n{row['path']}\n  caption: {row['text']}\n  truth:   {row['truth']}")
exact = sum(row["text"] == row["truth"] for row in rows)
with open("demo_output/meta_caption_report.json", encoding="utf-8") as file:
    memory = json.load(file)["peak_memory_mib_per_worker"]
print(f"\n{exact} of {len(rows)} captions are exact.")
print(f"Rendering, captioning and the gallery took {sys.argv[1]} s. A worker used at most {memory} MiB of memory.")
print("The table with captions is demo_output/meta_caption.csv. To view it, open demo_output/gallery.html in a browser.")
PYTHON
