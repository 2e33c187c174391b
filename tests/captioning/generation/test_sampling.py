"""Sampling depends on the seed and the row alone, and follows the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.captioning.errors import UsageError
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.sampling import RowSampler

LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))


def _draws(row: int, top_p: float = 1.0, temperature: float = 1.0, count: int = 4000) -> np.ndarray:
    sampler = RowSampler([row], 0, temperature, top_p)
    return np.array([sampler.draw(LOGITS)[0] for _ in range(count)])


def test_a_row_draws_the_same_in_any_batch() -> None:
    alone = RowSampler([7], 3, 1.0, 1.0)
    batch = RowSampler([2, 7, 9], 3, 1.0, 1.0)
    for _ in range(20):
        assert alone.draw(LOGITS)[0] == batch.draw(np.repeat(LOGITS, 3, 0))[1]
    assert not np.array_equal(_draws(1), _draws(2))


def test_frequencies_are_the_probabilities() -> None:
    shares = np.bincount(_draws(0), minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_top_p_keeps_the_likeliest() -> None:
    assert set(_draws(0, top_p=0.6)) == {0, 1}
    assert set(_draws(0, top_p=0.4)) == {0}


def test_low_temperature_is_nearly_greedy() -> None:
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
