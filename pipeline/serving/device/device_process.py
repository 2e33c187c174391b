"""Load the model of a device process, and answer the questions that come through its connection.

Knows nothing about how the process was started; `__main__` has what belongs to that.
"""

from __future__ import annotations

import argparse
import functools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ...captioning import backends
from ...captioning.backends import Backend
from ...captioning.captioners.base import Captioner, CaptionerSource
from ...captioning.process.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR, UsageError
from ...captioning.run.family_source import make_source
from ...captioning.run.loaded_model import LoadedModel
from ..messages import Ask, Cancel, DeviceSettings, LoadFailed, Ready, Stop
from .engine_loop import EngineLoop, Received
from .media_loader import MediaLoader
from .warm_up import warm_up

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Model:
    """A loaded model, and the number of its slots."""

    source: CaptionerSource
    backend: Backend
    captioner: Captioner
    slots: int

    @property
    def description(self) -> str:
        """Framework, device and computing type."""
        return f"{self.backend.framework} on {self.backend.device} in {self.backend.dtype_name}"


def run_device(
    connection: Connection,
    settings: DeviceSettings,
    source_of: Callable[[argparse.Namespace], CaptionerSource] = make_source,
) -> int:
    """Load the model, and answer questions until `Stop` comes or the connection ends. Returns the exit code.

    source_of: makes the source from the flags.
    """
    try:
        model = _loaded(settings, source_of)
    except UsageError as error:
        connection.send(LoadFailed(str(error), is_usage_error=True))
        return EXIT_USAGE_ERROR
    except Exception as error:
        logger.exception("the model can't be loaded")
        connection.send(LoadFailed(f"{type(error).__name__}: {error}", is_usage_error=False))
        return EXIT_FAILED
    inbox: queue.SimpleQueue[Received] = queue.SimpleQueue()
    loader = MediaLoader(
        model.source.preparation,
        model.source.images_are_frames,
        settings.decoder_limits,
        settings.decode_workers,
        ahead=2 * model.slots,
        on_end=inbox.put,
    )
    loop = EngineLoop(
        model.captioner,
        model.backend,
        model.slots,
        loader,
        inbox,
        connection.send,
        functools.partial(warm_up, model.captioner, model.source),
        settings.flags.system or "",
    )
    try:
        connection.send(Ready(model.slots, model.description))
        threading.Thread(target=_receive, args=(connection, loop), name="receive", daemon=True).start()
        loop.run()
    except (BrokenPipeError, ConnectionResetError):  # the HTTP process has gone
        return EXIT_FAILED
    except Exception:
        logger.exception("this device process ends; its questions are asked elsewhere")
        return EXIT_FAILED
    finally:
        loader.close()
    return EXIT_DONE


def _loaded(settings: DeviceSettings, source_of: Callable[[argparse.Namespace], CaptionerSource]) -> _Model:
    """
    Raises:
        UsageError: a flag or a file is not usable. Exception: any other reason why there is no model.
    """
    source = source_of(settings.flags)
    choice = backends.choose(settings.framework, settings.device, "plain", 0, settings.processes)
    model = LoadedModel(source, functools.partial(choice.activate, settings.dtype))
    model.check()
    captioner = model.captioner
    slots = settings.batch_size or captioner.max_slots()
    warm_up(captioner, source)
    return _Model(source, model.backend, captioner, slots)


def _receive(connection: Connection, loop: EngineLoop) -> None:
    """Pass on the messages of the HTTP process until the connection ends."""
    try:
        while True:
            message = connection.recv()
            assert isinstance(message, Ask | Cancel | Stop), f"{type(message).__name__} is no message to a device"
            loop.receive(message)
    except (EOFError, OSError):
        loop.receive(Stop())
