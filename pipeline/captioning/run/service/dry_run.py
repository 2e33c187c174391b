"""What a run through a service would send: rows, questions, bytes, and a rough number of tokens and cost.

Sends nothing and writes nothing: the store is read, and a few clips are decoded. Knows nothing about the network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from ...captioners.api.asker import Asker, StoredResult
from ...captioners.api.frames import jpegs
from ...captioners.api.options import VIDEO, ServiceOptions, Visuals
from ...captioners.api.source import ServiceSource
from ...clips.clip import Clip, LoadFailure
from ...clips.downloads.urls import without_credentials
from ...clips.loader import ClipLoader, default_decode_workers
from ...monitor.service_usage import cost_text
from ..options import JobOptions
from ..planning import LeaderPlan, RankPlan
from .rows import ServiceRows

MAX_SAMPLES = 20
"""Clips that are decoded for the estimate."""
_CHARACTERS_PER_TOKEN = 4
_TILE, _TILE_TOKENS, _IMAGE_TOKENS = 512, 170, 85
_LONG_SIDE, _SHORT_SIDE = 2048, 768


@dataclass
class _Questions:
    """The questions of a run.

    open: for each row, the number of questions that would be sent.
    stored: questions that are answered in the store. repeated: open ones that an earlier row asks as well.
    characters, bytes: of the texts of the questions that would be sent.
    unreadable: rows whose file can't be read, with the reason.
    """

    open: dict[int, int] = field(default_factory=dict)
    stored: int = 0
    repeated: int = 0
    characters: int = 0
    bytes: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of questions that would be sent."""
        return sum(self.open.values())


@dataclass
class _Samples:
    """The decoded clips.

    requests: number of questions about them that would be sent.
    bytes, tokens: of their frames or files in all these requests.
    failures: those that can't be loaded.
    """

    clips: int = 0
    requests: int = 0
    bytes: int = 0
    tokens: int = 0
    failures: list[LoadFailure] = field(default_factory=list)


def report(
    options: JobOptions, plan: RankPlan, source: ServiceSource, service: ServiceOptions, asker: Asker
) -> list[str]:
    """Lines for the log: what the run would send, and a rough number of tokens and cost.

    asker: without a sender.

    Raises:
        StartError: no decoding process can be started.
    """
    leader = plan.leader
    assert leader is not None, "a run through a service has one process"
    questions = _questions(leader, source, service, asker)
    lines = ["dry run: nothing is sent, and nothing is written", *_lines_of_questions(questions, leader, service)]
    if not questions.total:
        return lines
    with _loader(_spread(list(questions.open)), options, plan, source) as loader:
        samples = _samples(loader, questions.open, service.visuals)
    return [*lines, *_lines_of_samples(samples, questions), *_estimate(samples, questions, service)]


def _questions(leader: LeaderPlan, source: ServiceSource, service: ServiceOptions, asker: Asker) -> _Questions:
    """Look for the answer to every question in the store. Nothing is decoded."""
    found, sent, rows, generation = _Questions(), set[str](), ServiceRows(source), service.generation
    schema = json.dumps(generation.schema) if generation.schema is not None else ""
    constant = (generation.system or "") + schema
    for row in leader.plan.in_order():
        task = leader.task_of(row)
        texts = source.asks.questions(task.cells)
        try:
            keys = rows.keys(task)
        except (OSError, ValueError) as error:
            found.unreadable[row] = str(error)
            continue
        for number, key in keys.items():
            if key in sent:
                found.repeated += 1
            elif isinstance(asker.next(key), StoredResult):
                found.stored += 1
            else:
                sent.add(key)
                text = constant + texts[number]
                found.open[row] = found.open.get(row, 0) + 1
                found.characters += len(text)
                found.bytes += len(text.encode())
    return found


def _spread(rows: Sequence[int]) -> list[int]:
    """At most MAX_SAMPLES of the rows, spread evenly over them."""
    count = min(MAX_SAMPLES, len(rows))
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]


def _loader(rows: Sequence[int], options: JobOptions, plan: RankPlan, source: ServiceSource) -> ClipLoader:
    """Loads the clips of `rows` as the run would."""
    assert plan.leader is not None
    return ClipLoader(
        [plan.leader.task_of(row).clip for row in rows],
        source.preparation,
        options.decoder_limits,
        prefetch=2,
        workers=options.decode_workers or default_decode_workers(plan.host_workers),
    )


def _samples(loader: ClipLoader, open_questions: Mapping[int, int], visuals: Visuals) -> _Samples:
    """Load all clips of `loader`. open_questions: for each row, the number of questions that would be sent."""
    samples = _Samples()
    for clip in loader:
        requests = open_questions[clip.row]
        samples.clips += 1
        samples.requests += requests
        if isinstance(clip, LoadFailure):
            samples.failures.append(clip)
            continue
        size, tokens = _size_of(clip, visuals)
        samples.bytes += size * requests
        samples.tokens += tokens * requests
    samples.failures.sort(key=lambda failure: failure.row)
    return samples


def _size_of(clip: Clip, visuals: Visuals) -> tuple[int, int]:
    """Bytes of a clip in a request, and rough tokens. The tokens of a video file are not known: 0."""
    if visuals.send == VIDEO and not clip.is_image:
        return _base64_bytes(clip.frames.nbytes), 0
    frames = jpegs(clip.frames)
    size = sum(_base64_bytes(len(jpeg)) for jpeg in frames)
    return size, sum(_image_tokens(jpeg, visuals.detail) for jpeg in frames)


def _base64_bytes(size: int) -> int:
    return -(-size // 3) * 4


def _image_tokens(jpeg: bytes, detail: str) -> int:
    """Tokens of an image by OpenAI's rule: 85, and 170 for each tile of 512 pixels unless `detail` is `low`."""
    if detail == "low":
        return _IMAGE_TOKENS
    with Image.open(BytesIO(jpeg)) as image:
        width, height = image.size
    scale = min(1.0, _LONG_SIDE / max(width, height))
    scale *= min(1.0, _SHORT_SIDE / (scale * min(width, height)))
    columns, rows = (-(-round(side * scale) // _TILE) for side in (width, height))
    return _IMAGE_TOKENS + _TILE_TOKENS * columns * rows


def _lines_of_questions(questions: _Questions, leader: LeaderPlan, service: ServiceOptions) -> list[str]:
    lines = [
        f"to send: {questions.total:,} requests about {len(questions.open):,} clips; "
        f"{questions.stored:,} questions are answered in {service.answers}"
    ]
    if questions.repeated:
        lines.append(f"{questions.repeated:,} questions are asked once, because other rows ask the same about one clip")
    if questions.unreadable:
        row, reason = next(iter(questions.unreadable.items()))
        path = without_credentials(leader.table.paths[row])
        lines.append(
            f"{len(questions.unreadable):,} rows have no file that can be read, "
            f"for example row {row} ({path}): {reason}"
        )
    return lines


def _lines_of_samples(samples: _Samples, questions: _Questions) -> list[str]:
    stages = Counter(failure.stage for failure in samples.failures)
    failed = ", ".join(f"{count} failed at stage {stage}" for stage, count in stages.items()) or "none failed"
    return [
        f"loaded {samples.clips} of these {len(questions.open):,} clips for the estimate: {failed}",
        *(
            f"row {failure.row} ({without_credentials(failure.path)}) failed: {failure.stage}: "
            + "; ".join(failure.messages)
            for failure in samples.failures
        ),
    ]


def _estimate(samples: _Samples, questions: _Questions, service: ServiceOptions) -> list[str]:
    """Bytes, tokens and cost of all requests. A sampled clip that failed counts as one that is not sent."""
    if len(samples.failures) == samples.clips:
        return ["bytes, tokens and cost are not known, because none of these clips could be loaded"]
    share = questions.total / samples.requests
    size = samples.bytes * share + questions.bytes
    tokens_in = round(samples.tokens * share + questions.characters / _CHARACTERS_PER_TOKEN)
    tokens_out = questions.total * service.generation.max_new_tokens
    is_video = service.visuals.send == VIDEO
    rule = "without those of videos, which only the service knows" if is_video else "by OpenAI's rule for images"
    lines = [
        f"bytes: about {size / 1e6:,.1f} MB, {size / questions.total / 1e3:,.0f} kB a request",
        f"tokens, a rough estimate: {tokens_in:,} in ({rule}, and {_CHARACTERS_PER_TOKEN} characters a token), at most "
        f"{tokens_out:,} out",
    ]
    if service.prices is None:
        return [*lines, "cost: not known; give --price_in and --price_out"]
    cost_in, cost_out = service.prices.cost(tokens_in, 0), service.prices.cost(0, tokens_out)
    line = (
        f"cost, a rough estimate: {cost_text(cost_in)} for the tokens in, at most {cost_text(cost_out)} for those out, "
        f"at most {cost_text(cost_in + cost_out)} together"
    )
    most = service.prices.max_cost
    return [*lines, line if most is None else f"{line}; --max_cost {most:g} ends the run"]
