"""The flags that all commands through a service have, in groups: service, answers, money. Parses only.

The types of the values are in `values`; `flags.service_options` checks them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...captioners.api.options import Generation, Limits
from ...process.arguments import number, positive_int, whole_number
from ..prompt_flags import utf8
from . import values
from .access import KEY_VARIABLE


def add_flags_of_access(
    parser: argparse.ArgumentParser, base_url: str | None = None, max_tries: int = Limits.max_tries
) -> argparse._ArgumentGroup:
    """Add the flags of URL, model, key, tries and time limit; returns their group.

    base_url: the default; None if the flag is required. max_tries: the default.
    """
    service = parser.add_argument_group("service")
    service.add_argument(
        "--base_url",
        type=values.base_url,
        required=base_url is None,
        default=base_url,
        metavar="URL",
        help="URL of the service with the version, for example http://localhost:8000/v1 or https://api.openai.com/v1",
    )
    service.add_argument(
        "--model",
        type=values.name,
        metavar="NAME",
        help="model that is asked; if not given, the only one that the service lists",
    )
    service.add_argument(
        "--api_key_env",
        type=values.name,
        metavar="NAME",
        help=f"environment variable with the key; if not given, {KEY_VARIABLE}, and no key if that is not set",
    )
    names = ("--api_key", "--api-key", "--key", "--openai_api_key", "--openai-api-key")
    service.add_argument(*names, type=values.no_key, help=argparse.SUPPRESS)
    service.add_argument(
        "--max_tries",
        type=positive_int,
        default=max_tries,
        help="send a request at most this many times if the service does not answer it",
    )
    service.add_argument(
        "--timeout",
        type=number(minimum=0, above=True),
        default=Limits.timeout,
        help="time limit of one request, in seconds",
    )
    return service


def add_flags_of_the_service(parser: argparse.ArgumentParser) -> None:
    """Add the flags of access and pace."""
    service, limits = add_flags_of_access(parser), Limits()
    service.add_argument(
        "--concurrency",
        type=positive_int,
        help=f"maximum number of requests in flight; if not given, {limits.concurrency}",
    )
    service.add_argument(
        "--requests_per_minute",
        type=number(minimum=0, above=True),
        metavar="N",
        help="send at most this many requests a minute; if not given, no limit",
    )
    service.add_argument(
        "--tokens_per_minute",
        type=number(minimum=0, above=True),
        metavar="N",
        help="send at most requests of this many tokens a minute, with those of the answers; if not given, no limit",
    )
    service.add_argument(
        "--extra_body",
        type=values.extra_body,
        metavar="JSON",
        help="JSON object with further fields of every request, which replace fields of the same name; @FILE reads it "
        "from a file",
    )


def add_flags_of_answers(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags of how the model answers; returns their group."""
    answers, defaults = parser.add_argument_group("answers"), Generation("")
    answers.add_argument("--system", type=utf8, help="system prompt; if not given or '', none is sent")
    answers.add_argument(
        "--temperature",
        type=values.temperature,
        default=defaults.temperature,
        help=f"sampling temperature; '{values.DEFAULT_OF_SERVICE}' leaves it to the service",
    )
    answers.add_argument(
        "--top_p",
        type=number(minimum=0, maximum=1, above=True),
        help="sample from the smallest set of tokens whose probabilities add up to at least this value; if not given, "
        "the service chooses",
    )
    answers.add_argument(
        "--seed", type=whole_number(0), help="seed of sampling, for services that take it; if not given, none is sent"
    )
    return answers


def add_flags_of_money(parser: argparse.ArgumentParser) -> None:
    """Add the flags of prices and of the store of answers."""
    money = parser.add_argument_group("money")
    money.add_argument("--price_in", type=number(minimum=0), help="price of a million prompt tokens, in any currency")
    money.add_argument("--price_out", type=number(minimum=0), help="price of a million generated tokens")
    money.add_argument(
        "--max_cost",
        type=number(minimum=0, above=True),
        help="end the run in good order before it has cost more than this; needs the prices",
    )
    money.add_argument(
        "--dry_run",
        action="store_true",
        help="report rows, bytes and a rough cost; send nothing and write nothing",
    )
    money.add_argument(
        "--answers",
        type=Path,
        help="SQLite file that keeps every paid answer, so that later runs need not pay for it again; if not given, "
        "<meta>_answers.sqlite next to the meta table",
    )
    money.add_argument(
        "--pay_again", action="store_true", help="do not use the answers that earlier runs have paid for"
    )
