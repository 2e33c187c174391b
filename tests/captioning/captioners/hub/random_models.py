"""Small random models of transformers, the same on both frameworks, and the answers that their captions must equal.

The reference is transformers' `generate` on PyTorch. Its answers are kept in `tests/data/hub-answers-<name>.json`,
because mindnlp's `generate` is slow. `python -m tests.captioning.captioners.hub.test_<name>` writes the file.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend, Choice
from pipeline.captioning.captioners.hub.family import HubFamily
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions

HALF = [0.5, 0.5, 0.5]
"""Mean and standard deviation of the normalisation."""
BEFORE, BETWEEN, AFTER = [5, 6, 7, 8], [30, 31], [20, 21, 22]
"""Token ids of the prompt: before the first block, between two blocks, after the last block."""
NEW_TOKENS = 16
STOP = 299
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
_DATA = Path(__file__).resolve().parents[4] / "tests" / "data"

Answers = dict[str, list[int]]


def clips(side: int) -> list[Clip]:
    """Four clips with square frames of four colours; the third has one frame, which is sampled twice."""
    rng = np.random.default_rng(0)
    samples = [(2, (0, 1)), (3, (0, 1, 2)), (1, (0, 0)), (4, (0, 1, 2, 3))]
    clips = []
    for row, (count, index) in enumerate(samples):
        quarters = rng.integers(0, 256, (count, 2, 2, 3), np.uint8)
        clips.append(Clip(row, "", quarters.repeat(side // 2, 1).repeat(side // 2, 2), index))
    return clips


def filled(model_class: Callable[[Any], Any], config: Any, scale: float) -> Any:
    """A model with random weights; a weight depends on its name and shape only.

    They are normally distributed: scales of layer norms around 1, all others around 0. scale: standard deviation.
    """
    import torch

    from pipeline.captioning.captioners.loading import fill_model, meta_model

    def weight(name: str, shape: Any) -> Any:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        return torch.from_numpy(rng.normal(mean, scale, tuple(shape)).astype(np.float32))

    return fill_model(meta_model(model_class, config), "cpu", weight)


def pixels(clip: Clip, index: Sequence[int]) -> Any:
    """Normalised frames (frames, 3, side, side) of PyTorch."""
    import torch

    values = torch.from_numpy(clip.frames[list(index)]).float().permute(0, 3, 1, 2) / 255
    return (values - 0.5) / 0.5


def captioner(family: HubFamily, model: Any, backend: Backend, options: GenerationOptions, typical: Clip) -> Any:
    """A captioner whose prompts are BEFORE, the blocks with BETWEEN between them, AFTER.

    If each block has a prompt of its own, the block comes first.
    """
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner, HubSettings
    from pipeline.captioning.captioners.hub.prompts import ClipPrompts

    def tokens(text: str) -> list[list[int]]:
        if family.prompts_each_block:
            return [[], BEFORE + AFTER]
        return [BEFORE, *[BETWEEN] * (int(text) - 1), AFTER]

    def text(clip: Clip) -> str:
        return str(len(family.block_lengths(clip)))

    prompts = ClipPrompts(tokens, text, [typical, typical])
    tokenizer: Any = Numbers()
    settings = HubSettings(family, prompts, tokenizer, options, frozenset({STOP}), typical, False)
    return HubCaptioner(settings, model, backend)


class Numbers:
    """A tokenizer whose text is the token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def prompt_ids(lengths: Sequence[int], placeholder: int) -> list[int]:
    """The token ids of a prompt with a placeholder for each visual token."""
    ids = list(BEFORE)
    for number, length in enumerate(lengths):
        ids += [*(BETWEEN if number else []), *[placeholder] * length]
    return ids + AFTER


def generated(model: Any, ids: Sequence[int], options: GenerationOptions, values: Any) -> list[int]:
    """New tokens of transformers' `generate` for a prompt with several images.

    values: pixels of the images. Beam search gets the merged embeddings: given pixels, `generate` repeats each image
    for each beam, so that a beam would read the first image in place of the second one.
    """
    import torch

    prompt = torch.tensor([list(ids)])
    inputs = {"input_ids": prompt, "pixel_values": values}
    if options.num_beams > 1:
        with torch.no_grad():
            features = model.model.get_image_features(values)
            embeddings = model.get_input_embeddings()(prompt)
        places = (prompt == model.config.image_token_id)[..., None].expand_as(embeddings)
        inputs = {"inputs_embeds": embeddings.masked_scatter(places, features)}
    output = model.generate(
        **inputs,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    ids_with_prompt: list[int] = output[0].tolist()
    return ids_with_prompt[len(ids) if "input_ids" in inputs else 0 :]


def ends(engine: Any, requests: Sequence[Any]) -> dict[Any, Any]:
    """The end of each request, by key. All requests are added at once; those without a slot wait."""
    from pipeline.captioning.generation.requests import End

    for request in requests:
        engine.add(request)
    found: dict[Any, Any] = {}
    for _ in range(1000):
        found |= {event.key: event for event in engine.step() if isinstance(event, End)}
        if len(found) == len(requests):
            assert engine.active == 0
            return found
    raise AssertionError(f"{len(found)} of {len(requests)} requests ended")


def reference(name: str, backend: Backend, make: Callable[[], Answers]) -> Answers:
    """The answers of `generate`. On PyTorch they are made, and must be those in the file."""
    recorded: Answers = json.loads(_file(name).read_text())
    if backend.framework == "torch":
        module = f"tests.captioning.captioners.hub.test_{name}"
        assert make() == recorded, f"the recorded answers are not those of `generate`; run python -m {module}"
    assert len({tuple(ids) for ids in recorded.values()}) > len(recorded) // 2, "the answers must differ"
    return recorded


def record(name: str, make: Callable[[], Answers]) -> None:
    """Write the file with the answers of `generate`."""
    Choice("torch", "cpu", 0, "tests").activate(None)
    lines = [f"{json.dumps(key)}: {json.dumps(ids)}" for key, ids in make().items()]
    _file(name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _file(name: str) -> Path:
    return _DATA / f"hub-answers-{name}.json"
