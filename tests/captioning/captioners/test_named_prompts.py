"""The named prompts: their names say what their texts contain."""

from __future__ import annotations

import re

import pytest

from pipeline.captioning.captioners.named_prompts import NAMED_PROMPTS, frame_warnings, listing
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.meta.asks import Ask, Asks, Question

NAMES = [
    "image-text",
    "image-3ex",
    "video",
    "video-template",
    "video-text",
    "video-f1-detail-3ex",
    "video-f1-detail-2ex-text",
    "video-f3-detail-3ex",
    "video-f3-detail-2ex-text",
]


def _texts() -> dict[str, str]:
    """The prompts as a model gets them, about a row with the text `A {red} ball`."""
    return {name: Question(prompt.text).render({"text": "A {red} ball"}) for name, prompt in NAMED_PROMPTS.items()}


def test_the_prompts_have_the_names_that_users_know() -> None:
    assert list(NAMED_PROMPTS) == NAMES
    assert len(set(_texts().values())) == len(NAMES)
    listed = listing()
    assert [line.split()[0] for line in listed.splitlines() if line and not line.startswith(" ")] == NAMES
    assert "video-f3-detail-3ex (for 3 frames of a video)" in listed and "image-3ex (for images)" in listed


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_contains_what_its_name_says(name: str) -> None:
    prompt, text = NAMED_PROMPTS[name], _texts()[name]
    assert name.startswith(prompt.medium)
    assert ("image" in text, "video" in text) == (prompt.medium == "image", prompt.medium == "video")
    assert ("A {red} ball" in text) == name.endswith("text")
    assert Question(prompt.text).columns == (("text",) if name.endswith("text") else ())
    examples = re.search(r"(\d)ex", name)
    numbers = re.findall(r"(?m)^(\d)\. ", text)
    assert numbers == [str(number + 1) for number in range(int(examples[1]) if examples else 0)]
    frames = re.search(r"-f(\d)-", name)
    assert prompt.frames == (int(frames[1]) if frames else 0)
    assert ("one frame" in text, "three frames" in text) == (prompt.frames == 1, prompt.frames == 3)


def test_only_the_template_prescribes_a_form() -> None:
    headings = {name: re.findall(r"(?m)^([A-Z][a-z]+): \[", text) for name, text in _texts().items()}
    form = ["Subject", "Action", "Setting", "Camera", "Light", "Style"]
    assert headings == {name: form if name == "video-template" else [] for name in NAMES}


def test_the_cell_comes_after_everything_that_is_the_same_for_all_rows() -> None:
    """So that its beginning is computed once for all rows."""
    for name in NAMES:
        if name.endswith("text"):
            assert NAMED_PROMPTS[name].text.endswith('"{text}"')


def _asks(*names: str) -> Asks:
    return Asks(tuple(Ask(f"text_{number}", Question("x"), prompt=name) for number, name in enumerate(names)))


@pytest.mark.parametrize(
    ("names", "sampling", "warnings"),
    [
        (["video-f1-detail-3ex"], FrameSampling("points", 1), []),
        (["video-f3-detail-2ex-text"], FrameSampling("uniform", 3, multiple=2), []),
        (["video", "image-3ex", ""], FrameSampling("segments", 4), []),
        (["video-f1-detail-3ex"], FrameSampling("segments", 4), ["samples 4 frames of each; --num_frames 1 samples"]),
        (
            ["video-f3-detail-3ex"],
            FrameSampling("points", 1),
            ["is for 3 frames of a video, but this run samples 1 frame"],
        ),
        (["video-f3-detail-3ex"], FrameSampling("rate", 0, 2.0), ["samples frames at a rate 2.0 fps of each"]),
        (
            ["video-f1-detail-3ex", "video", "video-f3-detail-3ex", "video-f1-detail-3ex"],
            FrameSampling("segments", 4),
            ["video-f1-detail-3ex", "video-f3-detail-3ex"],
        ),
    ],
)
def test_a_prompt_for_another_number_of_frames_is_named(
    names: list[str], sampling: FrameSampling, warnings: list[str]
) -> None:
    found = frame_warnings(_asks(*names), sampling)
    assert len(found) == len(warnings)
    assert all(part in warning for part, warning in zip(warnings, found, strict=True)), found
