"""Compares one run with several questions about each clip with one run for each question (`benchmark --asks`).

Knows nothing about processes: the caller runs the sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Result = dict[str, Any]


def measure_asks(run_side: Callable[[str, int], Result], slots: list[int], repeats: int) -> Result:
    """Run both sides in turns, and compare the fastest runs.

    run_side: runs the side "engine" or "separate" with a number of slots.

    Returns for each number of slots the figures of both sides, how many times as many clips per second the engine
    captions in one run, that number at the roofline limit, and the number of equal captions.
    """
    result: Result = {}
    for count in slots:
        runs: dict[str, list[Result]] = {"engine": [], "separate": []}
        for _ in range(repeats):
            for side, results in runs.items():
                results.append(run_side(side, count))
        together, separate = (max(results, key=lambda one: float(one["clips_per_second"])) for results in runs.values())
        asks = together["captions_made"] // together["clips"]
        pairs = zip(together.pop("captions"), separate.pop("captions"), strict=True)
        result[str(count)] = {
            "asks": asks,
            "same_captions": sum(one == other for one, other in pairs),
            "together": together,
            "separate": separate,
            "times_separate": together["clips_per_second"] / separate["clips_per_second"],
            "times_separate_at_the_limit": asks * together["limit_of_one_ask"]["total"] / together["limit"]["total"],
        }
    return result


def asks_table(result: Result, preset: str) -> str:
    """The measurements as a Markdown table, after one line about the model."""
    first = next(iter(result.values()))
    together = first["together"]
    lines = [
        f"{preset}, {together['backend']}: {first['asks']} questions about each of {together['clips']} clips, "
        f"{together['prompt_tokens']} prompt tokens, {together['tokens'] / together['captions_made']:.0f} new tokens "
        "for each question",
        "",
        "| | clips/s, one run | clips/s, a run for each question | ratio | ratio at the limit | vision s | prefill s "
        "| decode s | equal captions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for count, figures in result.items():
        both = figures["together"], figures["separate"]
        stages = " | ".join(
            " / ".join(f"{one[f'{stage}_seconds']:.1f}" for one in both) for stage in ("vision", "prefill", "decode")
        )
        rates = " | ".join(f"{one['clips_per_second']:.3f}" for one in both)
        lines.append(
            f"| `--bs {count}` | {rates} | **{figures['times_separate']:.2f}** "
            f"| {figures['times_separate_at_the_limit']:.2f} | {stages} "
            f"| {figures['same_captions']} of {both[0]['captions_made']} |"
        )
    return "\n".join(lines)
