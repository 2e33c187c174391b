"""The prompt is split at the image token; the checkpoint's files define the tokens that end a caption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.captioning.captioners.prompts import TEMPLATES
from pipeline.captioning.captioners.tokenizer import CheckpointTokenizer
from pipeline.captioning.process.errors import UsageError
from tests.golden import DATA

IMAGE = 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        shutil.copy(DATA / "mini-a" / name, tmp_path)
    return tmp_path


def test_a_prompt_is_split_at_its_one_image_token(folder: Path) -> None:
    tokenizer = CheckpointTokenizer(folder, IMAGE)
    before, after = tokenizer.split_prompt("USER:<image> Describe it. ASSISTANT:")
    assert before and after and IMAGE not in [*before, *after]
    assert tokenizer.decode(before) == "USER:"
    for prompt, count in (("no clip", 0), ("<image> and <image>", 2)):
        with pytest.raises(UsageError, match=f"the prompt has {count} image tokens"):
            tokenizer.split_prompt(prompt)


def test_the_stop_ids_of_all_files_are_used(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<unk>"}}))
    assert CheckpointTokenizer(folder, IMAGE).stop_ids(TEMPLATES["vicuna"]) == [0, 2, 5, 7, 9]
    assert CheckpointTokenizer(folder, IMAGE).stop_ids(TEMPLATES["chatml"]) == [0, 5, 7, 9]


def test_a_checkpoint_without_stop_ids_is_a_usage_error(folder: Path) -> None:
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UsageError, match="defines no end-of-sequence token"):
        CheckpointTokenizer(folder, IMAGE).stop_ids(TEMPLATES["chatml"])


def test_an_unusable_tokenizer_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no token 100000, the image token"):
        CheckpointTokenizer(folder, 100000)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json can't be read"):
        CheckpointTokenizer(folder, IMAGE)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        CheckpointTokenizer(folder, IMAGE)


def test_the_size_counts_added_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = {token["id"] for token in tokenizer["added_tokens"]} | set(tokenizer["model"]["vocab"].values())
    assert CheckpointTokenizer(folder, None).size == len(known)
    added = tokenizer["added_tokens"]
    added.append({**added[-1], "id": max(known) + 1, "content": "<|more|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert CheckpointTokenizer(folder, None).size == len(known) + 1
