"""The figures of one rank, which the report adds up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RankStats:
    """What a rank did in this run.

    captioned, failed: number of captions that were made, and that could not be made; a row may have several.
    captioned_rows: number of rows with at least one caption.
    failed_rows: number of rows with at least one failure.
    tokens: number of generated tokens, including end-of-sequence tokens.
    load_seconds: time until the model was loaded.
    device_seconds: time in the captioner.
    decode_wait_seconds: time in which the device waited for clips.
    decode_seconds: time of decoding clips, added up over the decoding processes, which run while the device computes.
    stages: seconds, tokens and steps of the captioner's stages (`Captioner.stages`).
    slots: maximum number of clips in flight, at the end of the run.
    peak_memory_mib: peak host memory of the worker's process, without its decoding processes, in MiB.
    peak_device_memory_mib: peak memory that tensors took on an accelerator, in MiB; 0 on a CPU.
    backend: framework, device and computing type, as text.
    service: the figures of the service that made the captions, see `Usage.report`, with its settings; empty if a model
        in this process made them.
    """

    captioned: int = 0
    failed: int = 0
    captioned_rows: int = 0
    failed_rows: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    device_seconds: float = 0.0
    decode_wait_seconds: float = 0.0
    decode_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    slots: int = 0
    peak_memory_mib: float = 0.0
    peak_device_memory_mib: float = 0.0
    backend: str = ""
    service: dict[str, Any] = field(default_factory=dict)
