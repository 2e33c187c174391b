"""A device process of the server, which starts it:

python -m pipeline.serving.device --fd N
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection

from ...captioning.process.arguments import whole_number
from ...captioning.process.errors import EXIT_FAILED
from ...captioning.process.supervisor import die_with_parent
from ..devices.places import VISIBLE
from ..messages import DeviceSettings
from .device_process import run_device

_WRITING_DEVICES = ("ascend", "npu")
"""Devices whose libraries write files, for example `kernel_meta`, into the working folder."""


def main() -> int:
    parser = argparse.ArgumentParser(description="A device process of the captioning server, which starts it.")
    parser.add_argument(
        "--fd", type=whole_number(0), required=True, help="file descriptor of the connection to the HTTP process"
    )
    connection = _connection(parser.parse_args().fd)
    die_with_parent(os.getppid())
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach all processes; the HTTP process decides
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    try:
        settings = connection.recv()
    except EOFError:
        return EXIT_FAILED
    assert isinstance(settings, DeviceSettings), "the first message is the settings"
    _set_up_logging(settings)
    with _working_folder(settings.device):
        return run_device(connection, settings)


@contextlib.contextmanager
def _working_folder(device: str | None) -> Iterator[None]:
    """Work in a temporary folder of this process if libraries write there. The paths in the settings are absolute."""
    if device not in _WRITING_DEVICES:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="captioning-device-", ignore_cleanup_errors=True) as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _connection(descriptor: int) -> Connection:
    os.set_inheritable(descriptor, False)  # else a child, for example a compiler, would keep the connection open
    return Connection(descriptor)


def _set_up_logging(settings: DeviceSettings) -> None:
    name = settings.device or "device"
    number = os.environ.get(VISIBLE.get(name, ""), "")
    logging.basicConfig(
        level=logging.WARNING,
        format=f"%(asctime)s {name}{number and ' '}{number} (process {os.getpid()}) %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    logging.getLogger("pipeline").setLevel(logging.INFO)


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    os._exit(exit_code)  # nothing is left to write, and the libraries of a framework take seconds to end
