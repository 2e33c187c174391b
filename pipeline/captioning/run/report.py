"""The report of a run: its figures, and the summary of them in the log.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..monitor.progress_log import duration
from .delivery import RunResults
from .options import JobOptions
from .planning import LeaderPlan, RankPlan
from .rank_stats import RankStats

REPETITION_WARNING_SHARE = 0.05
"""If a larger share of the rows than this has the same caption, the summary warns."""
MAX_PARTIAL_EXAMPLES = 5


def make_report(
    options: JobOptions,
    plan: RankPlan,
    leader: LeaderPlan,
    results: RunResults,
    rank_stats: Sequence[RankStats],
    seconds: float,
) -> dict[str, Any]:
    """The content of `<meta>_caption_report.json`; `docs/outputs.md` describes its fields.

    rank_stats: what each rank did in this run.
    seconds: wall time of this run.
    """
    captioned = sum(stats.captioned for stats in rank_stats)
    tokens = sum(stats.tokens for stats in rank_stats)
    device = sum(stats.device_seconds for stats in rank_stats)
    wait = sum(stats.decode_wait_seconds for stats in rank_stats)
    partial = results.partial_rows()
    return {
        "run": plan.run,
        "rows": len(leader.table.paths),
        "captioned": len(results.captions),
        "failed": len(results.failures),
        "kept": len(leader.plan.kept),
        "truncated": sum(result.truncated for result in results.captions.values()),
        "looping": sum(result.looping for result in results.captions.values()),
        "partial": len(partial),
        "partial_examples": [{"row": row, "path": leader.table.paths[row]} for row in partial[:MAX_PARTIAL_EXAMPLES]],
        "words_per_caption": results.words_per_caption(),
        "most_repeated_captions": results.most_repeated_captions(),
        "failures_by_stage": results.failures_by_stage(),
        "failure_examples": {
            stage: {"row": row, "path": leader.table.paths[row], "message": "; ".join(failure.messages)}
            for stage, (row, failure) in results.failure_examples().items()
        },
        "captioned_in_this_run": captioned,
        "failed_in_this_run": sum(stats.failed for stats in rank_stats),
        "seconds": round(seconds, 3),
        "clips_per_second": round(captioned / seconds, 4) if seconds else 0.0,
        "tokens_per_second": round(tokens / seconds, 4) if seconds else 0.0,
        "tokens": tokens,
        "workers": len(rank_stats),
        "backends": sorted({stats.backend for stats in rank_stats if stats.backend}),
        "load_seconds": round(max(stats.load_seconds for stats in rank_stats), 3),
        "clips_at_once": max(stats.slots for stats in rank_stats),
        "device_seconds": round(device, 3),
        "decode_wait_seconds": round(wait, 3),
        "decode_wait_share": round(wait / (device + wait), 4) if wait else 0.0,
        "decode_seconds": round(sum(stats.decode_seconds for stats in rank_stats), 3),
        "stages": _stages(rank_stats),
        "peak_memory_mib_per_worker": round(max(stats.peak_memory_mib for stats in rank_stats)),
        "peak_device_memory_mib": round(max(stats.peak_device_memory_mib for stats in rank_stats)),
        "options": {name: _plain(value) for name, value in dataclasses.asdict(options).items()},
        "fingerprint": dict(plan.fingerprint),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def summary(report: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The report as text for the log: (logging level, line) pairs."""
    for stage, count in report["failures_by_stage"].items():
        example = report["failure_examples"][stage]
        yield (
            logging.WARNING,
            f"rows that failed at stage {stage}: {count}, for example row {example['row']} ({example['path']}): "
            f"{example['message']}",
        )
    if report["truncated"]:
        share = report["truncated"] / report["captioned"]
        yield logging.WARNING, f"{report['truncated']} captions ({share:.1%}) were cut off by --max_new_tokens"
    if report["looping"]:
        yield logging.WARNING, f"{report['looping']} captions loop: they repeat the same words"
    if report["partial"]:
        share, example = report["partial"] / report["captioned"], report["partial_examples"][0]
        yield (
            logging.WARNING,
            f"{report['partial']} captions ({share:.1%}) are of partial videos, of which only a part could be decoded, "
            f"for example row {example['row']} ({example['path']})",
        )
    for repeated in report["most_repeated_captions"][:1]:
        share = repeated["rows"] / report["captioned"]
        level = logging.WARNING if share > REPETITION_WARNING_SHARE and repeated["rows"] > 2 else logging.INFO
        yield level, f"{repeated['rows']} rows ({share:.1%}) have the same caption: {repeated['caption'][:200]}"
    if report["words_per_caption"]:
        yield (
            logging.INFO,
            "words per caption: {least} to {most}, median {median}".format(**report["words_per_caption"]),
        )
    yield logging.INFO, f"device time: {timeline(report)}"
    yield (
        logging.INFO,
        f"{report['captioned']} captions in {duration(report['seconds'])} ({report['clips_per_second']:.2f} clips/s, "
        f"{report['tokens_per_second']:.1f} tokens/s), {report['failed']} failures",
    )


def timeline(report: Mapping[str, Any]) -> str:
    """The time of each stage on the device and the time the device waited for clips, as text."""
    suffix = "_seconds"
    stages = {name: value for name, value in report["stages"].items() if name.endswith(suffix)}
    parts = [f"{name.removesuffix(suffix)} {duration(value)}" for name, value in stages.items()]
    wait, share = report["decode_wait_seconds"], report["decode_wait_share"]
    return ", ".join([*parts, f"waiting for clips {duration(wait)} ({share:.1%})"])


def _stages(rank_stats: Sequence[RankStats]) -> dict[str, float]:
    """Seconds, tokens and steps of the stages on the device, added up over the ranks."""
    total: Counter[str] = Counter()
    for stats in rank_stats:
        total.update(stats.stages)
    return {name: round(value, 3) for name, value in total.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)


def _versions() -> dict[str, str]:
    packages = ("mindspore", "mindnlp", "torch", "transformers", "decord", "av", "numpy", "pillow")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
