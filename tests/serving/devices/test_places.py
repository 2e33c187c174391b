"""Each process sees the device that --devices names, and devices that do not exist are usage errors."""

from __future__ import annotations

import pytest

from pipeline.captioning.backends import Choice
from pipeline.captioning.process.errors import UsageError
from pipeline.serving.devices import places
from pipeline.serving.devices.places import device_names, make_places


def _choice(device: str) -> Choice:
    return Choice("mindspore" if device == "ascend" else "torch", device, 0, "")


@pytest.mark.parametrize(
    ("device", "variable"),
    [("cuda", "CUDA_VISIBLE_DEVICES"), ("ascend", "ASCEND_RT_VISIBLE_DEVICES"), ("npu", "ASCEND_RT_VISIBLE_DEVICES")],
)
def test_numbers_count_the_visible_devices(device: str, variable: str) -> None:
    found = make_places(("0", "2"), _choice(device), {variable: "4, 5,7", "OTHER": "x"})
    assert [place.name for place in found] == [f"{device}:0", f"{device}:2"]
    assert [place.environment for place in found] == [{variable: "4", "OTHER": "x"}, {variable: "7", "OTHER": "x"}]
    (only,) = make_places((), _choice(device), {variable: "4,5"})
    assert only.environment[variable] == "4"
    with pytest.raises(UsageError, match=rf"there is no {device} device 2: {variable}=4,5 has 2"):
        make_places(("2",), _choice(device), {variable: "4,5"})


def test_devices_are_counted_by_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.glob, "glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"])
    assert make_places(("1",), _choice("cuda"), {})[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(UsageError, match="this host has 2"):
        make_places(("2",), _choice("cuda"), {})
    monkeypatch.setattr(places.glob, "glob", lambda pattern: [])  # as under WSL
    assert make_places(("3",), _choice("cuda"), {})[0].environment == {"CUDA_VISIBLE_DEVICES": "3"}


def test_processes_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.os, "sched_getaffinity", lambda process: set(range(7)))
    found = make_places(("cpu", "cpu"), _choice("cpu"), {})
    assert [place.name for place in found] == ["cpu:0", "cpu:1"]
    assert [place.environment for place in found] == [{"OMP_NUM_THREADS": "3"}] * 2
    assert (
        make_places(("cpu", "cpu"), _choice("cpu"), {"OMP_NUM_THREADS": "1"})[0].environment["OMP_NUM_THREADS"] == "1"
    )
    assert [place.environment for place in make_places((), _choice("cpu"), {})] == [{}]


def test_numbers_need_an_accelerator() -> None:
    with pytest.raises(UsageError, match="no accelerator for torch; give --devices cpu"):
        make_places(("0",), _choice("cpu"), {})


def test_device_names() -> None:
    assert device_names("0, 3,007") == ("0", "3", "7")
    assert device_names("cpu,cpu") == ("cpu", "cpu")
    for text in ("", "0,", "-1", "cuda", "0,cpu", "1,01"):
        with pytest.raises(UsageError, match="--devices"):
            device_names(text)


@pytest.mark.parametrize("device", ["cpu", "ascend"])
def test_variables_of_launchers_are_left_out(device: str) -> None:
    launcher = {"DEVICE_ID": "3", "RANK_ID": "3", "RANK_SIZE": "8", "MS_ROLE": "MS_WORKER", "WORLD_SIZE": "8"}
    (place,) = make_places((), _choice(device), {**launcher, "OTHER": "x"})
    assert place.environment["OTHER"] == "x" and not launcher.keys() & place.environment.keys()
