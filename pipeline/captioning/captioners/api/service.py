"""The service, through the `openai` library: one completion, the list of models. Its own retries are off.

Only this module and `batch/` import the library. Knows nothing about pace, retries and clips.
"""

from __future__ import annotations

from typing import Any

from .answer import Answer


class Service:
    """A service that speaks OpenAI's protocol. Use it in one event loop.

    hint: rate limits that the last answer's headers state; may be missing or wrong.
    """

    def __init__(self, base_url: str, api_key: str, timeout: float, connections: int) -> None:
        raise NotImplementedError

    async def complete(self, body: dict[str, Any]) -> Answer:
        """Ask for one completion. body: of `requests.body`.

        Raises:
            TryAgain, RequestFailed, ServiceStop: see their docstrings. No message contains the key.
        """
        raise NotImplementedError

    async def models(self) -> list[str]:
        """The ids of the models that the service lists.

        Raises:
            ServiceStop: it can't be reached, or does not list models.
        """
        raise NotImplementedError

    def redacted(self, text: str) -> str:
        """The text without the key."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
