"""The source of a run through a service: which frames, what is asked, and what the captions depend on."""

from __future__ import annotations

from collections.abc import Mapping

from ...clips.preparation import FramePreparation
from ...clips.sampling import FrameSampling
from ...meta.asks import Asks
from ..base import Source
from .options import ServiceOptions


class ServiceSource(Source):
    """options: of the service."""

    def __init__(self, options: ServiceOptions, asks: Asks, sampling: FrameSampling, short_side: int) -> None:
        raise NotImplementedError

    @property
    def preparation(self) -> FramePreparation:
        raise NotImplementedError

    def fingerprint(self) -> Mapping[str, str]:
        """Model, prompt, parameters and frames. Not: URL, key, pace, prices, store, Batch API."""
        raise NotImplementedError

    def describe(self) -> list[str]:
        raise NotImplementedError
