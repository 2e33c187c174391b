"""Many warnings about rows do not fill the log."""

from __future__ import annotations

import logging

import pytest

from pipeline.captioning.process.limited_log import MAX_WARNINGS, LimitedLog

logger = logging.getLogger(__name__)


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_twenty_warnings_a_minute_then_the_number_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    log = LimitedLog(logger, "out_failures.csv", clock)
    for row in range(153):
        clock.now += 0.1
        log.warning("row %d: %s", row, "no such file")
    assert _lines(caplog) == [f"row {row}: no such file" for row in range(MAX_WARNINGS)]
    clock.now += 60
    log.warning("row %d: %s", 153, "no such file")
    rest = "… and 133 more within 60 s; all are in out_failures.csv"
    assert _lines(caplog) == [rest, "row 153: no such file"]
    log.close()
    assert _lines(caplog) == []


def test_close_logs_the_number_of_the_last_hidden_warnings_once(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, "the journal", _Clock())
    for row in range(MAX_WARNINGS + 5):
        log.warning("row %d", row)
    log.close()
    log.close()
    assert _lines(caplog)[MAX_WARNINGS:] == ["… and 5 more within 60 s; all are in the journal"]


def test_few_warnings_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    log = LimitedLog(logger, "the journal", clock)
    for row in range(100):
        clock.now += 4
        log.warning("row %d", row)
    log.close()
    assert _lines(caplog) == [f"row {row}" for row in range(100)]
