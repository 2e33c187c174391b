"""Which questions about a clip share the beginning of their prompts."""

from __future__ import annotations

import numpy as np

from pipeline.captioning.captioners.question_groups import QuestionPrompt, grouped, shared_text


def _prompts(*pieces: list[list[int]]) -> list[QuestionPrompt]:
    return [QuestionPrompt(number, own, np.arange(9), 9) for number, own in enumerate(pieces)]


def _numbers(prompts: list[QuestionPrompt]) -> list[list[int]]:
    return [[prompt.number for prompt in group] for group in grouped(prompts)]


def test_questions_after_the_last_block_are_one_group() -> None:
    prompts = _prompts([[1, 2], [3], [4, 5]], [[1, 2], [3], [4, 6, 7]], [[1, 2], [3], [8]])
    assert _numbers(prompts) == [[0, 1, 2]]


def test_questions_before_a_block_are_asked_alone_except_equal_ones() -> None:
    prompts = _prompts([[1, 2], [9]], [[1, 3], [9]], [[1, 2], [9]])
    assert _numbers(prompts) == [[0, 2], [1]]
    between = _prompts([[1], [2], [9]], [[1], [3], [9]])
    assert _numbers(between) == [[0], [1]]


def test_a_prompt_that_ends_with_a_block_is_alone() -> None:
    assert _numbers(_prompts([[1, 2], []], [[1, 2], []], [[1, 2], [3]])) == [[0], [1], [2]]


def test_every_question_keeps_a_token_of_its_own() -> None:
    def shared(*last: list[int]) -> int:
        return shared_text(_prompts(*([[1], own] for own in last)))

    assert shared([4, 5, 6], [4, 5, 7], [4, 5]) == 1
    assert shared([4, 5, 6], [4, 5, 6]) == 2
    assert shared([4], [4]) == shared([4], [5]) == 0
