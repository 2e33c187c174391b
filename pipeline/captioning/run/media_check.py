"""Whether named prompts for images are asked about images only, and those for videos about videos only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..clips.media import IMAGE, VIDEO, medium_of
from ..meta.asks import Ask, Asks
from ..meta.ranges import row_name
from ..workers.leases import RowTask


def media_problem(asks: Asks, tasks: Iterable[RowTask]) -> str | None:
    """Why a prompt may not be asked about some rows; None if all prompts suit their rows.

    A row with a question of its own is not asked the prompt.

    tasks: of the rows to caption, with their cells. Not read if no prompt is for one medium only.
    """
    if not any(ask.medium for ask in asks.asks):
        return None
    counts: Counter[int] = Counter()
    first: dict[int, RowTask] = {}
    for task in tasks:
        medium = medium_of(task.path)
        if asks.has_own_question(task.cells):
            continue
        for number in task.wanted or range(len(asks.asks)):
            if asks.asks[number].medium not in ("", medium):
                counts[number] += 1
                first.setdefault(number, task)
    if not first:
        return None
    number, task = min(first.items(), key=lambda item: item[0])
    ask = asks.asks[number]
    other = VIDEO if ask.medium == IMAGE else IMAGE
    name = row_name(task.path, task.range)
    return (
        f"{ask.flag}: the prompt {ask.prompt} is for {ask.medium}s, but the rows to caption include {counts[number]} "
        f"{other}{'' if counts[number] == 1 else 's'}, first row {task.row} ({name}); choose a prompt for "
        f"{other}s or a question of your own, or give --any_media"
    )


def medium_problem(ask: Ask, is_image: bool) -> str | None:
    """Why a prompt may not be asked about a clip; None if it may.

    The suffix of a path may be missing or wrong, so this is checked again when the clip has been decoded.
    """
    medium = IMAGE if is_image else VIDEO
    if ask.medium in ("", medium):
        return None
    return (
        f"{ask.flag}: the prompt {ask.prompt} is for {ask.medium}s, but the content of the file is "
        f"{'a still image' if is_image else 'a video'}; give --any_media to ask it all the same"
    )
