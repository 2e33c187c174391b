"""Sends requests through the `openai` library and does nothing else: the fastest client to compare others with.

    python -m scripts.bare_openai_loop BASE_URL --requests 8000 --concurrency 256 --body_bytes 60000

The bodies are ready before the first request: one image of random bytes, and a question that differs between requests.
Prints one line of JSON: requests, and the seconds from the first request to the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient


def ready_bodies(count: int, body_bytes: int, model: str) -> Iterator[dict[str, Any]]:
    """Bodies of chat completions, of about `body_bytes` bytes each. They share the data of their image."""
    data = base64.b64encode(os.urandom(max(0, body_bytes - 300) * 3 // 4)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    for number in range(count):
        question = {"type": "text", "text": f"Describe video {number}."}
        messages = [{"role": "user", "content": [image, question]}]
        yield {"model": model, "messages": messages, "max_tokens": 200, "temperature": 0.0}


async def send_all(base_url: str, bodies: list[dict[str, Any]], concurrency: int) -> float:
    """Send all bodies, `concurrency` at a time; returns the seconds that it took.

    Raises:
        openai.OpenAIError: a request failed.
    """
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    # trust_env=False: no proxy between this loop and a service on the same machine.
    http_client = DefaultAsyncHttpxClient(limits=limits, timeout=300, trust_env=False)
    waiting = iter(bodies)

    async def send() -> None:
        for body in waiting:
            completion = await client.chat.completions.create(**body)
            assert completion.choices[0].message.content

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=http_client) as client:
        begin = time.monotonic()
        await asyncio.gather(*(send() for _ in range(concurrency)))
        return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url")
    parser.add_argument("--model", default="waiting")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--body_bytes", type=int, default=60_000)
    flags = parser.parse_args()
    bodies = list(ready_bodies(flags.requests, flags.body_bytes, flags.model))
    seconds = asyncio.run(send_all(flags.base_url, bodies, flags.concurrency))
    print(json.dumps({"requests": len(bodies), "seconds": seconds}))


if __name__ == "__main__":
    main()
