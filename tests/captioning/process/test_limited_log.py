"""A log with many bad rows stays readable."""

from __future__ import annotations

import logging

import pytest

from pipeline.captioning.process.limited_log import MOST_WARNINGS, LimitedLog

logger = logging.getLogger(__name__)


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_at_most_twenty_a_minute_and_then_their_number(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    log = LimitedLog(logger, "out_failures.csv", clock)
    for row in range(153):
        clock.now += 0.1
        log.warning("row %d: %s", row, "no such file")
    assert _lines(caplog) == [f"row {row}: no such file" for row in range(MOST_WARNINGS)]
    clock.now += 60
    log.warning("row %d: %s", 153, "no such file")
    rest = "… and 133 more within 60 s; all are in out_failures.csv"
    assert _lines(caplog) == [rest, "row 153: no such file"]
    log.close()
    assert _lines(caplog) == []


def test_the_last_ones_are_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(logger, "the journal", _Clock())
    for row in range(MOST_WARNINGS + 5):
        log.warning("row %d", row)
    log.close()
    log.close()
    assert _lines(caplog)[MOST_WARNINGS:] == ["… and 5 more within 60 s; all are in the journal"]


def test_few_warnings_are_all_told(caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    log = LimitedLog(logger, "the journal", clock)
    for row in range(100):
        clock.now += 4
        log.warning("row %d", row)
    log.close()
    assert _lines(caplog) == [f"row {row}" for row in range(100)]
