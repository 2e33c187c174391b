"""What belongs to the operating system in a device process: its connection and its working folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline.serving.device import __main__ as program


def test_children_do_not_inherit_the_connection() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.set_inheritable(True)
        with program._connection(theirs.detach()) as connection:
            assert not os.get_inheritable(connection.fileno())


@pytest.mark.parametrize(("device", "moves"), [("ascend", True), ("npu", True), ("cuda", False), (None, False)])
def test_what_the_libraries_of_an_npu_write_goes_into_a_temporary_folder(device: str | None, moves: bool) -> None:
    before = Path.cwd()
    with program._working_folder(device):
        folder = Path.cwd()
        assert (folder != before) == moves
        if moves:
            (folder / "kernel_meta").mkdir()
    assert Path.cwd() == before and folder.exists() != moves
