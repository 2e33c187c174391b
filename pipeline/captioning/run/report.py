"""The report of a run: its figures, and the summary of them in the log.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import operator
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..meta.names import TEXT_COLUMN
from ..meta.ranges import range_fields, range_of_fields, row_name
from ..meta.results import CaptionResult
from ..monitor.progress_log import duration
from ..monitor.service_usage import usage_text
from .delivery import RunResults
from .options import JobOptions
from .planning import LeaderPlan, RankPlan
from .rank_stats import RankStats

REPETITION_WARNING_SHARE = 0.05
"""If a larger share of the rows than this has the same caption, the summary warns."""
MAX_PARTIAL_EXAMPLES = 5
_OF_SERVICES = ("openai", "jsonschema")
"""Packages that only runs through a service use."""


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
    table = leader.table
    captioned = sum(stats.captioned for stats in rank_stats)
    clips = sum(stats.captioned_rows for stats in rank_stats)
    tokens = sum(stats.tokens for stats in rank_stats)
    device = sum(stats.device_seconds for stats in rank_stats)
    wait = sum(stats.decode_wait_seconds for stats in rank_stats)
    partial, images = sorted(results.partial), len(results.images)
    names_columns = leader.plan.columns != (TEXT_COLUMN,)
    service = next((stats.service for stats in rank_stats if stats.service), {})  # such a run has one rank

    rows = {"finished_rows": results.finished_rows(), "failed_rows": results.failed_rows()}

    def identity(row: int) -> dict[str, Any]:
        return {"row": row, "path": table.paths[row], **range_fields(table.range_of(row))}

    def column_of(column: str) -> dict[str, str]:
        return {"column": column} if names_columns else {}

    return {
        "run": plan.run,
        "questions": {ask.column: ask.question.text for ask in leader.asks.asks},
        **({"question_column": leader.asks.question_column} if leader.asks.question_column else {}),
        "rows": len(table.paths),
        **({"ranges": table.ranges.parts} if table.ranges else {}),
        "captioned": results.captioned,
        "failed": results.failed,
        "kept": leader.plan.kept_captions,
        "images": images,
        "videos": results.captioned_rows() - images,
        **_caption_figures([caption for column in results.columns.values() for caption in column.captions.values()]),
        **({**rows, "columns": _columns(leader, results)} if names_columns else {}),
        **({"kept_columns": list(leader.other_captions)} if leader.other_captions else {}),
        "partial": len(partial),
        "partial_examples": list(map(identity, partial[:MAX_PARTIAL_EXAMPLES])),
        "most_repeated_captions": _most_repeated_captions(results, column_of),
        "failures_by_stage": results.failures_by_stage(),
        "failure_examples": {
            stage: {**identity(row), **column_of(column), "message": "; ".join(f.messages)}
            for stage, (row, column, f) in results.failure_examples().items()
        },
        "captioned_in_this_run": captioned,
        "failed_in_this_run": sum(stats.failed for stats in rank_stats),
        "seconds": round(seconds, 3),
        "clips_per_second": round(clips / seconds, 4) if seconds else 0.0,
        **({"captions_per_second": round(captioned / seconds, 4) if seconds else 0.0} if names_columns else {}),
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
        **({"service": service} if service else {}),
        "options": {name: _plain(value) for name, value in dataclasses.asdict(options).items()},
        "fingerprint": dict(plan.fingerprint),
        "versions": versions(),
    }


def summary(report: Mapping[str, Any], unit: str = "clips") -> Iterator[tuple[int, str]]:
    """The report as text for the log: (logging level, line) pairs."""
    columns: Mapping[str, Any] = report.get("columns", {})
    what = "captions" if len(columns) > 1 else "rows"
    for stage, count in report["failures_by_stage"].items():
        example = report["failure_examples"][stage]
        yield (
            logging.WARNING,
            f"{what} that failed at stage {stage}: {count}, for example row {example['row']} "
            f"({_name(example)}): {example['message']}",
        )
    if report["truncated"]:
        share = report["truncated"] / report["captioned"]
        limit = "--max_new_tokens" if unit == "clips" else "--summary_tokens or --title_tokens"
        line = f"{report['truncated']} captions ({share:.1%}) were cut off by {limit}"
        yield logging.WARNING, line + _by_column(columns, "truncated")
    if report["looping"]:
        line = f"{report['looping']} captions loop: they repeat the same words"
        yield logging.WARNING, line + _by_column(columns, "looping")
    if report["partial"]:
        share = report["partial"] / (report["images"] + report["videos"])
        example, what = report["partial_examples"][0], "clips" if len(columns) > 1 else "captions"
        yield (
            logging.WARNING,
            f"{report['partial']} {what} ({share:.1%}) are of partial videos, of which only a part could be decoded, "
            f"for example row {example['row']} ({_name(example)})",
        )
    for repeated in report["most_repeated_captions"][:1]:
        share = repeated["rows"] / columns.get(repeated.get("column"), report)["captioned"]
        level = logging.WARNING if share > REPETITION_WARNING_SHARE and repeated["rows"] > 2 else logging.INFO
        column = f" in {repeated['column']}" if len(columns) > 1 else ""
        yield level, f"{repeated['rows']} rows ({share:.1%}) have the same caption{column}: {repeated['caption'][:200]}"
    for column, figures in (columns if len(columns) > 1 else {"": report}).items():
        if figures["words_per_caption"]:
            words = "{least} to {most}, median {median}".format(**figures["words_per_caption"])
            yield logging.INFO, f"words per caption{column and f' of {column}'}: {words}"
    if "service" in report:
        yield logging.INFO, _service_line(report["service"])
    elif report["device_seconds"]:
        yield logging.INFO, f"device time: {timeline(report)}"
    speed = f"{report['clips_per_second']:.2f} {unit}/s, {report['tokens_per_second']:.1f} tokens/s"
    if len(columns) > 1:
        speed = f"{report['captions_per_second']:.2f} captions/s, {speed}"
    images = f" of {report['images']} images and {report['videos']} videos" if report["images"] else ""
    yield (
        logging.INFO,
        f"{report['captioned']} captions{images} in {duration(report['seconds'])} ({speed}), {report['failed']} "
        "failures",
    )


def _name(example: Mapping[str, Any]) -> str:
    return row_name(example["path"], range_of_fields(example))


def timeline(report: Mapping[str, Any]) -> str:
    """The time of each stage on the device and the time the device waited for clips, as text."""
    suffix = "_seconds"
    stages = {name: value for name, value in report["stages"].items() if name.endswith(suffix)}
    parts = [f"{name.removesuffix(suffix)} {duration(value)}" for name, value in stages.items()]
    wait, share = report["decode_wait_seconds"], report["decode_wait_share"]
    return ", ".join([*parts, f"waiting for clips {duration(wait)} ({share:.1%})"])


def _service_line(service: Mapping[str, Any]) -> str:
    """Requests, tokens, cost and outcomes of a service, as text."""
    repeated = f" ({service['retries']:,} of them sent again)" if service["retries"] else ""
    stored = service["answers_from_store"]
    parts = [
        f"service: {service['requests']:,} requests{repeated}",
        usage_text(service),
        *([f"{stored:,} answers from the store"] if stored else []),
    ]
    outcomes = ", ".join(f"{name} {count:,}" for name, count in service["outcomes"].items())
    return ", ".join(parts) + (f"; outcomes: {outcomes}" if outcomes else "")


def _caption_figures(captions: Sequence[CaptionResult]) -> dict[str, Any]:
    words = sorted(result.caption.count(" ") + 1 for result in captions)  # words are separated by spaces
    return {
        "truncated": sum(result.truncated for result in captions),
        "looping": sum(result.looping for result in captions),
        "words_per_caption": {"least": words[0], "median": words[len(words) // 2], "most": words[-1]} if words else {},
    }


def _columns(leader: LeaderPlan, results: RunResults) -> dict[str, dict[str, Any]]:
    """The figures of each column."""
    return {
        column: {
            "captioned": len(of_column.captions),
            "failed": len(of_column.failures),
            "kept": len(leader.plan.kept[column]),
            **_caption_figures(list(of_column.captions.values())),
        }
        for column, of_column in results.columns.items()
    }


def _most_repeated_captions(
    results: RunResults, column_of: Callable[[str], Mapping[str, str]], most: int = 5
) -> list[dict[str, Any]]:
    """The captions that more than one row has in a column, with the number of rows: a model may repeat one sentence."""
    repeated = [
        {**column_of(column), "caption": caption, "rows": count}
        for column, of_column in results.columns.items()
        for caption, count in Counter(one.caption for one in of_column.captions.values()).most_common(most)
        if count > 1
    ]
    return sorted(repeated, key=operator.itemgetter("rows"), reverse=True)[:most]


def _by_column(columns: Mapping[str, Any], name: str) -> str:
    """A figure of each column that has it, if there are several columns."""
    if len(columns) < 2:
        return ""
    return f" ({', '.join(f'{column}: {figures[name]}' for column, figures in columns.items() if figures[name])})"


def _stages(rank_stats: Sequence[RankStats]) -> dict[str, float]:
    """Seconds, tokens and steps of the stages on the device, added up over the ranks."""
    total: Counter[str] = Counter()
    for stats in rank_stats:
        total.update(stats.stages)
    return {name: round(value, 3) for name, value in total.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that captions may depend on."""
    packages = ("mindspore", "mindnlp", "torch", "transformers", "decord", "av", "numpy", "pillow", *_OF_SERVICES)
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
