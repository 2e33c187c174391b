"""What a run through a service depends on, what it does not, and what its log says."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.captioning.captioners.api.frames import JpegFrames
from pipeline.captioning.captioners.api.options import VIDEO, Generation, Limits, Prices, ServiceOptions, Visuals
from pipeline.captioning.captioners.api.source import ServiceSource
from pipeline.captioning.captioners.checkpoint_source import CheckpointSource
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import UsageError
from tests.fakes import segments

_GENERATION = Generation("gpt-9", extra_body={"a": 1, "b": {"c": 2, "d": 3}})
_OPTIONS = ServiceOptions("http://host/v1", _GENERATION, Path("answers.sqlite"), api_key="sk-secret")
_ASKS = Asks.single("What happens?")
_TWO = Asks((Ask("text", Question("What happens?")), Ask("mood", Question("Mood of {name}?"))))


def _source(options: ServiceOptions = _OPTIONS, asks: Asks = _ASKS, **changes: Any) -> ServiceSource:
    return ServiceSource(options, asks, changes.get("sampling", segments(3)), changes.get("short_side", 0))


@pytest.mark.parametrize(
    "generation",
    [
        {"model": "gpt-8"},
        {"system": "Be short."},
        {"max_new_tokens": 100},
        {"temperature": None},
        {"temperature": 0.1},
        {"top_p": 0.5},
        {"seed": 0},
        {"schema": {"type": "object"}},
        {"extra_body": {}},
        {"extra_body": {"a": 2, "b": {"c": 2, "d": 3}}},
    ],
)
def test_captions_depend_on_the_generation(generation: dict[str, Any]) -> None:
    changed = replace(_OPTIONS, generation=replace(_GENERATION, **generation))
    assert _source(changed).fingerprint() != _source().fingerprint()


@pytest.mark.parametrize(
    "visuals",
    [
        {"send": VIDEO},
        {"max_side": 512},
        {"quality": 50},
        {"detail": "low"},
        {"send": VIDEO, "video_options": {"fps": 1.0}},
    ],
)
def test_captions_depend_on_what_is_sent(visuals: dict[str, Any]) -> None:
    video = _source(replace(_OPTIONS, visuals=Visuals(send=VIDEO))).fingerprint()
    fingerprint = _source(replace(_OPTIONS, visuals=Visuals(**visuals))).fingerprint()
    assert fingerprint != _source().fingerprint() and (fingerprint == video) == (visuals == {"send": VIDEO})


def test_captions_depend_on_questions_and_frames() -> None:
    sources = [_source(), _source(asks=_TWO), _source(asks=Asks.single("Why?")), _source(short_side=100)]
    sources += [_source(sampling=FrameSampling("rate", 0, 1.0)), _source(sampling=segments(4))]
    fingerprints = [source.fingerprint() for source in sources]
    assert all(fingerprints.count(fingerprint) == 1 for fingerprint in fingerprints)


def test_captions_do_not_depend_on_the_rest() -> None:
    changed = ServiceOptions(
        "https://other/v1",
        replace(_GENERATION, extra_body={"b": {"d": 3, "c": 2}, "a": 1}, system=""),
        Path("other.sqlite"),
        limits=Limits(1, 2.0, 3.0, 4, 5.0),
        prices=Prices(1.0, 2.0, 3.0),
        pay_again=True,
        batch=True,
        poll_seconds=1.0,
        dry_run=True,
    )
    assert _source(changed).fingerprint() == _source().fingerprint()


@pytest.mark.parametrize("asks", [_ASKS, _TWO, Asks.single("Why?", "other"), Asks((Ask("text", Question("{name}?")),))])
def test_questions_have_the_entries_that_a_checkpoint_has(asks: Asks) -> None:
    names = CheckpointSource._prompt_entries(SimpleNamespace(asks=asks))  # type: ignore[arg-type]
    fingerprint = _source(asks=asks).fingerprint()
    assert [fingerprint[name] for name in names] == list(asks.texts)


def test_the_gallery_can_read_the_sampling() -> None:
    for sampling in (segments(3), FrameSampling("rate", 0, 1.0, 8), FrameSampling("uniform", 4)):
        assert FrameSampling.parse(_source(sampling=sampling).fingerprint()["frames"]) == sampling


def test_the_key_is_shown_nowhere() -> None:
    source = _source()
    shown = [*source.describe(), *source.fingerprint().values(), str(source.preparation), repr(source)]
    assert "secret" not in " ".join(shown)


def test_a_blank_question_is_refused() -> None:
    with pytest.raises(UsageError, match="--question is blank"):
        _source(asks=Asks.single(" "))


def test_what_the_decoding_processes_get() -> None:
    source = _source(replace(_OPTIONS, visuals=Visuals(max_side=512, quality=50)), short_side=100)
    preparation = pickle.loads(pickle.dumps(source.preparation))
    assert preparation.transform == JpegFrames(512, 50) and not preparation.sends_file
    assert (preparation.sampling, preparation.short_side) == (segments(3), 100)
    assert _source(replace(_OPTIONS, visuals=Visuals(send=VIDEO))).preparation.sends_file


def test_the_log_has_all_settings() -> None:
    options = replace(
        _OPTIONS,
        generation=Generation("gpt-9", system="Be short.", temperature=None, seed=5),
        limits=Limits(16, 500.0, 2e6, 3, 60.0),
        prices=Prices(0.15, 0.6, 20.0),
    )
    assert _source(options, _TWO).describe() == [
        "model gpt-9 at http://host/v1",
        "system prompt: Be short.",
        "prompt of text: What happens?",
        "prompt of mood: Mood of {name}?",
        "generation: max new tokens 200, temperature default, top_p default, seed 5",
        "sent: frames 3 as JPEG, longer side at most 768 pixels, quality 85",
        "pace: at most 16 requests in flight, 500 requests a minute, 2,000,000 tokens a minute; each is sent at most "
        "3 times and may take 60 s",
        "prices per million tokens: 0.15 in, 0.6 out; the run ends at a cost of 20",
        "answers are stored in answers.sqlite; those in it are used",
    ]


def test_the_log_of_other_ways() -> None:
    visuals = Visuals(send=VIDEO, detail="low", video_options={"num_frames": 3})
    text = "\n".join(_source(replace(_OPTIONS, visuals=visuals, batch=True, pay_again=True), short_side=9).describe())
    assert 'the file of each video with {"num_frames": 3}; images as JPEG, scaled down to a shorter side of 9' in text
    assert "detail low" in text and "Batch API, asked for its state every 60 s" in text
    assert "those of earlier runs are not used (--pay_again)" in text and "prices are unknown" in text
    assert "prompt of text: What happens?" in text
    assert "dry run: nothing is sent" in _source(replace(_OPTIONS, dry_run=True)).describe()
