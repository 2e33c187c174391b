"""`--bs auto` and out-of-memory errors for all families, on PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from tests.golden import token_ids
from tests.tiny_families import Family

from . import reference_cases as cases

_ERROR = "CUDA out of memory. Tried to allocate 20 MiB"


def _captioner(families: dict[str, Family], name: str, backend: Backend, folder: Path) -> tuple[Any, Any]:
    stop_ids = cases.recorded()[name]["stop ids"]
    written = families[cases.checkpoint_of(name)].folder
    source = cases.source(cases.checkpoint(written, name, folder / name, stop_ids), name)
    return source.load(backend), source


@pytest.mark.parametrize("name", cases.CASES)
def test_a_rehearsal_runs_and_leaves_no_trace(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, _ = _captioner(families, name, backend, tmp_path)
    engines: list[Any] = []
    original = captioner.engine
    monkeypatch.setattr(captioner, "engine", lambda slots: engines.append(original(slots)) or engines[-1])
    captioner._rehearse(2)
    # Whole batches have ended; requests in slots are still in flight.
    assert [engine.active for engine in engines] == [0 if name.startswith("blip2") else 2]
    assert captioner.stages()["decode_tokens"] == 0 == captioner.stages()["vision_seconds"]
    monkeypatch.undo()
    assert captioner.max_slots() == 32


@pytest.mark.parametrize(("name", "heads"), [("blip2_opt", 4), ("blip2_t5", 4)])
def test_a_slot_of_blip_2_has_the_scores_of_eager_attention(
    families: dict[str, Family],
    backend: Backend,
    name: str,
    heads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.captioning.generation import attention, capacity

    captioner, source = _captioner(families, name, backend, tmp_path)
    slots: list[int] = []
    monkeypatch.setattr(capacity, "max_slots", lambda backend, estimate, *_: slots.append(estimate.slot))
    captioner.max_slots()
    monkeypatch.setattr("pipeline.captioning.captioners.model_captioner.makes_own_masks", lambda config: False)
    captioner.max_slots()
    length = captioner.prepare(cases.clips(source)[:1])[0].length
    assert attention.makes_own_masks(captioner._text.config)
    assert slots[0] - slots[1] == 3 * heads * length**2 * (4 + 4 + 4)  # three frames; float32 scores


@pytest.mark.parametrize("name", ["blip2_opt", "blip2_t5"])
def test_out_of_memory_halves_the_batch_and_loses_no_row(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, source = _captioner(families, name, backend, tmp_path)
    batches: list[int] = []
    original = captioner._generating.generate

    def generate(**arguments: Any) -> Any:
        batches.append(len(arguments["inputs_embeds"]))
        if batches[-1] > 6:  # prompts; a clip has up to three
            raise RuntimeError(_ERROR)
        return original(**arguments)

    monkeypatch.setattr(captioner._generating, "generate", generate)
    assert token_ids(captioner, cases.clips(source), slots=8) == cases.recorded()[name]["greedy"]
    assert batches[0] > 12 and max(batches[2:]) <= 6


@pytest.mark.parametrize("name", ["blip2_opt", "blip2_t5"])
def test_a_clip_whose_prompts_do_not_fit_together_is_captioned(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one clip in flight, its three prompts go into smaller batches. A prompt alone may still fail."""
    captioner, source = _captioner(families, name, backend, tmp_path)
    clips = cases.clips(source)[:2]
    assert {captioner._family.prompts(clip) for clip in clips} == {3}
    batches: list[int] = []
    original, fitting = captioner._generating.generate, 1

    def generate(**arguments: Any) -> Any:
        batches.append(len(arguments["inputs_embeds"]))
        if batches[-1] > fitting:
            raise RuntimeError(_ERROR)
        return original(**arguments)

    monkeypatch.setattr(captioner._generating, "generate", generate)
    assert token_ids(captioner, clips, slots=2) == cases.recorded()[name]["greedy"][:2]
    assert batches == [6, 3, 1, 1, 1, 1, 1, 1], "two clips; one clip; from then on single prompts"
    fitting = 0
    engine = captioner.engine(1)
    engine.add(captioner.prepare(clips[:1])[0])
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()


def test_out_of_memory_in_a_prefill_halves_the_slots_and_loses_no_row(
    families: dict[str, Family], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "qwen2_5_vl"
    captioner, source = _captioner(families, name, backend, tmp_path)
    slots: list[int] = []
    original = captioner.engine

    def engine(count: int) -> Any:
        made = original(count)
        slots.append(count)
        if count > 2:
            monkeypatch.setattr(made, "step", lambda: (_ for _ in ()).throw(RuntimeError(_ERROR)))
        return made

    monkeypatch.setattr(captioner, "engine", engine)
    assert token_ids(captioner, cases.clips(source), slots=8) == cases.recorded()[name]["greedy"]
    assert slots[:3] == [8, 4, 2]
