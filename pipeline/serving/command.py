"""The command of the server: checks the flags, and starts the HTTP side and the devices. Imports no framework."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..captioning import backends
from ..captioning.captioners.base import CaptionerSource
from ..captioning.captioners.families import family_of
from ..captioning.clips.downloads.limits import DownloadLimits
from ..captioning.clips.killable import DecoderLimits
from ..captioning.clips.loader import default_decode_workers
from ..captioning.process.errors import EXIT_FAILED, UsageError, exit_code_of
from ..captioning.run.family_source import make_source
from ..captioning.run.options import AUTO
from .devices.devices import DEVICE_COMMAND, Devices, DevicesSettings
from .devices.places import device_names, make_places
from .flags import PROG, make_parser
from .listening import listen, read_key
from .messages import DeviceSettings
from .questions import Answering
from .running import Running
from .settings import HttpSettings, MediaAccess, RequestLimits, ServedModel

MakeApp = Callable[[HttpSettings, Answering], Any]
"""Makes the ASGI application."""
_OPEN_FILES = 65536


def main(
    arguments: Sequence[str] | None = None,
    make_app: MakeApp | None = None,
    device_command: Sequence[str] = DEVICE_COMMAND,
) -> int:
    """Run the server until it is ended by a signal, and return its exit code.

    arguments: the command line; None for that of this process.
    make_app: None for that of `http.app`. device_command: see DevicesSettings.
    """
    _set_up_logging()
    try:
        return exit_code_of(PROG, functools.partial(_run, arguments, make_app, device_command))
    except KeyboardInterrupt:  # before the server listened
        return EXIT_FAILED


def _run(arguments: Sequence[str] | None, make_app: MakeApp | None, device_command: Sequence[str]) -> None:
    flags = make_parser().parse_args(arguments)
    key = read_key(flags.api_key_env)
    names = device_names(flags.devices) if flags.devices is not None else ()
    access = _media_access(flags)
    with contextlib.closing(listen(flags.host, flags.port, bool(key))) as listener:
        source = _source(flags)
        devices = Devices(_devices_settings(flags, names, device_command))
        settings = HttpSettings(_served_model(flags, source), _request_limits(flags), access, key)
        _allow_open_files()
        app = (make_app or _http_app)(settings, devices)
        running = Running(app, devices, settings.limits.connections, flags.drain_timeout)
        running.serve(listener)


def _http_app(settings: HttpSettings, answering: Answering) -> Any:
    from .http.app import make_app  # after the usage errors, which it would delay

    return make_app(settings, answering)


def _source(flags: argparse.Namespace) -> CaptionerSource:
    """Check the checkpoint and the flags of the model."""
    if flags.question is not None and flags.question.columns:
        raise UsageError(
            f"--question contains {{{flags.question.columns[0]}}}, the name of a column, but a server has no table; "
            "write {{ and }} for braces"
        )
    return make_source(flags)


def _devices_settings(
    flags: argparse.Namespace, names: Sequence[str], device_command: Sequence[str]
) -> DevicesSettings:
    device = flags.device
    if "cpu" in names:
        if device not in (None, "cpu"):
            raise UsageError(f"--device {device} and --devices {flags.devices} contradict each other; give one of them")
        device = "cpu"
    choice = backends.choose(flags.framework, device, "plain")
    # The key is for this process only; the others decode files of clients.
    environment = {name: value for name, value in os.environ.items() if name != flags.api_key_env}
    places = make_places(names, choice, environment)
    download = DownloadLimits(flags.max_download, flags.download_timeout, same_host=True)
    return DevicesSettings(
        places=places,
        device=DeviceSettings(
            flags=_with_absolute_paths(flags),
            framework=flags.framework,
            device=choice.device,
            dtype=flags.dtype,
            batch_size=None if flags.bs == AUTO else flags.bs,
            processes=len(places),
            decoder_limits=DecoderLimits(flags.decode_timeout, download=download),
            decode_workers=flags.decode_workers or default_decode_workers(len(places)),
        ),
        max_waiting=flags.max_waiting,
        stall_seconds=flags.stall_timeout,
        command=device_command,
    )


def _with_absolute_paths(flags: argparse.Namespace) -> argparse.Namespace:
    """The flags for device processes, some of which work in another folder."""
    paths = {name: value.absolute() for name, value in vars(flags).items() if isinstance(value, Path)}
    return argparse.Namespace(**{**vars(flags), **paths})


def _served_model(flags: argparse.Namespace, source: CaptionerSource) -> ServedModel:
    name = flags.served_model_name or flags.pretrained_model_name_or_path.resolve().name
    family, _ = family_of(flags.pretrained_model_name_or_path, flags.family)
    return ServedModel(
        name=name,
        question=source.asks.asks[0].question.render({}),
        options=source.generation,
        sampling=source.sampling,
        rate_sampling=family.rate_sampling,
        images_are_frames=source.images_are_frames,
        created=int(time.time()),
    )


def _request_limits(flags: argparse.Namespace) -> RequestLimits:
    defaults = RequestLimits()
    return RequestLimits(
        body_bytes=flags.max_body,
        all_body_bytes=max(defaults.all_body_bytes, 4 * flags.max_body),
        body_seconds=flags.body_timeout,
        request_seconds=flags.request_timeout,
        images=flags.max_images,
        new_tokens=max(defaults.new_tokens, flags.max_new_tokens),
    )


def _media_access(flags: argparse.Namespace) -> MediaAccess:
    """What the server may read.

    Raises:
        UsageError: a host that is none, or a folder that does not exist.
    """
    return MediaAccess(
        frozenset(_domain(text) for text in flags.allow_media_domain),
        tuple(_folder(path) for path in flags.allow_media_path),
    )


def _domain(text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        is_host = parts.netloc == text and bool(parts.hostname) and "@" not in text and text.isascii()
        is_host = is_host and (parts.port is None or parts.port > 0) and not text.endswith(":")
    except ValueError:
        is_host = False
    if not is_host or any(character.isspace() or character in "*/" for character in text):
        raise UsageError(
            f"--allow_media_domain {text} is not a host; write for example media.example.com or 10.0.0.5:9000, without "
            "scheme, path and wildcards"
        )
    return text.lower()


def _folder(path: Path) -> Path:
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise UsageError(f"--allow_media_path {path} {state}; give the folder of the files that clients may name")
    return path.resolve()


def _allow_open_files() -> None:
    """Let this process and the devices open as many files as the system allows: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_up_logging() -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    logging.getLogger("pipeline").setLevel(logging.INFO)
