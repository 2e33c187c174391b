"""Compares the speed of the captioning engine with a clip-by-clip loop on the same weights and clips.

    python -m scripts.benchmark --preset 63m --pooling_shape 4-12-12 --clips 16 --bs 16
    python -m scripts.benchmark --preset qwen2_5_vl-63m --clips 32 --bs 8
    python -m scripts.benchmark --preset 63m --asks 3 --max_new_tokens 64 --clips 16 --bs 8
    python -m scripts.benchmark --preset 7b --device cuda --bs 64,32,16 --clips 256 --loop_clips 4 --json 7b.json

With `--asks N`, it compares N questions about each clip in one run with N runs instead (`benchmark_asks`).
`benchmark_sides` implements the two sides, "engine" and "loop". The sides alternate. Each runs `--repeats` times, each
time in a new process. The fastest run of each side counts, because other programs on the machine can only slow a run
down. The benchmark renders its own clips. Compare only figures of one benchmark run: on a busy machine, figures of two
benchmark runs are not comparable.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.captioning.clips.clip import ClipTask
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from scripts.benchmark_asks import asks_table, measure_asks
from scripts.benchmark_models import BenchmarkModel, make_model
from scripts.benchmark_sides import make_parser
from scripts.clip_world import random_clip, write_clips
from scripts.presets import FAMILY_PRESETS

Result = dict[str, Any]


def _run_side(side: str, flags: list[str], folder: Path, clips: int, slots: int) -> Result:
    command = [sys.executable, "-m", "scripts.benchmark_sides", side, str(folder), str(clips), str(slots), *flags]
    print(f"  {side}, {clips} clips" + (f", {slots} slots" if side != "loop" else "") + " …", file=sys.stderr)
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"benchmark: the {side} failed with exit code {run.returncode}; its error message is above")
    result: Result = json.loads(run.stdout.strip().splitlines()[-1])
    result["clips_per_second"] = result["clips"] / result["seconds"]
    return result


def _decoded_clips_per_second(folder: Path, clips: int, model: BenchmarkModel) -> float:
    """Clips per second when videos are only decoded. The first clip, with the start of the process, is not counted."""
    rows = [ClipTask(row, str(folder / f"clip_{row:05d}.mp4")) for row in range(clips + 1)]
    with ClipLoader(
        rows, FramePreparation(model.sampling, model.frame_transform), DecoderLimits(60.0), prefetch=len(rows)
    ) as loader:
        loader.next_clip()
        begin = time.monotonic()
        while loader.next_clip() is not None:
            pass
    return clips / (time.monotonic() - begin)


def _best(results: list[Result]) -> Result:
    return max(results, key=lambda result: result["clips_per_second"])


def measure(flags: argparse.Namespace, side_flags: list[str]) -> Result:
    """Run the engine with every batch size, and the loop unless `--no_loop`.

    side_flags: command-line flags for `benchmark_sides`.

    Returns:
        All measurements, with the keys of the `--json` file.

    Raises:
        SystemExit: a side failed.
    """
    slots = [int(part) for part in flags.bs.split(",")]
    loop_clips = flags.loop_clips or min(flags.clips, 4)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, (random_clip(7, number) for number in range(flags.clips + 1)))
        decoded_per_second = _decoded_clips_per_second(folder, flags.clips, make_model(flags))
        loops: list[Result] = []
        engines: dict[int, list[Result]] = {count: [] for count in slots}
        for _ in range(flags.repeats):
            if not flags.no_loop:
                loops.append(_run_side("loop", side_flags, folder, loop_clips, 1))
            for count in slots:
                engines[count].append(_run_side("engine", side_flags, folder, flags.clips, count))
    result: Result = {
        "flags": {name: value for name, value in vars(flags).items() if value is not None},
        "decoding_clips_per_second": decoded_per_second,
        "engine": {str(count): _engine_summary(_best(runs), decoded_per_second) for count, runs in engines.items()},
    }
    if loops:
        loop = _best(loops)
        result["loop"] = {key: value for key, value in loop.items() if key != "captions"}
        for count in slots:
            engine = _best(engines[count])
            summary = result["engine"][str(count)]
            summary["times_the_loop"] = engine["clips_per_second"] / loop["clips_per_second"]
            summary["times_the_loop_at_the_limit"] = 1 / (summary["limit"]["total"] * loop["clips_per_second"])
            summary["same_captions"] = sum(
                ids == loop_ids for ids, loop_ids in zip(engine["captions"], loop["captions"], strict=False)
            )
    return result


def _engine_summary(engine: Result, decoded_per_second: float) -> Result:
    kept = {key: value for key, value in engine.items() if key != "captions"}
    return kept | {
        "prefill_tokens_per_second": engine["prefill_tokens"] / engine["prefill_seconds"],
        "decode_tokens_per_second": engine["decode_tokens"] / max(engine["decode_seconds"], 1e-9),
        "slots_in_use": engine["decode_tokens"] / max(engine["slot_steps"], 1),
        "decode_wait_share": engine["decode_wait"] / engine["seconds"],
        "decoding_times_device": decoded_per_second / engine["clips_per_second"],
        "share_of_limit": engine["limit"]["total"] * engine["clips_per_second"],
    }


def markdown_table(result: Result) -> str:
    """The measurements as a Markdown table, after one line about the model and the device."""
    first_engine = next(iter(result["engine"].values()))
    loop, rates = result.get("loop"), first_engine["rates"]
    lines = [
        f"{result['flags']['preset']}, {first_engine['backend']}: {first_engine['prompt_tokens']} prompt tokens, "
        f"{first_engine['tokens'] / first_engine['clips']:.0f} new tokens per clip; matrix product "
        f"{rates['matmul_flops'] / 1e9:.0f} GFLOP/s, copy {rates['copy_bytes'] / 1e9:.1f} GB/s",
        "",
        "| | clips/s | speed-up | speed-up at the limit | share of limit | prefill tokens/s | decode tokens/s "
        "| slots in use | waits for videos | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    if loop:
        wait = loop["decode_wait"] / loop["seconds"]
        memory = loop["peak_memory"] / 2**30
        lines.append(
            f"| clip-by-clip loop | {loop['clips_per_second']:.3f} | 1 | | | | | | {wait:.1%} | {memory:.2f} GiB |"
        )
    for count, engine in result["engine"].items():
        speed_up, limit_speed_up = engine.get("times_the_loop"), engine.get("times_the_loop_at_the_limit")
        lines.append(
            f"| engine, `--bs {count}` | {engine['clips_per_second']:.3f} | {f'{speed_up:.2f}' if speed_up else ''} "
            f"| {f'{limit_speed_up:.1f}' if limit_speed_up else ''} | {engine['share_of_limit']:.0%} "
            f"| {engine['prefill_tokens_per_second']:.0f} | {engine['decode_tokens_per_second']:.0f} "
            f"| {engine['slots_in_use']:.0%} | {engine['decode_wait_share']:.1%} "
            f"| {engine['peak_memory'] / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def plot(result: Result, path: Path) -> None:
    """Plot clips per second over the batch size, with the roofline limit and the loop, into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    slots = [int(count) for count in result["engine"]]
    engines = list(result["engine"].values())
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(slots, [engine["clips_per_second"] for engine in engines], "o-", label="engine")
    axes.plot(slots, [1 / engine["limit"]["total"] for engine in engines], "--", color="gray", label="roofline limit")
    if "loop" in result:
        axes.axhline(result["loop"]["clips_per_second"], color="tab:red", label="clip-by-clip loop")
    axes.set(xlabel="slots (--bs)", ylabel="clips/s", ylim=(0, None), title=result["flags"]["preset"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(slots, [str(count) for count in slots])
    axes.legend()
    figure.savefig(path, dpi=120)


def _measure_asks(flags: argparse.Namespace, side_flags: list[str]) -> Result:
    slots = [int(part) for part in flags.bs.split(",")]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, (random_clip(7, number) for number in range(flags.clips + 1)))
        return measure_asks(
            lambda side, count: _run_side(side, side_flags, folder, flags.clips, count), slots, flags.repeats
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[make_parser()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=16, help="clips for the engine (default: %(default)s)")
    parser.add_argument("--loop_clips", type=int, help="clips for the loop (default: --clips, at most 4)")
    parser.add_argument("--bs", default="8", help="batch sizes, for example 4,8,16 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side (default: %(default)s)")
    parser.add_argument("--no_loop", action="store_true", help="run the engine only")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--plot", type=Path, help="plot clips/s over the batch size; needs matplotlib")
    flags = parser.parse_args()
    if flags.asks < 1 or (flags.asks > 1 and flags.plot):
        parser.error("--asks is a number of at least 1; with more than one, there is no --plot")
    if flags.pooling_shape and flags.preset in FAMILY_PRESETS:
        parser.error(f"--pooling_shape is for PLLaVA, not for --preset {flags.preset}")
    own_flags = {"clips", "loop_clips", "bs", "repeats", "no_loop", "json", "plot"}
    side_flags = []
    for name, value in vars(flags).items():
        if name not in own_flags and value not in (None, False):
            side_flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    if flags.asks > 1:
        result = _measure_asks(flags, side_flags)
        print(asks_table(result, flags.preset))
    else:
        result = measure(flags, side_flags)
        print(markdown_table(result))
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    if flags.plot:
        plot(result, flags.plot)


if __name__ == "__main__":
    main()
