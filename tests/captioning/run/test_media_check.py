"""A prompt for images is not asked about videos, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.captioning.clips.media import medium_of
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.run.media_check import media_problem
from pipeline.captioning.workers.leases import RowTask

IMAGE = Ask("text_i", Question("x"), "--ask i", "image-3ex", "image")
VIDEO = Ask("text_v", Question("x {kind}"), "--ask v", "video", "video")
ANY = Ask("text_a", Question("x"), "--ask a")


def _tasks(*paths: str) -> list[RowTask]:
    return [RowTask(row, path, ("",)) for row, path in enumerate(paths)]


@pytest.mark.parametrize(
    ("path", "medium"),
    [
        ("a.jpg", "image"),
        ("A.JPEG", "image"),
        ("folder.mp4/b.webp", "image"),
        ("a.mp4", "video"),
        ("a.gif", "video"),
        ("a.jpg.mp4", "video"),
        ("no_suffix", "video"),
        ("", "video"),
        ("a.jpg?x", "video"),
        ("https://host/a.PNG?size=2#x", "image"),
        ("HTTP://host/a.tiff#page", "image"),
        ("s3://bucket/a.bmp?versionId=a.mp4", "image"),
        ("https://host/a.mp4?thumbnail=a.jpg", "video"),
        ("https://host[/a.jpg", "video"),
    ],
)
def test_the_suffix_says_what_a_path_is(path: str, medium: str) -> None:
    assert medium_of(path) == medium


def test_rows_of_the_right_medium_are_no_problem() -> None:
    assert media_problem(Asks((IMAGE,)), _tasks("a.jpg", "b.png")) is None
    assert media_problem(Asks((VIDEO, ANY)), _tasks("a.mp4", "b.gif")) is None
    assert media_problem(Asks((VIDEO, IMAGE)), []) is None


def test_the_message_names_the_flag_the_count_the_first_row_and_the_fix() -> None:
    problem = media_problem(Asks((ANY, VIDEO)), _tasks("a.mp4", "b.jpg", "c.mp4", "d.jpg"))
    assert problem is not None
    for part in ("--ask v: the prompt video is for videos", "include 2 images", "row 1 (b.jpg)", "--any_media"):
        assert part in problem
    problem = media_problem(Asks((IMAGE,)), _tasks("a.jpg", "b.mp4"))
    assert problem is not None and "is for images" in problem and "include 1 video, first row 1 (b.mp4)" in problem


def test_only_questions_that_are_asked_count() -> None:
    asks = Asks((ANY, VIDEO))
    assert media_problem(asks, [RowTask(0, "a.jpg", ("",), wanted=(0,)), RowTask(1, "b.mp4", ("",))]) is None
    assert media_problem(asks, [RowTask(0, "a.jpg", ("",), wanted=(1,))]) is not None


def test_a_row_with_its_own_question_is_not_asked_the_prompt() -> None:
    asks = Asks((VIDEO,), question_column="question")
    assert media_problem(asks, [RowTask(0, "a.jpg", ("cat", "What is in the image?"))]) is None
    assert media_problem(asks, [RowTask(0, "a.jpg", ("cat", " "))]) is not None


def test_rows_are_not_read_if_every_question_suits_both() -> None:
    def tasks() -> Iterator[RowTask]:
        raise AssertionError("read")
        yield

    assert media_problem(Asks((ANY,)), tasks()) is None
