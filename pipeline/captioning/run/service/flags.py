"""The flags of a service: protocol, answers, what is sent of a clip, money, the Batch API; checked, then frozen.

The types of the values are in `values`, the flags that all commands have in `flag_groups`, the key and the list of
models in `access`. Imports no library of a service, except to ask the service for its models if `--model` is missing.
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
from ...process.arguments import number, positive_int
from ...process.errors import UsageError
from ...workers.launch import Launch
from ..frame_flags import frame_sampling
from ..options import JobOptions
from . import values
from .access import api_key_of, only_model
from .flag_groups import add_flags_of_answers, add_flags_of_money, add_flags_of_the_service

DEFAULT_SAMPLING = FrameSampling("segments", 4)
"""Which frames are sampled unless flags say otherwise: those of PLLaVA."""
_POLL_SECONDS = 60.0


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `service_options` reads. Flags that do not suit every mode are None if they are not given."""
    add_flags_of_the_service(parser)
    answers = add_flags_of_answers(parser)
    answers.add_argument(
        "--max_new_tokens",
        type=values.answer_tokens,
        default=Generation("").max_new_tokens,
        help="maximum length of an answer, in tokens; longer answers are cut off",
    )
    answers.add_argument(
        "--json_schema",
        type=values.json_schema,
        metavar="FILE",
        help="file with a JSON schema that every answer must fit; the captions are then JSON",
    )
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
    add_flags_of_money(parser)
    batch = parser.add_argument_group("Batch API")
    batch.add_argument(
        "--batch", action="store_true", help="send the requests through the Batch API, which answers within 24 hours"
    )
    batch.add_argument(
        "--poll_seconds",
        type=number(minimum=0, above=True),
        help="seconds between two questions about the state of the batches; if not given, 60",
    )


def add_text_service_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `service_options` reads if nothing is sent but text, and set the others to no value.

    The command sets `flags.max_new_tokens`.
    """
    add_flags_of_the_service(parser)
    add_flags_of_answers(parser)
    add_flags_of_money(parser)
    not_read = ("max_side", "jpeg_quality", "detail", "sampling", "num_frames", "fps", "max_frames", "short_side")
    parser.set_defaults(send=IMAGES, json_schema=None, batch=False, poll_seconds=None, **dict.fromkeys(not_read))


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
