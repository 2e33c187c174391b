"""What a second worker brings: the captioning command with one worker and with several, in turns.

    python -m scripts.scaling --workers 2 --clips 96 --repeats 3

Launched by torchrun on the CPU, the model's work of each worker held to one core, on clips rendered for it and
the small random PLLaVA of the tests at 16-12-12. Figures are of the captioning, loading and gathering apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts import launched
from scripts.clip_world import draw_clip, write_clips

CHECKPOINT = Path(__file__).resolve().parent.parent / "tests" / "data" / "mini-a"
FLAGS = ["--pretrained_model_name_or_path", str(CHECKPOINT), "--lora_alpha", "2", "--restart", "--bs", "8"]


def clips_per_second(folder: Path, workers: int) -> tuple[float, float]:
    """Clips/s of one run, of its captioning and in all.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={workers}", "--master_port=29631"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = launched.plain(*FLAGS)[1:]
    subprocess.run([*command, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    report = json.loads((folder / "meta_caption_report.json").read_text(encoding="utf-8"))
    # Of all workers together; they take as long as each other, for rows are dealt out in turns.
    captioning = (report["device_seconds"] + report["decode_wait_seconds"]) / workers
    return report["captioned_in_this_run"] / captioning, report["clips_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, (draw_clip(3, number) for number in range(flags.clips)))
        rates: dict[int, list[tuple[float, float]]] = {1: [], flags.workers: []}
        for _ in range(flags.repeats):
            for workers, found in rates.items():
                found.append(clips_per_second(folder, workers))
    print("| workers | clips/s | times one | clips/s with loading and gathering | times one |")
    print("|---|---|---|---|---|")
    medians = {
        workers: [statistics.median(column) for column in zip(*found, strict=True)] for workers, found in rates.items()
    }
    for workers, (captioning, in_all) in medians.items():
        one = medians[1]
        print(f"| {workers} | {captioning:.2f} | {captioning / one[0]:.2f} | {in_all:.2f} | {in_all / one[1]:.2f} |")


if __name__ == "__main__":
    main()
