"""What requests of a server may have of their own: PLLaVA with their system prompts, and with frames without times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Refused
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.process.errors import UsageError
from scripts.clip_world import random_clip
from tests.captioning.captioners.asked import complete

if TYPE_CHECKING:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

TINY = Path(__file__).parents[4] / "pretrained_models" / "pllava-tiny"
SYSTEMS = (DEFAULT_SYSTEM, "Answer in short sentences.", "")


def _source(system: str) -> PllavaSource:
    options = PllavaOptions(TINY, 4, Asks.single(DEFAULT_QUESTION), system)
    return PllavaSource(options, GenerationOptions(max_new_tokens=60))


@pytest.fixture(scope="module")
def captioner(backend: Backend) -> PllavaCaptioner:
    return _source(SYSTEMS[0]).load(backend)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Frames that are not in the training data, without times."""
    transform, clips = _source("").frame_transform, []
    for row in range(3):
        frames = random_clip(77, row).frames()
        chosen = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, 4)]
        clips.append(Clip(row, "", transform([Image.fromarray(frame) for frame in chosen]), (0, 1, 2, 3)))
    return clips


def _texts(captioner: PllavaCaptioner, requests: list[Any], slots: int) -> list[str]:
    ends = complete(captioner.engine(slots), requests)
    return [captioner.caption(ends[request.key, 0]).text for request in requests]


@pytest.mark.model
def test_captions_are_those_of_a_run_with_this_system_prompt(
    captioner: PllavaCaptioner, clips: list[Clip], backend: Backend
) -> None:
    """Three system prompts, one of them none, are prepared together; only the run's own uses the shared prefix."""
    source = captioner._source
    requests = captioner.prepare(clips, None, [None, *SYSTEMS[1:]])
    expected = []
    for clip, system, request in zip(clips, SYSTEMS, requests, strict=True):
        assert not isinstance(request, Refused)
        other = _source(system)
        pieces = other.prompts.pieces(clip, DEFAULT_QUESTION)
        assert source.prompts.pieces(clip, DEFAULT_QUESTION, system) == pieces
        tokens = sum(map(len, pieces)) + int(np.prod(other.pooling_shape))
        assert captioner.prompt_tokens(request) == tokens
        alone = type(captioner)(other, captioner._model, backend)
        expected += _texts(alone, alone.prepare([clip]), 1)
    assert [request.has_prefix for request in requests] == [True, False, False]
    assert _texts(captioner, requests, 2) == expected
    assert expected[0] == random_clip(77, 0).shown.caption(), "frames without times have the right caption"


def test_system_prompts_that_are_refused(captioner: PllavaCaptioner, clips: list[Clip]) -> None:
    placeholder, special = captioner.prepare(clips[:2], None, ["Be <image> brief.", "Be brief.</s>"])
    template = "the system prompt must not contain <image>; the template places the clip"
    assert placeholder == Refused(0, 0, template)
    assert special == Refused(1, 0, "the system prompt contains </s>, a special token of the model; remove it")


def test_several_images_are_frames(captioner: PllavaCaptioner, clips: list[Clip]) -> None:
    assert _source("").images_are_frames
    with pytest.raises(UsageError, match="send one image, or the frames of one video"):
        captioner.prepare_images(0, clips[:2], DEFAULT_QUESTION)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_any_number_of_frames_makes_a_prompt_of_the_same_length(
    captioner: PllavaCaptioner, clips: list[Clip], count: int
) -> None:
    frames = np.concatenate([clip.frames for clip in clips])[:count]
    (request,) = captioner.prepare([Clip(0, "", frames, tuple(range(count)))])
    (whole,) = captioner.prepare(clips[:1])
    assert not isinstance(request, Refused) and not isinstance(whole, Refused)
    assert request.length == whole.length
