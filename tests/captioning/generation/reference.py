"""The reference for the engine's tests: what transformers' `generate` returns for each prompt in a batch of one.

This is a program: `python -m tests.captioning.generation.reference FOLDER`. It runs on PyTorch in a separate process,
so that a test process on MindSpore can compare with it too. Knows nothing about the engine. Importing this module
imports no framework.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .text_models import (
    FRAMES,
    IMAGE_TOKEN,
    MAX_POSITIONS,
    MODELS,
    PATCH,
    VIDEO_TOKEN,
    VISION_START_TOKEN,
    WORDS,
    build,
)

PREFIX = 5  # tokens of the prefix that some prompts of a model share
NEW_TOKENS = 20
LONG_ANSWER = 48
TIE = 1e-4  # rounding differences can change the order of two scores that are closer than this

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Case:
    """A prompt, and what `generate` returns for it without stop ids.

    embeddings: (tokens, width), including the shared prefix.
    positions: (tokens,) or (3, tokens).
    prefix: number of shared prefix tokens at the start of the prompt: 0 or PREFIX.
    group: number of the group of prompts that begin with the same tokens and have the same rules; -1 for none.
    shared: number of these tokens, with the prefix.
    history_ids: the prompt's ids if `generate` applied the penalty and the n-gram rule to them, else none.
    tokens: new token ids.
    margins: for each new token, its score minus the second highest score.
    """

    embeddings: np.ndarray
    positions: np.ndarray
    next_position: int
    prefix: int
    group: int
    shared: int
    penalty: float
    ngram_size: int
    history_ids: tuple[int, ...]
    tokens: list[int]
    margins: list[float]

    @property
    def has_rules(self) -> bool:
        return self.penalty != 1 or self.ngram_size > 0

    @property
    def is_long(self) -> bool:
        return len(self.tokens) == LONG_ANSWER


def run(folder: Path) -> dict[str, list[Case]]:
    """The cases of each model, computed in a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", __spec__.name, str(folder)], cwd=_ROOT, env=environment, check=True)
    return {name: _load(folder, name) for name in MODELS}


@dataclass(frozen=True)
class _Prompt:
    """The input of `generate`.

    grid: (frames / FRAMES, rows, columns) of the video, in patches; None for a prompt of text only.
    with_prompt: whether the penalty and the n-gram rule apply to the prompt's ids.
    group, shared: as in `Case`.
    """

    ids: list[int]
    grid: tuple[int, int, int] | None
    prefix: int
    penalty: float
    ngram_size: int
    with_prompt: bool
    new_tokens: int
    group: int = -1
    shared: int = 0


def _prompts(name: str) -> list[_Prompt]:
    """Prompts of the model: without rules, with rules, with long answers, and groups with the same beginning."""
    rng = random.Random(name)
    shared = [rng.randrange(WORDS) for _ in range(PREFIX)]
    has_vision = name == "qwen2_5_vl"

    def prompt(length: int, prefix: int, grid: tuple[int, int, int] | None, **rest: Any) -> _Prompt:
        ids = shared[:prefix]
        if grid is not None:
            token = IMAGE_TOKEN if grid[0] == 1 else VIDEO_TOKEN
            ids = [*ids, VISION_START_TOKEN, *[token] * (grid[0] * grid[1] * grid[2] // 4)]
        ids = ids + [rng.randrange(WORDS) for _ in range(max(length - len(ids), 1))]
        return _Prompt(ids, grid, prefix, **rest)

    def grid() -> tuple[int, int, int] | None:
        if not has_vision or rng.random() < 0.25:
            return None
        return rng.choice([1, 1, 3]), rng.choice([2, 4]), rng.choice([2, 6])

    prompts = []
    for _ in range(14):
        rest = {"penalty": 1.0, "ngram_size": 0, "with_prompt": False, "new_tokens": NEW_TOKENS}
        prompts.append(prompt(rng.randint(2, 40), rng.choice([0, PREFIX]), grid(), **rest))
    for penalty, ngram_size in ((1.05, 0), (1.3, 0), (3.0, 0), (0.8, 0), (1.0, 1), (1.0, 2), (1.0, 3), (1.2, 2)):
        for with_prompt in (True,) if has_vision else (True, False):
            if with_prompt and ngram_size == 1:
                continue  # too few words would remain
            rest = {
                "penalty": penalty,
                "ngram_size": ngram_size,
                "with_prompt": with_prompt,
                "new_tokens": NEW_TOKENS,
            }
            prompts.append(prompt(rng.randint(2, 40), rng.choice([0, PREFIX]), grid(), **rest))
    for length in (3, 20, MAX_POSITIONS - LONG_ANSWER):
        rest = {"penalty": 1.0, "ngram_size": 0, "with_prompt": False, "new_tokens": LONG_ANSWER}
        prompts.append(prompt(length, rng.choice([0, PREFIX]), grid(), **rest))
    # Prefix, grid, tokens that the beginning has at least, penalty, n-gram size, tokens of the questions after it.
    groups: list[tuple[int, tuple[int, int, int] | None, int, float, int, list[int]]] = [
        (PREFIX, (3, 4, 6), 14, 1.0, 0, [4, 17, 1, 30]),
        (0, (1, 2, 6), 9, 1.0, 0, [22, 2, 9]),
        (PREFIX, None, 8, 1.3, 0, [5, 12, 3]),
        (PREFIX, (1, 4, 2), 12, 1.1, 2, [7, 3, 15]),
        (0, None, 1, 1.0, 0, [6, 19]),
    ]
    for number, (prefix, size, at_least, penalty, ngram_size, questions) in enumerate(groups):
        rest = {"penalty": penalty, "ngram_size": ngram_size, "with_prompt": True, "new_tokens": NEW_TOKENS}
        beginning = prompt(at_least, prefix, size if has_vision else None, **rest)
        for length in questions:
            ids = [*beginning.ids, *(rng.randrange(WORDS) for _ in range(length))]
            prompts.append(dataclasses.replace(beginning, ids=ids, group=number, shared=len(beginning.ids)))
    return prompts


def _generate(model: Any, prompt: _Prompt, pixels: np.random.Generator) -> Case:
    import torch

    ids = torch.tensor([prompt.ids])
    vision: dict[str, Any] = {}
    if prompt.grid is not None:
        kind = "image" if prompt.grid[0] == 1 else "video"
        values = pixels.normal(0, 1, (int(np.prod(prompt.grid)), 3 * FRAMES * PATCH**2)).astype(np.float32)
        vision["pixel_values" if kind == "image" else "pixel_values_videos"] = torch.from_numpy(values)
        vision[f"{kind}_grid_thw"] = torch.tensor([prompt.grid])
    with torch.no_grad():
        embeddings, positions = _text_inputs(model, ids, vision)
        has_rules = prompt.penalty != 1 or prompt.ngram_size > 0
        # If `generate` gets only embeddings, the rules do not apply to the prompt's ids.
        inputs = {"inputs_embeds": embeddings} if has_rules and not prompt.with_prompt else {"input_ids": ids, **vision}
        output = model.generate(
            **inputs,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=prompt.new_tokens,
            do_sample=False,
            repetition_penalty=prompt.penalty,
            no_repeat_ngram_size=prompt.ngram_size,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
    best = [torch.topk(scores[0], 2).values for scores in output.scores]
    tokens = output.sequences[0, -prompt.new_tokens :].tolist()
    assert len(output.scores) == prompt.new_tokens
    return Case(
        embeddings=embeddings[0].numpy(),
        positions=positions.numpy(),
        next_position=int(positions.max()) + 1,
        prefix=prompt.prefix,
        group=prompt.group,
        shared=prompt.shared,
        penalty=prompt.penalty,
        ngram_size=prompt.ngram_size,
        history_ids=tuple(prompt.ids) if prompt.with_prompt else (),
        tokens=tokens,
        margins=[float(first - second) for first, second in best],
    )


def _text_inputs(model: Any, ids: Any, vision: dict[str, Any]) -> tuple[Any, Any]:
    """Embeddings (1, tokens, width), including the visual tokens, and positions without the batch axis."""
    import torch

    embeddings = model.get_input_embeddings()(ids)
    if not hasattr(model.model, "get_rope_index"):
        return embeddings, torch.arange(ids.shape[1])
    if "pixel_values" in vision:
        features = model.model.get_image_features(vision["pixel_values"], vision["image_grid_thw"])
        embeddings = embeddings.masked_scatter((ids == IMAGE_TOKEN)[..., None], torch.cat(features))
    if "pixel_values_videos" in vision:
        features = model.model.get_video_features(vision["pixel_values_videos"], vision["video_grid_thw"])
        embeddings = embeddings.masked_scatter((ids == VIDEO_TOKEN)[..., None], torch.cat(features))
    grids = {key: value for key, value in vision.items() if key.endswith("grid_thw")}
    positions, _ = model.model.get_rope_index(ids, **grids)
    return embeddings, positions[:, 0]


_ARRAYS = ("embeddings", "positions")


def _save(folder: Path, name: str, cases: list[Case]) -> None:
    arrays = {f"{field}-{i}": getattr(case, field) for i, case in enumerate(cases) for field in _ARRAYS}
    np.savez(folder / f"{name}.npz", **arrays)
    rest = [{key: value for key, value in vars(case).items() if key not in _ARRAYS} for case in cases]
    (folder / f"{name}.json").write_text(json.dumps(rest), encoding="utf-8")


def _load(folder: Path, name: str) -> list[Case]:
    arrays = np.load(folder / f"{name}.npz")
    cases = []
    for i, values in enumerate(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))):
        values["history_ids"] = tuple(values["history_ids"])
        cases.append(Case(**values, **{field: arrays[f"{field}-{i}"] for field in _ARRAYS}))
    return cases


def _main(folder: Path) -> None:
    for name in MODELS:
        model = build(name, "sdpa")
        pixels = np.random.default_rng(1)
        cases = []
        for prompt in _prompts(name):
            # The prompts of a group have the same frames.
            frames = pixels if prompt.group < 0 else np.random.default_rng(100 + prompt.group)
            cases.append(_generate(model, prompt, frames))
        _save(folder, name, cases)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
