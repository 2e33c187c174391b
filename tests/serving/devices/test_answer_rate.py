"""A refused client is told to wait about as long as half of the queue takes, within bounds."""

from __future__ import annotations

from pipeline.serving.devices.answer_rate import LONGEST_PAUSE, SHORTEST_PAUSE, AnswerRate


def test_the_pause_is_the_time_of_the_answers_in_between() -> None:
    rate = AnswerRate()
    assert SHORTEST_PAUSE <= rate.seconds_for(100, 0.0) <= LONGEST_PAUSE
    for number in range(1000):
        rate.count(number / 8)
    assert rate.seconds_for(80, 125.0) == 10
    assert rate.seconds_for(1, 125.0) == SHORTEST_PAUSE
    assert rate.seconds_for(10_000, 125.0) == LONGEST_PAUSE
    assert rate.seconds_for(100, 1000.0) == LONGEST_PAUSE  # nothing has ended for a long time
