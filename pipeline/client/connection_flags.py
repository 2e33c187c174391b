"""The flags of the server that is asked, and of how it answers; checked, then frozen.

Imports no library of a service, except to ask the server for its models if `--model` is missing.
"""

from __future__ import annotations

import argparse
import os

from ..captioning.captioners.api.options import Generation, Limits
from ..captioning.process.arguments import number, positive_int, whole_number
from ..captioning.run.prompt_flags import utf8
from ..captioning.run.service import values
from ..captioning.run.service.access import KEY_VARIABLE, api_key_of, listed_model
from .connection import ConnectionOptions

BASE_URL = "http://127.0.0.1:8000/v1"
"""Where `python -m pipeline.serving` listens unless told otherwise."""
MAX_TRIES = 5


def add_connection_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `connection_options` reads, but not the number of requests in flight."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--base_url", type=values.base_url, default=BASE_URL, metavar="URL", help="URL of the server with the version"
    )
    server.add_argument(
        "--model",
        type=values.name,
        metavar="NAME",
        help="model that is asked; if not given, the only one that the server lists",
    )
    server.add_argument(
        "--api_key_env",
        type=values.name,
        metavar="NAME",
        help=f"environment variable with the key; if not given, {KEY_VARIABLE}, and no key if that is not set",
    )
    names = ("--api_key", "--api-key", "--key", "--openai_api_key", "--openai-api-key")
    server.add_argument(*names, type=values.no_key, help=argparse.SUPPRESS)
    server.add_argument(
        "--timeout",
        type=number(minimum=0, above=True),
        default=Limits.timeout,
        help="time limit of one request, in seconds",
    )
    server.add_argument(
        "--max_tries",
        type=positive_int,
        default=MAX_TRIES,
        help="send a request at most this many times if the server does not answer it",
    )


def add_answer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how the model answers. Those that are not given are left to the server."""
    answers = parser.add_argument_group("answers", "what is not given is left to the server")
    answers.add_argument("--question", type=utf8, help="question about every clip; if not given, that of the server")
    answers.add_argument("--system", type=utf8, help="system prompt; if not given, that of the server")
    answers.add_argument("--temperature", type=number(minimum=0), help="sampling temperature; 0 for none")
    answers.add_argument("--top_p", type=number(minimum=0, maximum=1, above=True), help="nucleus of sampling")
    answers.add_argument("--seed", type=whole_number(0), help="seed of sampling")


def connection_options(flags: argparse.Namespace, concurrency: int) -> ConnectionOptions:
    """Check the flags. concurrency: most requests in flight.

    Raises:
        UsageError: a key that can't be used; or no model is given, and the server does not list exactly one.
        ServiceStop: no model is given, and the server can't be asked.
    """
    api_key = api_key_of(flags.api_key_env, os.environ)
    generation = Generation(
        model=flags.model or listed_model(flags.base_url, api_key, flags.timeout),
        system=flags.system,
        max_new_tokens=flags.max_tokens,
        temperature=flags.temperature,
        top_p=flags.top_p,
        seed=flags.seed,
    )
    limits = Limits(concurrency=concurrency, max_tries=flags.max_tries, timeout=flags.timeout)
    return ConnectionOptions(flags.base_url, generation, limits, api_key)
