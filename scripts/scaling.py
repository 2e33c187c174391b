"""Measures how much more workers speed a run up: runs the captioning command with one worker and with several.

    python -m scripts.scaling --workers 2 --clips 24 --repeats 3

torchrun starts the workers, on the CPU. The model of each worker computes with one thread. The clips are rendered; the
model is a random PLLaVA with the benchmark's preset 63m at 16-12-12. Runs with one and with several workers alternate.
The table has the medians, without and with the time for loading the model and gathering the captions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from scripts import launched
from scripts.clip_world import random_clip, write_clips
from scripts.presets import preset_config

SMALL_CHECKPOINT = Path(__file__).resolve().parent.parent / "tests" / "data" / "mini-a-merged"
FLAGS = ["--pretrained_model_name_or_path", "checkpoint", "--restart", "--bs", "8", "--max_new_tokens", "64"]


def write_checkpoint(folder: Path) -> None:
    """Write a random checkpoint of the preset `63m`, with the vocabulary and the other files of SMALL_CHECKPOINT."""
    from pipeline.captioning.captioners.loading import meta_model, weight_shapes
    from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

    shutil.copytree(SMALL_CHECKPOINT, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    config = preset_config("63m")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["vision_config"] |= config.vision
    settings["text_config"] |= {name: value for name, value in config.text.items() if name != "vocab_size"}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    shapes = weight_shapes(meta_model(PllavaForConditionalGeneration, PllavaConfig.from_dict(settings)))
    rng = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, str(folder / "model.safetensors"))


def clips_per_second(folder: Path, workers: int) -> tuple[float, float]:
    """Run the command once. Returns clips per second of captioning only, and of the whole run.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={workers}", "--master_port=29631"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = launched.plain(*FLAGS)[1:]
    subprocess.run([*command, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    report = json.loads((folder / "meta_caption_report.json").read_text(encoding="utf-8"))
    # The report has the sums of all workers. Each worker takes about the same time, because rows are leased.
    captioning = (report["device_seconds"] + report["decode_wait_seconds"]) / workers
    return report["captioned_in_this_run"] / captioning, report["clips_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=24, help="default: %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs with each number of workers (default: %(default)s)"
    )
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "checkpoint")
        write_clips(folder, (random_clip(3, number) for number in range(flags.clips)))
        rates: dict[int, list[tuple[float, float]]] = {1: [], flags.workers: []}
        for _ in range(flags.repeats):
            for workers, measured in rates.items():
                measured.append(clips_per_second(folder, workers))
    print("| workers | clips/s | speed-up | clips/s with loading and gathering | speed-up |")
    print("|---|---|---|---|---|")
    medians = {
        workers: [statistics.median(column) for column in zip(*measured, strict=True)]
        for workers, measured in rates.items()
    }
    for workers, (captioning, whole_run) in medians.items():
        speed_up, whole_speed_up = captioning / medians[1][0], whole_run / medians[1][1]
        print(f"| {workers} | {captioning:.2f} | {speed_up:.2f} | {whole_run:.2f} | {whole_speed_up:.2f} |")


if __name__ == "__main__":
    main()
