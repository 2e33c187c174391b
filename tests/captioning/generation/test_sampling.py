"""Sampling depends on the seed and the row alone, and follows the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError

SHARES = [0.5, 0.3, 0.15, 0.05]


def _draws(row: int, **options: float) -> np.ndarray:
    """4000 draws of one row from the same logits."""
    import torch

    from pipeline.captioning.generation.sampling import Sampler, uniforms

    generation = GenerationOptions(max_new_tokens=4000, do_sample=True, **options)  # type: ignore[arg-type]
    logits = torch.from_numpy(np.tile(np.log(np.array(SHARES, np.float32)), (4000, 1)))
    chooser = Sampler([generation] * 4000, torch.from_numpy)
    return chooser.choose(logits, torch.from_numpy(uniforms(row, generation))).numpy()


@pytest.mark.model
def test_rows_and_seeds_have_streams_of_their_own(backend: Backend) -> None:
    assert np.array_equal(_draws(1, seed=3), _draws(1, seed=3))
    assert not np.array_equal(_draws(1, seed=3), _draws(2, seed=3))
    assert not np.array_equal(_draws(1, seed=3), _draws(1, seed=4))


@pytest.mark.model
def test_frequencies_are_the_probabilities(backend: Backend) -> None:
    np.testing.assert_allclose(np.bincount(_draws(0), minlength=4) / 4000, SHARES, atol=0.03)
    flat = np.array(SHARES) ** 0.5 / np.sum(np.array(SHARES) ** 0.5)
    np.testing.assert_allclose(np.bincount(_draws(0, temperature=2.0), minlength=4) / 4000, flat, atol=0.03)


@pytest.mark.model
def test_top_p_keeps_the_likeliest(backend: Backend) -> None:
    assert set(_draws(0, top_p=0.6)) == {0, 1}
    assert set(_draws(0, top_p=0.4)) == {0}
    np.testing.assert_allclose(np.bincount(_draws(0, top_p=0.7)) / 4000, [0.625, 0.375], atol=0.03)


@pytest.mark.model
def test_low_temperature_is_nearly_greedy(backend: Backend) -> None:
    assert set(_draws(0, temperature=0.01)) == {0}


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        (GenerationOptions(), False),
        (GenerationOptions(do_sample=True), True),
        (GenerationOptions(temperature=0.7), True),
        (GenerationOptions(temperature=0), False),
        (GenerationOptions(temperature=0, do_sample=True), False),
    ],
)
def test_when_it_samples(options: GenerationOptions, samples: bool) -> None:
    assert options.samples is samples


def test_beams_do_not_sample() -> None:
    with pytest.raises(UsageError, match="--num_beams 3"):
        GenerationOptions(num_beams=3, do_sample=True)
