"""Where the device processes run: which accelerators, or the CPU, and the environment of each process.

Imports no framework: what only a framework knows, the device process checks.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence

from ...captioning.backends import Choice
from ...captioning.process.errors import UsageError
from .device import DevicePlace

CPU = "cpu"
VISIBLE = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "ascend": "ASCEND_RT_VISIBLE_DEVICES",
    "npu": "ASCEND_RT_VISIBLE_DEVICES",
}
"""The environment variable that says which devices a process sees, for each kind of device."""
_FILES = {"cuda": "/dev/nvidia[0-9]*", "ascend": "/dev/davinci[0-9]*", "npu": "/dev/davinci[0-9]*"}
_THREADS = "OMP_NUM_THREADS"
_OF_LAUNCHERS = {
    *("ASCEND_DEVICE_ID", "DEVICE_ID", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE"),
    *("MS_NODE_ID", "MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_WORKER_NUM"),
    *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
}
"""Variables of msrun, torchrun and Ascend's launchers: with them a framework would use another device, or wait for
other processes."""


def device_names(text: str) -> tuple[str, ...]:
    """The parts of --devices: numbers of accelerators, or `cpu` once for each process.

    Raises:
        UsageError: something else, both kinds, or a number twice.
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name != CPU and not re.fullmatch(r"[0-9]{1,4}", name):
            raise UsageError(
                f"--devices {text}: {name!r} is not the number of a device; write for example 0,1, or {CPU},{CPU} for "
                "two processes on the CPU"
            )
    if len({name == CPU for name in names}) > 1:
        raise UsageError(
            f"--devices {text} mixes the CPU and accelerators, whose captions may differ; start one server for each"
        )
    numbers = [int(name) for name in names if name != CPU]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--devices {text} names a device twice; name each one once, it has one process")
    return tuple(str(int(name)) if name != CPU else CPU for name in names)


def make_places(
    names: Sequence[str], choice: Choice, environment: Mapping[str, str] = os.environ
) -> tuple[DevicePlace, ...]:
    """The place of each device process.

    names: see `device_names`; empty for one process.
    choice: of framework and device; the device is the CPU exactly if the names are `cpu`.
    environment: of this process. Variables of launchers are left out.

    Raises:
        UsageError: numbers, but there is no accelerator; or fewer devices are visible.
    """
    environment = {name: value for name, value in environment.items() if name not in _OF_LAUNCHERS}
    if choice.device == CPU:
        if any(name != CPU for name in names):
            raise UsageError(
                f"--devices {','.join(names)}: there is no accelerator for {choice.framework}; give --devices {CPU}, "
                "or another --framework"
            )
        return _cpu_places(max(1, len(names)), environment)
    variable = VISIBLE[choice.device]
    visible = _visible(choice.device, environment)
    places = []
    for name in names or ("0",):
        if visible is not None and int(name) >= len(visible):
            cause = f"{variable}={environment[variable]}" if variable in environment else "this host"
            raise UsageError(
                f"--devices {','.join(names)}: there is no {choice.device} device {name}: {cause} has {len(visible)}, "
                "and the first one is 0"
            )
        value = name if visible is None else visible[int(name)]
        places.append(DevicePlace(f"{choice.device}:{name}", {**environment, variable: value}))
    return tuple(places)


def _cpu_places(count: int, environment: Mapping[str, str]) -> tuple[DevicePlace, ...]:
    environment = dict(environment)
    if count > 1 and _THREADS not in environment:
        environment[_THREADS] = str(max(1, len(os.sched_getaffinity(0)) // count))
    names = [CPU] if count == 1 else [f"{CPU}:{number}" for number in range(count)]
    return tuple(DevicePlace(name, environment) for name in names)


def _visible(device: str, environment: Mapping[str, str]) -> list[str] | None:
    """What the variable of visible devices must contain for each visible device; None if that is not known."""
    if environment.get(VISIBLE[device]):
        return [part.strip() for part in environment[VISIBLE[device]].split(",")]
    files = glob.glob(_FILES[device])
    return [str(number) for number in range(len(files))] or None
