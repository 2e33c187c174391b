"""The most tokens that a request is likely to take, before any answer shows it. Knows nothing about prices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..text_tokens import text_tokens

_IMAGE_TOKENS, _LOW_DETAIL_TOKENS = 26_000, 3_000
"""Of an image of 768 pixels: gpt-4o-mini counts 25,501 tokens, or 2,833 with `detail` `low`; other models fewer."""
_VIDEO_TOKENS = 100_000


def rough_tokens(body: Mapping[str, Any], max_new_tokens: int) -> tuple[int, int]:
    """Prompt and completion tokens of a request.

    body: of `requests.body`. max_new_tokens: if the body does not say it.
    """
    tokens = 0
    for message in body["messages"]:
        content = message["content"]
        parts: Sequence[Mapping[str, Any]] = [{"text": content}] if isinstance(content, str) else content
        for part in parts:
            if "image_url" in part:
                tokens += _LOW_DETAIL_TOKENS if part["image_url"].get("detail") == "low" else _IMAGE_TOKENS
            elif "video_url" in part:
                tokens += _VIDEO_TOKENS
            else:
                tokens += text_tokens(part["text"])
    tokens += text_tokens(json.dumps(body.get("response_format", "")))
    limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    completion = max((limit for limit in limits if isinstance(limit, int)), default=max_new_tokens)
    return tokens, completion
