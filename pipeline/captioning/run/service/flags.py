"""The flags of a service: protocol, answers, what is sent of a clip, money, the Batch API; checked, then frozen.

The types of the values are in `values`, the key and the list of models in `access`. Imports no library
of a service, except to ask the service for its models if `--model` is missing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ...captioners.api.options import IMAGES, VIDEO, Generation, Limits, Prices, ServiceOptions, Visuals
from ...captioners.api.requests import video_fields
from ...clips.sampling import FrameSampling
from ...meta.files import backup_of
from ...meta.names import failures_path, gallery_path, outcomes_path, report_path, stem_of
from ...process.arguments import number, positive_int, whole_number
from ...process.errors import UsageError
from ...workers.launch import Launch
from ..frame_flags import frame_sampling
from ..options import JobOptions
from ..prompt_flags import utf8
from . import values
from .access import KEY_VARIABLE, api_key_of, only_model

DEFAULT_SAMPLING = FrameSampling("segments", 4)
"""Which frames are sampled unless flags say otherwise: those of PLLaVA."""
_POLL_SECONDS = 60.0


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `service_options` reads. Flags that do not suit every mode are None if they are not given."""
    _add_flags_of_the_service(parser)
    _add_flags_of_answers(parser)
    visuals, defaults = parser.add_argument_group("what is sent of a clip"), Visuals()
    visuals.add_argument(
        "--send",
        choices=(IMAGES, VIDEO),
        default=IMAGES,
        help="send the sampled frames as images, or the file of the clip as a video for services that take it; the "
        "service then samples --num_frames or --fps, or as many frames as it chooses",
    )
    visuals.add_argument(
        "--max_side",
        type=positive_int,
        help=f"scale larger frames to a longer side of this many pixels; if not given, {defaults.max_side}",
    )
    visuals.add_argument(
        "--jpeg_quality",
        type=values.jpeg_quality,
        help=f"quality of the frames' JPEG, 1 to 95; if not given, {defaults.quality}",
    )
    visuals.add_argument(
        "--detail",
        choices=("low", "high"),
        help="OpenAI's 'detail' of an image: how many tokens it takes; if not given, the service chooses",
    )
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
    batch = parser.add_argument_group("Batch API")
    batch.add_argument(
        "--batch", action="store_true", help="send the requests through the Batch API, which answers within 24 hours"
    )
    batch.add_argument(
        "--poll_seconds",
        type=number(minimum=0, above=True),
        help="seconds between two questions about the state of the batches; if not given, 60",
    )


def _add_flags_of_the_service(parser: argparse.ArgumentParser) -> None:
    service, limits = parser.add_argument_group("service"), Limits()
    service.add_argument(
        "--base_url",
        type=values.base_url,
        required=True,
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
        "--max_tries",
        type=positive_int,
        default=limits.max_tries,
        help="send a request at most this many times if the service does not answer it",
    )
    service.add_argument(
        "--timeout",
        type=number(minimum=0, above=True),
        default=limits.timeout,
        help="time limit of one request, in seconds",
    )
    service.add_argument(
        "--extra_body",
        type=values.extra_body,
        metavar="JSON",
        help="JSON object with further fields of every request, which replace fields of the same name; @FILE reads it "
        "from a file",
    )


def _add_flags_of_answers(parser: argparse.ArgumentParser) -> None:
    answers, defaults = parser.add_argument_group("answers"), Generation("")
    answers.add_argument("--system", type=utf8, help="system prompt; if not given or '', none is sent")
    answers.add_argument(
        "--max_new_tokens",
        type=values.answer_tokens,
        default=defaults.max_new_tokens,
        help="maximum length of an answer, in tokens; longer answers are cut off",
    )
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
    answers.add_argument(
        "--json_schema",
        type=values.json_schema,
        metavar="FILE",
        help="file with a JSON schema that every answer must fit; the captions are then JSON",
    )


def check_launch(launch: Launch) -> None:
    """Check that this is the only process of the run.

    Raises:
        UsageError: a launcher has started it.
    """
    if launch.launcher != "plain":
        raise UsageError(
            f"this command was started by {launch.launcher}, but it is one process; start it without a launcher. To "
            "use several processes, divide the table with `python -m pipeline.datasets.datautil --shard N`"
        )


def service_options(flags: argparse.Namespace, options: JobOptions) -> ServiceOptions:
    """Check the flags of `add_service_flags` and of `frame_flags.add_frame_flags`.

    Raises:
        UsageError: values that do not go together, no key, a file that can't be used, or no model.
    """
    if flags.redo and not flags.pay_again:
        raise UsageError(
            f"--redo {','.join(flags.redo)}: the service has answered these questions, and the stored answers would be "
            "used again; give --pay_again, too"
        )
    visuals, prices, limits = _visuals(flags), _prices(flags), _limits(flags)
    answers, api_key = _answers(flags, options), api_key_of(flags.api_key_env, os.environ)
    model = flags.model or only_model(flags.base_url, api_key, limits.timeout)
    return ServiceOptions(
        base_url=flags.base_url,
        generation=Generation(
            model=model,
            system=flags.system or None,
            max_new_tokens=flags.max_new_tokens,
            temperature=flags.temperature,
            top_p=flags.top_p,
            seed=flags.seed,
            schema=flags.json_schema,
            extra_body={**video_fields(visuals), **(flags.extra_body or {})},
        ),
        answers=answers,
        api_key=api_key,
        visuals=visuals,
        limits=limits,
        prices=prices,
        pay_again=flags.pay_again,
        batch=flags.batch,
        poll_seconds=flags.poll_seconds or _POLL_SECONDS,
        dry_run=flags.dry_run,
    )


def service_sampling(flags: argparse.Namespace) -> FrameSampling:
    """The frames that are sampled. With `--send video` the service samples them, and this only describes it.

    Raises:
        UsageError: flags that do not go together.
    """
    return frame_sampling(flags, DEFAULT_SAMPLING)


def _visuals(flags: argparse.Namespace) -> Visuals:
    given: dict[str, Any] = {"max_side": flags.max_side, "quality": flags.jpeg_quality, "detail": flags.detail}
    if flags.send == IMAGES:
        service_sampling(flags)  # before the service is asked for its models
        return Visuals(**{name: value for name, value in given.items() if value is not None})
    for flag in ("sampling", "max_frames", "short_side", "max_side", "jpeg_quality", "detail"):
        if getattr(flags, flag) is not None:
            raise UsageError(
                f"--{flag} {getattr(flags, flag)} has no effect with --send {VIDEO}, where the service samples the "
                "frames; leave it out, or give --num_frames or --fps"
            )
    service_sampling(flags)
    sampled = {name: getattr(flags, name) for name in ("num_frames", "fps")}
    return Visuals(send=VIDEO, video_options={name: value for name, value in sampled.items() if value is not None})


def _prices(flags: argparse.Namespace) -> Prices | None:
    prices = {name: getattr(flags, name) for name in ("price_in", "price_out")}
    missing = [f"--{name}" for name, value in prices.items() if value is None]
    if len(missing) == 1:
        (given,) = {"--price_in", "--price_out"} - set(missing)
        raise UsageError(f"{given} is given without {missing[0]}; give both prices, 0 if it costs nothing")
    if missing:
        if flags.max_cost is not None:
            raise UsageError(f"--max_cost {flags.max_cost:g} needs the prices; give --price_in and --price_out, too")
        return None
    if flags.max_cost is not None and not any(prices.values()):
        raise UsageError(f"--max_cost {flags.max_cost:g} has no effect if both prices are 0; leave it out")
    return Prices(flags.price_in, flags.price_out, flags.max_cost)


def _limits(flags: argparse.Namespace) -> Limits:
    """The pace of requests; refuses flags that have no effect on the way in which the requests are sent."""
    if flags.batch:
        for flag in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            if getattr(flags, flag) is not None:
                raise UsageError(
                    f"--{flag} {getattr(flags, flag):g} has no effect with --batch: the service sets the pace; leave "
                    "it out"
                )
    elif flags.poll_seconds is not None:
        raise UsageError(f"--poll_seconds {flags.poll_seconds:g} has an effect only with --batch; give it, too")
    return Limits(
        concurrency=flags.concurrency or Limits.concurrency,
        requests_per_minute=flags.requests_per_minute,
        tokens_per_minute=flags.tokens_per_minute,
        max_tries=flags.max_tries,
        timeout=flags.timeout,
    )


def _answers(flags: argparse.Namespace, options: JobOptions) -> Path:
    """The file of the answer store. The store itself checks what is in it."""
    path: Path = flags.answers or options.meta_path.with_name(f"{stem_of(options.meta_path)}_answers.sqlite")
    fix = "give --answers another file"
    if not os.path.isdir(path.parent):
        raise UsageError(f"folder of --answers, {path.parent}, does not exist; create it, or {fix}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"--answers {path} is not a file; {fix}")
    output = options.output
    others = (failures_path, report_path, outcomes_path, gallery_path, backup_of)
    taken = {
        os.path.realpath(options.meta_path): "is the meta table",
        os.path.realpath(output): "is the output of the run",
        **{os.path.realpath(other(output)): "is a file that belongs to the output of the run" for other in others},
    }
    problem = taken.get(os.path.realpath(path))
    if problem:
        raise UsageError(f"--answers {path} {problem}; {fix}")
    return path
