"""config.json must be a JSON object; flags override the penalties of generation_config.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.captioning.captioners.checkpoint_config import describe_penalties, read_config, with_checkpoint_defaults
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError

GIVEN = GenerationOptions()


@pytest.mark.parametrize("content", ["{", "[1]", "null", '"text"', b"\xff\xfe\x00"])
def test_a_config_that_is_not_an_object_is_a_usage_error(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"is not a checkpoint: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"config\.json can't be read: "):
        read_config(tmp_path)


def _folder(tmp_path: Path, settings: str) -> Path:
    (tmp_path / "generation_config.json").write_text(settings)
    return tmp_path


def test_penalties_of_the_checkpoint_apply(tmp_path: Path) -> None:
    used = with_checkpoint_defaults(
        GIVEN, _folder(tmp_path, '{"repetition_penalty": 1.05, "no_repeat_ngram_size": 3, "temperature": 0.1}')
    )
    assert (used.penalty, used.ngram_size) == (1.05, 3)
    assert used.temperature == GIVEN.temperature
    assert describe_penalties(GIVEN, used) == [
        "repetition penalty 1.05 (generation_config.json)",
        "no sequence of 3 tokens occurs twice (generation_config.json)",
    ]


def test_flags_override_the_checkpoint(tmp_path: Path) -> None:
    folder = _folder(tmp_path, '{"repetition_penalty": 1.05, "no_repeat_ngram_size": 3}')
    given = GenerationOptions(repetition_penalty=1.2, no_repeat_ngram_size=0)
    used = with_checkpoint_defaults(given, folder)
    assert (used.penalty, used.ngram_size) == (1.2, 0)
    assert describe_penalties(given, used) == ["repetition penalty 1.2 (--repetition_penalty)"]


@pytest.mark.parametrize("settings", ["{}", '{"repetition_penalty": null, "no_repeat_ngram_size": null}'])
def test_without_penalties_nothing_changes(tmp_path: Path, settings: str) -> None:
    for folder in (tmp_path, _folder(tmp_path, settings)):  # first without a file
        used = with_checkpoint_defaults(GIVEN, folder)
        assert used == GIVEN and used.fingerprint() == "max_new_tokens=200 num_beams=1"
        assert describe_penalties(GIVEN, used) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"repetition_penalty": 0}', "repetition_penalty 0 is not a positive number"),
        ('{"repetition_penalty": "1.1"}', "repetition_penalty '1.1' is not"),
        ('{"repetition_penalty": true}', "repetition_penalty True is not"),
        ('{"repetition_penalty": NaN}', "repetition_penalty nan is not"),
        ('{"repetition_penalty": Infinity}', "repetition_penalty inf is not"),
        ('{"no_repeat_ngram_size": -1}', "no_repeat_ngram_size -1 is not a whole number"),
        ('{"no_repeat_ngram_size": 2.5}', r"no_repeat_ngram_size 2\.5 is not"),
        ('{"no_repeat_ngram_size": false}', "no_repeat_ngram_size False is not"),
        ("[]", "it holds no JSON object"),
    ],
)
def test_an_invalid_penalty_is_reported_with_file_and_value(tmp_path: Path, settings: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"generation_config\.json.*{message}"):
        with_checkpoint_defaults(GIVEN, _folder(tmp_path, settings))
