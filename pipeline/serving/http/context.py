"""What the endpoints of the server share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..questions import Answering
from ..settings import HttpSettings
from .bodies import ByteBudget
from .metrics import Metrics
from .spool import Spool


@dataclass(frozen=True)
class Context:
    """bodies: bytes of the bodies that are being read. ids: of questions. heartbeat: seconds without an event of a
    stream after which a comment is sent, so that no proxy closes the connection.
    """

    settings: HttpSettings
    answering: Answering
    metrics: Metrics
    spool: Spool
    bodies: ByteBudget
    heartbeat: float
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
