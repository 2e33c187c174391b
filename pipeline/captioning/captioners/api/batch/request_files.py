"""A request file of the Batch API: one line of JSON for each request. Knows nothing about the network."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..answer import AnsweredClip

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 10**6
"""Limits of a request file, by the documentation of the Batch API."""
ENDPOINT: Final = "/v1/chat/completions"


def line_of(custom_id: str, body: Mapping[str, Any]) -> bytes:
    """The line of a request, with its line end. body: of `requests.body`."""
    record = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


class RequestFile:
    """A request file that is being written. Only the ids of its requests are in memory.

    folder: it is created if there is none.
    name: of the batch; unique.
    requests: of the file, by custom id.
    size: bytes so far.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self.name = f"{job}-{uuid.uuid4().hex[:16]}"
        self.path = folder / f"{self.name}.jsonl"
        self.requests: dict[str, AnsweredClip] = {}
        self.size = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")

    def add(self, custom_id: str, line: bytes, clip: AnsweredClip) -> None:
        """Write a request. line: of `line_of`. clip: of the request."""
        self._file.write(line)
        self.requests[custom_id] = clip
        self.size += len(line)

    def has_room(self, line: bytes, max_requests: int, max_bytes: int) -> bool:
        """Whether another request fits."""
        return len(self.requests) < max_requests and self.size + len(line) <= max_bytes

    def complete(self) -> None:
        """All requests are on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
