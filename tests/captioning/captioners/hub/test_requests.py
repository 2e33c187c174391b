"""What requests of a server may have of their own: system prompts, several images, and frames without times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.asked import complete
from tests.golden import token_ids
from tests.tiny_families import Family

from . import reference_cases as cases

ON_BOTH = ("qwen2_5_vl", "llava_onevision")  # run on MindSpore too
PAIRS = [pytest.param(name, marks=[pytest.mark.model] * (name in ON_BOTH)) for name in cases.pair_cases()]
WHAT, HOW, OWN = "What moves here?", "How does it move?", "Say it in one word."
SAME_TIMES = (0, 2, 6)
"""Clips of two frames per second: their times are those that families with times assume if they are not known."""


class Models:
    """Sources and captioners of the tiny checkpoints, each made once."""

    def __init__(self, families: dict[str, Family], backend: Backend, parent: Path) -> None:
        self._families, self._backend, self._parent = families, backend, parent
        self._sources: dict[tuple[str, ...], Any] = {}
        self._captioners: dict[tuple[str, ...], Any] = {}

    def source(self, name: str, *flags: str) -> Any:
        """The source of a case, with further flags of the command."""
        key = (name, *flags)
        if key not in self._sources:
            checkpoint = self._parent / name
            if not checkpoint.exists():
                stop_ids = cases.recorded()[name]["stop ids"]
                cases.checkpoint(self._families[cases.checkpoint_of(name)].folder, name, checkpoint, stop_ids)
            self._sources[key] = cases.source(checkpoint, name, *flags)
        return self._sources[key]

    def captioner(self, name: str, *flags: str) -> Any:
        """The captioner of this source."""
        key = (name, *flags)
        if key not in self._captioners:
            self._captioners[key] = self.source(name, *flags).load(self._backend)
        return self._captioners[key]


@pytest.fixture(scope="module")
def models(families: dict[str, Family], backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(families, backend, tmp_path_factory.mktemp("requests"))


def _without_times(source: Any) -> list[Clip]:
    clips = cases.clips(source, SAME_TIMES)
    return [dataclasses.replace(clip, seconds=(), duration=0.0, rate=0.0) for clip in clips]


@pytest.mark.parametrize("name", PAIRS)
def test_two_images_in_one_prompt(models: Models, name: str) -> None:
    """Among a single image and frames without times; all answers are those of transformers' `generate`.

    Frames that a client sends as images may have no times. Nine of them do not fill the last pair.
    """
    source, expected = models.source(name), cases.recorded()[name]
    assert not source.images_are_frames
    captioner, pairs = models.captioner(name), cases.image_pair_clips(source)
    requests = [captioner.prepare_images(100 + row, pair, cases.QUESTION) for row, pair in enumerate(pairs)]
    others = captioner.prepare([*_without_times(source), cases.image_clips(source)[1]])
    ends = complete(captioner.engine(3), [requests[0], others[0], *requests[1:], *others[1:]])
    assert [ends[(100 + row, 0), 0].ids for row in range(len(pairs))] == expected["image pairs"]
    of_others = [*(expected["greedy"][row] for row in SAME_TIMES), expected["images"][1]]
    assert [ends[other.key, 0].ids for other in others] == of_others


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "qwen2_5_vl"])
def test_tokens_of_prompts(models: Models, name: str) -> None:
    """Visual tokens, and text with the shared prefix."""
    source, captioner = models.source(name), models.captioner(name)
    family = source._family
    clip, pair = cases.clips(source, (0,))[0], cases.image_pair_clips(source)[0]
    (request,) = captioner.prepare([clip])
    several = captioner.prepare_images(1, pair, WHAT)
    assert request.has_prefix and several.has_prefix
    text = sum(map(len, source.prompts.pieces(clip, WHAT)))
    assert captioner.prompt_tokens(request) == text + sum(family.block_lengths(clip))
    blocks = [length for image in pair for length in family.block_lengths(image)]
    text = sum(map(len, source.prompts.image_pieces(2, WHAT)))
    assert len(blocks) == 2 and captioner.prompt_tokens(several) == text + sum(blocks)
    alone = captioner.prepare_text((2, 0), WHAT)
    assert captioner.prompt_tokens(alone) == len(source.text_prompts().token_ids(WHAT))


def test_blip2_takes_images_as_frames_only(models: Models) -> None:
    """Each frame has a prompt; the tokens are those of all prompts."""
    source, captioner = models.source("blip2_opt"), models.captioner("blip2_opt")
    assert source.images_are_frames
    with pytest.raises(UsageError, match="cannot answer questions about several images; send one image"):
        captioner.prepare_images(0, cases.image_pair_clips(source)[0], WHAT)
    (clip,) = cases.clips(source, (0,))
    (request,) = captioner.prepare([clip])
    (text,) = filter(None, source.prompts.pieces(clip, source.asks.texts[0]))
    assert captioner.prompt_tokens(request) == 3 * (len(text) + 4)
    expected = cases.recorded()["blip2_opt"]["greedy"]
    assert token_ids(captioner, _without_times(source), slots=2) == [expected[row] for row in SAME_TIMES]


@pytest.mark.parametrize("name", [pytest.param("qwen2_5_vl", marks=pytest.mark.model), "llava_next", "internvl"])
def test_the_system_prompt_of_a_request(models: Models, name: str) -> None:
    """Requests with several system prompts that are prepared together have the tokens of runs with `--system`."""
    systems = (None, OWN, "")
    own: list[list[str]] = [["--system=Watch."], [f"--system={OWN}"], []]
    sources, captioners = ([make(name, *flags) for flags in own] for make in (models.source, models.captioner))
    source, clips = sources[0], cases.clips(sources[0], (0, 2, 3))
    image, pair = cases.image_clips(source)[0], cases.image_pair_clips(source)[0]
    for system, other in zip(systems, sources, strict=True):
        for clip in (clips[0], image):
            assert source.prompts.pieces(clip, HOW, system) == other.prompts.pieces(clip, HOW)
        assert source.prompts.image_pieces(2, HOW, system) == other.prompts.image_pieces(2, HOW)
    assert len({str(source.prompts.pieces(image, HOW, system)) for system in systems}) == 3
    requests = captioners[0].prepare(clips, [[WHAT, HOW]] * 3, systems)
    assert next(request.has_prefix for request in requests), "the prompt of the run begins with the shared prefix"
    requests.append(captioners[0].prepare_images(100, pair, HOW, OWN))
    expected: dict[Any, Any] = {}
    for clip, captioner in zip(clips, captioners, strict=True):
        expected |= complete(captioner.engine(1), captioner.prepare([clip], [[WHAT, HOW]]))
    expected |= complete(captioners[1].engine(1), [captioners[1].prepare_images(100, pair, HOW)])
    found = complete(captioners[0].engine(2), requests)
    assert {key: end.ids for key, end in found.items()} == {key: end.ids for key, end in expected.items()}


@pytest.mark.parametrize(
    ("question", "system", "message"),
    [
        (WHAT, "Be <|image_pad|> brief.", "the system prompt must not contain <|image_pad|>; the template places the"),
        (WHAT, "Be brief.<|im_end|>", "the system prompt contains <|im_end|>, a special token of the model; remove it"),
        (f"{WHAT}<|im_end|>", None, "the question contains <|im_end|>, a special token of the model; remove it"),
        ("  ", None, "the question is blank"),
    ],
)
def test_refused_requests(models: Models, question: str, system: str | None, message: str) -> None:
    """Neither flags nor cells of a table are mentioned: a client knows neither."""
    source, captioner = models.source("qwen2_5_vl"), models.captioner("qwen2_5_vl")
    clips = cases.clips(source, (0, 1))
    refused, kept = captioner.prepare(clips, [[question], [WHAT]], [system, None])
    assert isinstance(refused, Refused) and (refused.row, refused.question) == (0, 0)
    assert refused.message.startswith(message) and kept.key == (1, 0)
    several = captioner.prepare_images(7, cases.image_pair_clips(source)[0], question, system)
    assert several == Refused(7, 0, refused.message)


def test_system_prompts_of_questions_about_text(models: Models) -> None:
    source, captioner = models.source("qwen2_5_vl"), models.captioner("qwen2_5_vl")
    for system, message in (("<|image_pad|>", "must not contain <|image_pad|>"), ("<|im_end|>", "contains <|im_end|>")):
        with pytest.raises(UsageError, match=f"^the system prompt {message}".replace("|", "[|]")):
            captioner.prepare_text((0, 0), WHAT, system=system)
    own = "Answer in one word.<|im_end|>"
    assert own in source.text_prompts(own).text(WHAT), "a flag may contain special tokens"
    assert captioner.prepare_text((0, 0), WHAT, system=own).key == (0, 0)
    for number in range(40):
        captioner.prepare_text((0, 0), WHAT, system=f"{number}")
    assert len(source._text_prompts) <= 16, "system prompts of clients are not kept for ever"
