"""The settings of a service and of the requests to it, as frozen dataclasses. Imports no library of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGES, VIDEO = "images", "video"
"""What is sent of a clip: its frames as images, or its file."""


@dataclass(frozen=True)
class Generation:
    """What is asked of the model besides the question. All of it is part of an answer's key.

    system: system prompt; None for no system message.
    temperature: None leaves it to the service. top_p, seed: None for not sent.
    schema: a JSON schema that the answers must fit; None for text.
    extra_body: further fields of a request, which replace fields of the same name.
    """

    model: str
    system: str | None = None
    max_new_tokens: int = 200
    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Visuals:
    """What is sent of a clip.

    send: IMAGES or VIDEO. A still image is sent as an image in both cases.
    max_side: larger frames are scaled so that their longer side has this many pixels.
    quality: of JPEG, 1 to 95.
    detail: OpenAI's `detail` of an image, `low` or `high`; empty for not sent.
    video_options: with VIDEO, the value of `media_io_kwargs["video"]`: `{"num_frames": 3}` or `{"fps": 1.0}`.
    """

    send: str = IMAGES
    max_side: int = 768
    quality: int = 85
    detail: str = ""
    video_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """The pace of requests.

    concurrency: most requests in flight.
    requests_per_minute, tokens_per_minute: None for no limit.
    max_tries: most times that one request is sent.
    timeout: of one request, in seconds.
    """

    concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_tries: int = 10
    timeout: float = 300.0


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, in any currency.

    max_cost: the run ends in good order when it has spent this much; None for no limit.
    """

    price_in: float
    price_out: float
    max_cost: float | None = None

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The price of this many tokens."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


@dataclass(frozen=True)
class ServiceOptions:
    """All settings of a run through a service.

    base_url: with the version, for example `http://localhost:8000/v1`; contains no credentials.
    api_key: empty for none. It never appears in a message: see `Service.redacted`.
    answers: the file of the answer store.
    pay_again: do not use answers that were paid for by earlier runs.
    batch: use the Batch API.
    poll_seconds: time between two questions about the state of a batch.
    dry_run: report what a run would send, and send nothing.
    """

    base_url: str
    generation: Generation
    answers: Path
    api_key: str = field(default="", repr=False)
    visuals: Visuals = field(default_factory=Visuals)
    limits: Limits = field(default_factory=Limits)
    prices: Prices | None = None
    pay_again: bool = False
    batch: bool = False
    poll_seconds: float = 60.0
    dry_run: bool = False
