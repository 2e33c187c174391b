"""Checks the environment of a run with several ranks before the run starts."""

from __future__ import annotations

from collections.abc import Mapping

from ..process.errors import UsageError
from .launch import Launch

CONNECT_TIMEOUT = "HCCL_CONNECT_TIMEOUT"
EXEC_TIMEOUT = "HCCL_EXEC_TIMEOUT"
CONNECT_BOUNDS = (120, 7200)
MANY_RANKS = 16


def warnings(launch: Launch, device: str, environment: Mapping[str, str]) -> list[str]:
    """Messages about settings that are valid but risky for a run of this size.

    Raises:
        UsageError: HCCL_CONNECT_TIMEOUT or HCCL_EXEC_TIMEOUT is not a number that HCCL accepts.
    """
    connect = _seconds(environment, CONNECT_TIMEOUT)
    if connect is not None and not CONNECT_BOUNDS[0] <= connect <= CONNECT_BOUNDS[1]:
        raise UsageError(
            f"{CONNECT_TIMEOUT}={connect} is out of bounds: must be from {CONNECT_BOUNDS[0]} to {CONNECT_BOUNDS[1]} s"
        )
    execute = _seconds(environment, EXEC_TIMEOUT)
    if device not in ("ascend", "npu") or launch.world_size < MANY_RANKS:
        return []
    messages = []
    if connect is None:
        messages.append(
            f"{launch.world_size} ranks, and {CONNECT_TIMEOUT} has its default of {CONNECT_BOUNDS[0]} s: the ranks of "
            f"a large run may start further apart; export {CONNECT_TIMEOUT}={CONNECT_BOUNDS[1]}"
        )
    if execute is None:
        messages.append(f"{launch.world_size} ranks, and {EXEC_TIMEOUT} has its default; export {EXEC_TIMEOUT}=7200")
    return messages


def _seconds(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.strip().isdigit():
        raise UsageError(f"{name}={text} is not a whole number of seconds")
    return int(text)
