"""Captions equal those of the public PLLaVA token by token, on the framework of this test process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.prompts import TEMPLATES
from tests.golden import DATA, SHARED, GoldenSet, golden_clip, golden_source, token_ids, whole_prompts

pytestmark = pytest.mark.model

CHECKPOINTS = ("mini-a", "mini-a-merged")
needs_shared = pytest.mark.skipif(
    not (SHARED / "golden").is_dir(), reason="a clone does not contain the golden outputs of real videos"
)


def _batches(golden: GoldenSet) -> Iterator[list[dict[str, Any]]]:
    """Groups of cases that can be captioned in one batch: same prompt, number of frames and pooling shape."""
    batches = defaultdict(list)
    for case in golden.cases:
        batches[case["prompt"], case["num_frames"], tuple(case["pooling_shape"])].append(case)
    yield from batches.values()


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, str], Any]:
    """Visual tokens by checkpoint and name of the case: the vision tower takes most of the time on MindSpore's CPU."""
    return {}


def _check(golden: GoldenSet, checkpoint: str, backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    import torch

    for cases in _batches(golden):
        source = golden_source(cases[0], checkpoint)
        captioner = source.load(backend)
        clips = [golden_clip(source, case, row) for row, case in enumerate(cases)]
        features = captioner.visual_tokens(clips)
        known |= {(checkpoint, case["name"]): tokens for case, tokens in zip(cases, features, strict=True)}
        captioner.visual_tokens = lambda batch, rows=features: torch.stack([rows[clip.row] for clip in batch])
        # With fewer slots than clips, some clips wait until the captions of others end.
        ids = token_ids(captioner, clips, slots=2)
        prompts = whole_prompts(captioner, clips)
        with torch.no_grad():
            logits = captioner._model.language_model(inputs_embeds=prompts, logits_to_keep=1, use_cache=False).logits[
                :, -1
            ]
        for row, case in enumerate(cases):
            name = case["name"]
            assert ids[row] == case["greedy_ids"], name
            np.testing.assert_allclose(logits[row].numpy(), golden.arrays[case["logits_key"]], atol=3e-4, err_msg=name)
            tokens = features[row].numpy()
            assert tokens.shape == tuple(case["features"]["shape"]), name
            np.testing.assert_allclose(tokens[:8, :8], case["features"]["corner_8x8"], atol=3e-4, err_msg=name)
            row_means = golden.arrays[case["features_rowmean_key"]]
            np.testing.assert_allclose(tokens.mean(-1), row_means, atol=3e-4, err_msg=name)


def _check_beams(golden: GoldenSet, checkpoint: str, backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    cases = [case for case in golden.cases if "beam3_repaired" in case]
    assert cases
    for case in cases:
        source = golden_source(case, checkpoint, num_beams=3)
        captioner = source.load(backend)
        if (checkpoint, case["name"]) in known:  # the test of greedy captions has run in this process
            captioner.visual_tokens = lambda batch, name=case["name"]: known[checkpoint, name][None]
        ids = token_ids(captioner, [golden_clip(source, case)])[0]
        assert ids == case["beam3_repaired"]["ids"], case["name"]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_synthetic_frames(checkpoint: str, backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    _check(GoldenSet.load(DATA, "golden-synthetic"), checkpoint, backend, known)


def test_beams_on_synthetic_frames(backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    _check_beams(GoldenSet.load(DATA, "golden-synthetic"), "mini-a", backend, known)


@needs_shared
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_real_videos(checkpoint: str, backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    pytest.importorskip("decord")
    if checkpoint == "mini-a" and backend.framework == "mindspore":
        pytest.skip("slow on MindSpore; the synthetic frames have both checkpoints")
    _check(GoldenSet.load(SHARED / "golden", "golden-videos"), checkpoint, backend, known)


@needs_shared
def test_beams_on_real_videos(backend: Backend, known: dict[tuple[str, str], Any]) -> None:
    pytest.importorskip("decord")
    _check_beams(GoldenSet.load(SHARED / "golden", "golden-videos"), "mini-a-merged", backend, known)


def test_the_prompt_equals_the_recorded_one() -> None:
    case = GoldenSet.load(DATA, "golden-synthetic").cases[0]
    system = case["prompt"].split(" USER:")[0]
    prompt = TEMPLATES["vicuna"].prompt("Describe the video in details.", system)
    assert prompt == case["prompt"]
    before, after = golden_source(case, "mini-a").tokenizer.split_prompt(prompt)
    assert [*before, 500, *after] == case["input_ids"]
