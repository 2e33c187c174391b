"""The body of `POST /v1/chat/completions` as a checked request. Opens no medium, knows nothing about the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...captioning.generation.options import GenerationOptions
from ..settings import HttpSettings, ServedModel
from .errors import RequestError
from .fields import Fields
from .generation import VideoOptions, generation_options, stop_texts, video_options
from .messages import Conversation, conversation

_HARMLESS = (
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "parallel_tool_calls",
    "request_id",
    "priority",
)
"""Fields that do not change the answer."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "echo": (False,),
    "add_generation_prompt": (True,),
}
"""Fields of OpenAI's protocol and of vLLM that are not supported, and their values that ask for nothing."""


@dataclass(frozen=True)
class ChatRequest:
    """A request for a chat completion.

    ignores_stop_tokens: the field `ignore_eos`, as vLLM has it. includes_usage: in the stream.
    """

    conversation: Conversation
    options: GenerationOptions
    stop: tuple[str, ...]
    video: VideoOptions
    ignores_stop_tokens: bool
    streams: bool
    includes_usage: bool


def chat_request(body: Mapping[str, Any], settings: HttpSettings) -> ChatRequest:
    """Check a body.

    Raises:
        RequestError: a field is wrong, unknown, or asks for what this server can't do; 404 for another model.
    """
    fields = Fields(body)
    _check_model(fields, settings.model)
    streams = fields.flag("stream")
    stream_options = fields.object("stream_options")
    includes_usage = stream_options.flag("include_usage")
    stream_options.ignore("include_obfuscation", "continuous_usage_stats")
    stream_options.refuse_others()
    request = ChatRequest(
        conversation(fields.any("messages"), settings.limits.images),
        generation_options(fields, settings.model, settings.limits),
        stop_texts(fields),
        video_options(fields, settings.model),
        fields.flag("ignore_eos"),
        streams,
        includes_usage,
    )
    fields.ignore(*_HARMLESS)
    for name, neutral in _NEUTRAL.items():
        value = fields.any(name)
        if value is not None and value not in neutral:
            raise fields.error(name, "is not supported by this server; leave it out", "unsupported_parameter")
    fields.refuse_others()
    return request


def _check_model(fields: Fields, model: ServedModel) -> None:
    name = fields.text("model")
    if name is not None and name != model.name:
        message = f"there is no model {name[:200]!r}; this server has {model.name!r}"
        raise RequestError(message, "model", "model_not_found", 404)
