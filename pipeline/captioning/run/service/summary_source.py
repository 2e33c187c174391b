"""The source of summaries through a service: what is asked, how long texts may be, and what the answers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...captioners.api.options import Generation, ServiceOptions
from ...captioners.api.requests import ServiceRequest, request_key, video_fields
from ...captioners.api.source import generation_text, model_lines, run_lines
from ...captioners.api.text_tokens import text_tokens
from ...captioners.base import Source
from ...long_videos.division import Window
from ...meta.asks import Asks
from ..summaries.settings import DEFAULT_CONTEXT_TOKENS, SummaryAsks, SummarySettings

_TEMPLATE_TOKENS = 64
"""Tokens of a chat template without its messages, at most."""


class SummaryServiceSource(Source):
    """What summaries depend on, for a service. Of `options`, system prompt and schema are not used: they are those of
    captions.

    Raises:
        UsageError: the window is too small for the questions.
    """

    def __init__(self, options: ServiceOptions, settings: SummarySettings) -> None:
        # How the service samples a video file is none of a summary's fields.
        of_videos = video_fields(options.visuals)
        extra_body = {name: value for name, value in options.generation.extra_body.items() if name not in of_videos}
        generation = replace(options.generation, system=settings.system or None, schema=None, extra_body=extra_body)
        self.options = replace(options, generation=generation)
        self.asks: Asks = SummaryAsks.of(settings)
        self.settings = settings
        size = settings.context_tokens or DEFAULT_CONTEXT_TOKENS
        self.window = Window(size, _TEMPLATE_TOKENS + text_tokens(settings.system), text_tokens)
        settings.check_fits(self.window)

    def generation(self, answer_tokens: int) -> Generation:
        """What is asked besides the question, for an answer of at most `answer_tokens`."""
        return replace(self.options.generation, max_new_tokens=answer_tokens)

    def request(self, question: str, answer_tokens: int) -> ServiceRequest:
        """The request that asks a question about text alone."""
        return ServiceRequest(request_key({}, question, self.generation(answer_tokens)), lambda: question)

    def fingerprint(self) -> Mapping[str, str]:
        """Model, prompts, parameters and window. Not: URL, key, pace, prices, store."""
        settings = self.settings
        return {
            "model": self.options.generation.model,
            **settings.fingerprint(),
            "generation": generation_text(self.generation(settings.summary_tokens)),
            "context tokens": str(self.window.size),
        }

    def describe(self) -> list[str]:
        settings = self.settings
        return [
            *model_lines(self.options),
            f"prompt of summaries: {settings.summary_question}",
            f"prompt of titles: {settings.title_question}",
            f"generation: {generation_text(self.generation(settings.summary_tokens))}",
            f"prompts of at most {self.window.size} tokens with their answers, counted roughly; longer texts are "
            "summarised in parts",
            *run_lines(self.options),
        ]
