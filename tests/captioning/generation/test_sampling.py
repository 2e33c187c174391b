"""Samples depend only on the seed and the stream, and follow the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError

PROBABILITIES = [0.5, 0.3, 0.15, 0.05]


def _draws(stream: int, **options: float) -> np.ndarray:
    """4000 samples of one stream from the same logits."""
    import torch

    from pipeline.captioning.generation.sampling import Sampler, uniforms

    generation = GenerationOptions(max_new_tokens=4000, do_sample=True, **options)  # type: ignore[arg-type]
    logits = torch.from_numpy(np.tile(np.log(np.array(PROBABILITIES, np.float32)), (4000, 1)))
    sampler = Sampler([generation] * 4000, torch.from_numpy)
    return sampler.choose(logits, torch.from_numpy(uniforms(stream, generation))).numpy()


@pytest.mark.model
def test_streams_and_seeds_give_different_samples(backend: Backend) -> None:
    assert np.array_equal(_draws(1, seed=3), _draws(1, seed=3))
    assert not np.array_equal(_draws(1, seed=3), _draws(2, seed=3))
    assert not np.array_equal(_draws(1, seed=3), _draws(1, seed=4))


@pytest.mark.model
def test_frequencies_are_the_probabilities(backend: Backend) -> None:
    np.testing.assert_allclose(np.bincount(_draws(0), minlength=4) / 4000, PROBABILITIES, atol=0.03)
    flat = np.array(PROBABILITIES) ** 0.5 / np.sum(np.array(PROBABILITIES) ** 0.5)
    np.testing.assert_allclose(np.bincount(_draws(0, temperature=2.0), minlength=4) / 4000, flat, atol=0.03)


@pytest.mark.model
def test_top_p_keeps_the_most_probable_tokens(backend: Backend) -> None:
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
def test_options_that_sample(options: GenerationOptions, samples: bool) -> None:
    assert options.samples is samples


def test_beams_with_sampling_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--num_beams 3"):
        GenerationOptions(num_beams=3, do_sample=True)
