"""Several questions about a clip: PLLaVA answers them as if each were asked alone, and sees the clip once."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Refused
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.asked import alone, answers, complete, count_vision, ends
from tests.golden import DATA, LORA_ALPHA

if TYPE_CHECKING:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

SHORT, LONG, LIGHT = "Describe the video.", "Describe what moves in the video, and how it moves.", "Which light is it?"
ASKS = Asks(tuple(Ask(f"text_{name}", Question(text)) for name, text in (("a", SHORT), ("b", LONG), ("c", LIGHT))))
POOLING = (4, 6, 6)
CELLS = (
    [SHORT, LONG, LIGHT],
    ["Is there a red car?"],
    [LIGHT, "What is behind the man in the middle?", SHORT],
    [SHORT, LONG, LIGHT],
    [LONG, SHORT],
)


def _source(asks: Asks = ASKS, **generation: float) -> PllavaSource:
    options = PllavaOptions(DATA / "mini-a", 2, asks, "", POOLING, lora_alpha=LORA_ALPHA)
    return PllavaSource(options, GenerationOptions(max_new_tokens=8, **generation))  # type: ignore[arg-type]


def _clips(count: int) -> list[Clip]:
    rng = np.random.default_rng(3)
    return [Clip(row, "", rng.integers(0, 256, (2, 336, 336, 3), np.uint8), (0, 1)) for row in range(count)]


@pytest.fixture(scope="module")
def greedy(backend: Backend) -> PllavaCaptioner:
    return _source().load(backend)


@pytest.mark.model
def test_questions_that_differ_from_row_to_row(greedy: PllavaCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = _clips(5)
    expected = alone(greedy, clips, CELLS)
    assert len({tuple(ids) for ids in expected.values()}) > 5, "the questions have no effect"
    rows, before = count_vision(greedy, monkeypatch), greedy.stages()["prefill_tokens"]
    assert answers(greedy, clips, CELLS) == expected
    assert rows == [0, 1, 2, 3, 4], "each clip goes through the vision stage once"
    visual, prompts, prefilled = int(np.prod(POOLING)), 12, greedy.stages()["prefill_tokens"] - before
    assert 5 * visual < prefilled < 5 * visual + prompts * 40, "visual tokens are prefilled once for each clip"


@pytest.mark.parametrize(
    "generation", [{"do_sample": True, "seed": 2}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}]
)
def test_samples_and_penalties_are_those_of_asking_alone(backend: Backend, generation: dict[str, float]) -> None:
    captioner, clips = _source(**generation).load(backend), _clips(3)
    assert answers(captioner, clips, CELLS[:3], slots=3) == alone(captioner, clips, CELLS[:3])


def test_beams_share_the_vision_stage(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, clips = _source(num_beams=2).load(backend), _clips(2)
    expected = alone(captioner, clips, CELLS[:2])
    rows = count_vision(captioner, monkeypatch)
    assert answers(captioner, clips, CELLS[:2]) == expected
    assert rows == [0, 1]


def test_a_question_that_is_too_long_or_has_a_placeholder_fails_alone(
    greedy: PllavaCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.captioning.generation.requests import EndReason

    clips, too_long = _clips(2), "word " * 3000
    expected = alone(greedy, clips, [[SHORT], [SHORT]])

    def length(words: int) -> int:
        pieces = greedy._common.prompts.pieces(clips[0], "word " * words)
        return sum(map(len, pieces)) + int(np.prod(POOLING))

    without_answer = "word " * (bisect.bisect_right(range(3000), 4095, key=length) - 1)  # fits, but not its answer
    found = ends(greedy, clips[1:], [[SHORT, without_answer]])
    assert found[1, 0].ids == expected[1, 0] and found[1, 1].reason is EndReason.TOO_LONG
    refused, kept = greedy.prepare(clips[:1], [[too_long, SHORT]])
    assert isinstance(refused, Refused) and (refused.row, refused.question, refused.is_too_long) == (0, 0, True)
    assert "tokens; the model was made for 4096" in refused.message and "--" not in refused.message
    assert complete(greedy.engine(1), [kept])[(0, 1), 1].ids == expected[0, 0]
    prepared = greedy.prepare(clips[:1], [["in <image>?", SHORT]])
    assert prepared[0] == Refused(0, 0, "the question must not contain <image>; the template places the clip")
    (request,) = prepared[1:]
    assert not isinstance(request, Refused) and request.key == (0, 1) and request.question == 1
    rows = count_vision(greedy, monkeypatch)
    assert [type(one) for one in greedy.prepare(clips[:1], [["in <image>?"]])] == [Refused] and rows == []


@pytest.mark.parametrize("words", [4090, 200_000])
def test_a_prompt_that_is_too_long_is_refused_before_any_work(
    greedy: PllavaCaptioner, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """Of a text that is far too long, only the beginning is tokenized."""
    tokenizer = greedy._common.tokenizer
    tokenized: list[int] = []
    original = tokenizer._tokenizer

    class Counting:
        def encode(self, text: str, *args: object, **kwargs: object) -> object:
            tokenized.append(len(text))
            return original.encode(text, *args, **kwargs)

        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

    def no_embedding(ids: object) -> None:
        raise AssertionError("embeddings of a prompt that is too long")

    monkeypatch.setattr(tokenizer, "_tokenizer", Counting())
    monkeypatch.setattr(greedy, "_embed", no_embedding)
    rows, question = count_vision(greedy, monkeypatch), "word " * words
    about_clip = greedy.prepare(_clips(1), [[question]])[0]
    system = greedy.prepare(_clips(1), [[SHORT]], [question])[0]
    text = greedy.prepare_text((3, 2), question)
    for refused, place in ((about_clip, (0, 0)), (system, (0, 0)), (text, (3, 2))):
        assert isinstance(refused, Refused) and refused.is_too_long
        assert (refused.row, refused.question) == place and "was made for 4096" in refused.message
    assert rows == [] and max(tokenized) <= 8 * 4096


def test_without_questions_those_of_the_source_are_asked(greedy: PllavaCaptioner) -> None:
    (request,) = greedy.prepare(_clips(1))
    assert not isinstance(request, Refused) and request.key == (0, 0)
    assert [follow_up.question for follow_up in request.follow_ups] == [1, 2]


def test_the_rehearsal_prefills_the_text_of_the_next_question(
    greedy: PllavaCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []
    original = greedy.engine
    monkeypatch.setattr(greedy, "engine", lambda slots: engines.append(original(slots)) or engines[-1])
    greedy._rehearse(2)
    assert len(engines) == 2 and all(engine.active == 2 for engine in engines)
    shared_by_all = engines[0].stats.prefill_tokens  # both engines count to the same figures
    assert shared_by_all > 4 * int(np.prod(POOLING))
    assert greedy.max_slots() == 32


def test_the_source_of_several_questions() -> None:
    source, single = _source(), _source(Asks.single(LONG))
    fingerprint, of_single = dict(source.fingerprint()), dict(single.fingerprint())
    assert of_single.pop("prompt") == fingerprint.pop("prompt text_b") == f"USER:<image> {LONG} ASSISTANT:"
    assert fingerprint.pop("prompt text_a") == f"USER:<image> {SHORT} ASSISTANT:"
    assert fingerprint.pop("prompt text_c") == f"USER:<image> {LIGHT} ASSISTANT:"
    assert fingerprint == of_single
    assert f"prompt of text_c: USER:<image> {LIGHT} ASSISTANT:" in source.describe()
    assert not any("prompt" in line for line in single.describe())
    own_cells = _source(Asks((Ask("text", Question("About {title}:")),)))
    assert own_cells.fingerprint()["prompt text"] == "USER:<image> About {title}: ASSISTANT:"
    assert (
        _source(Asks.single(LONG, "caption")).fingerprint()["prompt caption"].startswith("USER:<image> Describe what")
    )
    with pytest.raises(UsageError, match=r"\d{4,} prompt tokens, 144 visual tokens"):
        _source(Asks((*ASKS.asks, Ask("text_d", Question("word " * 3000)))))
