"""Sends questions to a server: which model answers, with which parameters, and how often a request is tried.

Tries again after errors of the network and when the server is full, after the time that it asks for. Knows nothing
about clips; `content` is what a message contains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..captioning.captioners.api.answer import Answer
from ..captioning.captioners.api.errors import NotSent
from ..captioning.captioners.api.options import Generation, Limits
from ..captioning.captioners.api.pace import Pace
from ..captioning.captioners.api.requests import Content, body
from ..captioning.captioners.api.sender import Sender
from ..captioning.captioners.api.usage import Usage

if TYPE_CHECKING:  # It imports the library of the service, which takes half a second.
    from ..captioning.captioners.api.service import Service


@dataclass(frozen=True)
class ConnectionOptions:
    """base_url: with the version. api_key: empty for none. generation: the model and its parameters."""

    base_url: str
    generation: Generation
    limits: Limits
    api_key: str = field(default="", repr=False)


class Connection:
    """A context manager (`async with`). Use it in one event loop.

    usage: counts the requests and those that were sent again.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self.usage = Usage()
        self._service: Service | None = None
        self._sender: Sender | None = None

    async def __aenter__(self) -> Connection:
        from ..captioning.captioners.api.service import Service

        options, limits = self._options, self._options.limits
        self._service = Service(options.base_url, options.api_key, limits.timeout, limits.concurrency)
        self._sender = Sender(self._service, Pace(limits), limits, self.usage)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._service is not None:
            await self._service.close()

    async def ask(self, content: Content, fields: Mapping[str, Any] | None = None) -> Answer:
        """Ask a question. fields: further ones of this request, such as `media_io_kwargs`.

        Waits while `limits.concurrency` requests are in flight. If the caller is cancelled, the connection is closed,
        and the server stops working on the answer.

        Raises:
            RequestFailed: the server does not accept the request, or did not answer it in `limits.max_tries`.
            ServiceStop: no request can succeed any more, for example because the key is wrong. This request or an
                earlier one has shown it.
        """
        assert self._sender is not None, "used outside of `async with`"
        generation = self._options.generation
        if fields:
            generation = dataclasses.replace(generation, extra_body={**generation.extra_body, **fields})
        try:
            return await self._sender.send(lambda: body(generation, content))
        except NotSent:
            if self._sender.problem is None:
                raise
            raise self._sender.problem from None
