"""The figures of `/metrics`, in the format of Prometheus. Knows no endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ..messages import Done
from ..questions import Load

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts requests. load: how busy the server is, read when the figures are."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LoadCollector(load))
        self._prompt_tokens = self._counter("captioning_prompt_tokens", "Tokens of prompts, visual tokens included")
        self._new_tokens = self._counter("captioning_generation_tokens", "Generated tokens")
        self._requests = Counter(
            "captioning_requests", "Requests that ended, by outcome", ["outcome"], registry=self._registry
        )
        self._request_seconds = self._histogram(
            "captioning_request_seconds", "Time from the end of the body to the end of the answer"
        )
        self._first_token_seconds = self._histogram(
            "captioning_time_to_first_token_seconds", "Time from the end of the body to the first token"
        )

    def request(self) -> RequestFigures:
        """The figures of a request that begins."""
        return RequestFigures(self)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)

    def _counter(self, name: str, description: str) -> Counter:
        return Counter(name, description, registry=self._registry)

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(name, description, buckets=_SECONDS, registry=self._registry)


class RequestFigures:
    """The figures of one request. Nothing is counted before `ended`, but for the time to the first token."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._asked = 0.0
        self._has_begun = False
        self._done: Done | None = None

    def asked(self) -> None:
        """The body was received, and the question is being asked."""
        self._asked = time.monotonic()

    def begun(self) -> None:
        """The first token was generated."""
        if not self._has_begun:
            self._has_begun = True
            self._metrics._first_token_seconds.observe(time.monotonic() - self._asked)

    def done(self, done: Done) -> None:
        """The whole answer is there."""
        self._done = done

    def ended(self, outcome: str) -> None:
        """The request ended. outcome: a label, see the page of the server's API."""
        self._metrics._requests.labels(outcome).inc()
        if self._done is not None:
            self._metrics._prompt_tokens.inc(self._done.prompt_tokens)
            self._metrics._new_tokens.inc(self._done.completion_tokens)
            self._metrics._request_seconds.observe(time.monotonic() - self._asked)


class _LoadCollector(Collector):
    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        load = self._load()
        gauges = (
            ("captioning_requests_running", "Requests in a slot of an engine", load.running),
            ("captioning_requests_waiting", "Accepted requests without a slot", load.waiting),
            ("captioning_slots", "Slots of the devices that are ready", load.slots),
            ("captioning_devices", "Device processes", load.devices),
            ("captioning_devices_ready", "Device processes that are loaded and answer", load.ready),
        )
        for name, description, value in gauges:
            yield GaugeMetricFamily(name, description, value=value)
        yield CounterMetricFamily(
            "captioning_device_restarts", "Device processes that were started again", value=load.restarts
        )

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        return iter(())
