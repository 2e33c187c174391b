"""`scripts.benchmark_serving` with a stand-in for the server: lost requests and captions that differ are reported."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts import benchmark_serving, scaling, serving_runs
from scripts.serving_runs import Answers


class FakeServer:
    url = "http://server"

    def metrics(self) -> dict[str, float]:
        return {"captioning_slots": 1.0}


def _measured(sent: Sequence[Answers], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `devices` with one run of each number of devices. sent: answers of the two runs."""
    answers = iter(sent)

    async def send(*_: object, **__: object) -> Answers:
        return next(answers)

    @contextlib.contextmanager
    def running_server(*_: object, **__: object) -> Iterator[FakeServer]:
        yield FakeServer()

    monkeypatch.setattr(serving_runs, "send", send)
    monkeypatch.setattr(serving_runs, "running_server", running_server)
    monkeypatch.setattr(scaling, "write_checkpoint", lambda _: None)
    monkeypatch.setattr(benchmark_serving, "_bodies", lambda *_: [])
    monkeypatch.setattr(benchmark_serving, "write_clips", lambda *_: None)
    flags = ["devices", "--repeats", "1", "--json", str(folder / "figures.json")]
    code = benchmark_serving.main(flags)
    return code, json.loads((folder / "figures.json").read_text())


def _answers(*captions: str) -> Answers:
    """An answer each second."""
    found = {number: [caption] for number, caption in enumerate(captions)}
    return Answers(found, [0.5] * len(captions), [float(second) for second in range(len(captions))])


def test_captions_of_one_and_two_devices_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = _answers("a", "b", "c")
    code, figures = _measured([same, _answers("a", "b", "c")], tmp_path, monkeypatch)
    assert code == 0 and figures["two_devices_times_one"] == 1.0
    code, figures = _measured([same, _answers("a", "x", "c")], tmp_path, monkeypatch)
    assert code == 1 and [run["other_captions"] for (run,) in figures["runs"].values()] == [0, 1]
    assert "clips with captions that differ: 1" in capsys.readouterr().err


def test_lost_requests_are_reported_even_if_all_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Answers(problems=["503: full", "503: full"])
    code, figures = _measured([_answers("a", "b", "c"), lost], tmp_path, monkeypatch)
    assert code == 1 and figures["runs"]["cpu,cpu"][0]["problems"] == lost.problems
    assert figures["two_devices_times_one"] is None
    assert "requests that were lost: 2; the first one: 503: full" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="too short"):
        _measured([_answers("a")], tmp_path, monkeypatch)
