"""The flags of the server that is asked, and of how it answers; checked, then frozen.

Imports no library of a service, except to ask the server for its models if `--model` is missing.
"""

from __future__ import annotations

import argparse
import os

from ..captioning.captioners.api.options import Generation, Limits
from ..captioning.process.arguments import number, whole_number
from ..captioning.run.prompt_flags import utf8
from ..captioning.run.service.access import api_key_of, listed_model
from ..captioning.run.service.flag_groups import add_flags_of_access
from .connection import ConnectionOptions

BASE_URL = "http://127.0.0.1:8000/v1"
"""Where `python -m pipeline.serving` listens unless told otherwise."""
MAX_TRIES = 5


def add_connection_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `connection_options` reads, but not the number of requests in flight."""
    add_flags_of_access(parser, BASE_URL, MAX_TRIES)


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
