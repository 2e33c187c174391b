"""The source of a run through a service: which frames, what is asked, and what the captions depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ...clips.preparation import FramePreparation
from ...clips.sampling import FrameSampling
from ...meta.asks import Asks
from ..base import ClipSource
from ..clip_prompts import check_questions
from .frames import JpegFrames
from .options import VIDEO, Generation, Limits, Prices, ServiceOptions, Visuals


class ServiceSource(ClipSource):
    """options: of the service.

    Raises:
        UsageError: a question is blank.
    """

    def __init__(self, options: ServiceOptions, asks: Asks, sampling: FrameSampling, short_side: int) -> None:
        check_questions(asks, ())
        self.options, self.asks, self.sampling, self.short_side = options, asks, sampling, short_side
        self.frame_transform = JpegFrames(options.visuals.max_side, options.visuals.quality)

    @property
    def preparation(self) -> FramePreparation:
        sends_file = self.options.visuals.send == VIDEO
        return FramePreparation(self.sampling, self.frame_transform, self.short_side, sends_file=sends_file)

    def fingerprint(self) -> Mapping[str, str]:
        """Model, prompt, parameters and frames. Not: URL, key, pace, prices, store, Batch API."""
        generation = self.options.generation
        return {
            "model": generation.model,
            "system": generation.system or "",
            **dict(zip(self._prompt_entries(), self.asks.texts, strict=True)),
            "frames": str(self.sampling),  # the gallery reads it
            "short side": str(self.short_side or "as decoded"),
            "visuals": _visuals_text(self.options.visuals),
            "generation": generation_text(generation),
        }

    def describe(self) -> list[str]:
        options, generation = self.options, self.options.generation
        return [
            *model_lines(options),
            *(f"prompt of {ask.column}: {text}" for ask, text in zip(self.asks.asks, self.asks.texts, strict=True)),
            f"generation: {generation_text(generation)}",
            self._sent(),
            *run_lines(options),
        ]

    def _sent(self) -> str:
        visuals = self.options.visuals
        scaled = f"scaled down to a shorter side of {self.short_side}, " if self.short_side else ""
        detail = f", detail {visuals.detail}" if visuals.detail else ""
        jpeg = f"JPEG, {scaled}longer side at most {visuals.max_side} pixels, quality {visuals.quality}{detail}"
        if visuals.send == VIDEO:
            options = f" with {_canonical(visuals.video_options)}" if visuals.video_options else ""
            return f"sent: the file of each video{options}; images as {jpeg}"
        return f"sent: frames {self.sampling} as {jpeg}"


def model_lines(options: ServiceOptions) -> list[str]:
    """Lines for the log: model and system prompt."""
    generation = options.generation
    lines = [f"model {generation.model} at {options.base_url}"]
    return [*lines, f"system prompt: {generation.system}"] if generation.system else lines


def run_lines(options: ServiceOptions) -> list[str]:
    """Lines for the log: pace, prices and store."""
    if options.dry_run:
        pace = "dry run: nothing is sent"
    elif options.batch:
        pace = f"pace: Batch API, asked for its state every {options.poll_seconds:g} s"
    else:
        pace = _pace(options.limits)
    use = "those of earlier runs are not used (--pay_again)" if options.pay_again else "those in it are used"
    return [pace, _prices(options.prices), f"answers are stored in {options.answers}; {use}"]


def _visuals_text(visuals: Visuals) -> str:
    text = f"send {visuals.send} max side {visuals.max_side} quality {visuals.quality}"
    detail = f" detail {visuals.detail}" if visuals.detail else ""
    options = f" video options {_canonical(visuals.video_options)}" if visuals.video_options else ""
    return text + detail + options


def generation_text(generation: Generation) -> str:
    """The parameters; of a schema and of further fields, which may be long or private, a digest."""
    text = f"max new tokens {generation.max_new_tokens}"
    for name, value in (
        ("temperature", generation.temperature),
        ("top_p", generation.top_p),
        ("seed", generation.seed),
    ):
        text += f", {name} {'default' if value is None else value}"
    if generation.schema is not None:
        text += f", schema {_digest(generation.schema)}"
    if generation.extra_body:
        text += f", extra body {' '.join(sorted(generation.extra_body))} {_digest(generation.extra_body)}"
    return text


def _pace(limits: Limits) -> str:
    text = f"pace: at most {limits.concurrency} requests in flight"
    if limits.requests_per_minute is not None:
        text += f", {limits.requests_per_minute:,.10g} requests a minute"
    if limits.tokens_per_minute is not None:
        text += f", {limits.tokens_per_minute:,.10g} tokens a minute"
    return f"{text}; each is sent at most {limits.max_tries} times and may take {limits.timeout:g} s"


def _prices(prices: Prices | None) -> str:
    if prices is None:
        return "prices are unknown, so no cost is computed; give --price_in and --price_out"
    text = f"prices per million tokens: {prices.price_in:g} in, {prices.price_out:g} out"
    return text if prices.max_cost is None else f"{text}; the run ends at a cost of {prices.max_cost:g}"


def _canonical(value: Mapping[str, Any]) -> str:
    """JSON that does not depend on the order of the keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(value).encode(errors="surrogatepass")).hexdigest()[:16]
