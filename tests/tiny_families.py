"""Tiny random checkpoints of all model families, in the layouts in which the families are published.

Each function of FAMILIES writes a checkpoint folder with PyTorch and transformers: config.json, weights (names as
transformers writes them, which are the published ones), tokenizer, image processor and generation_config.json.

As a program, `python -m tests.tiny_families FOLDER` writes all of them and, for each, inputs and logits of a forward
pass of `from_pretrained`. It runs on PyTorch in a separate process, so that tests on MindSpore can compare too (`run`).
Importing this module imports no framework.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .tiny_family_configs import CONFIGS, IDS, PATCH, SIDE, VOCABULARY

_ROOT = Path(__file__).parents[1]
_TOKENIZER = _ROOT / "tests/data/mini-a"
_FROM_IMAGE = re.compile(r"qformer.*\.crossattention\.|^language_projection\.")
"""Weights of BLIP-2 that are larger than others, so that captions depend on the image."""
_SHARD = "150KB"
"""Weights of a checkpoint are in several files of this size, as those of large models are."""


@dataclass(frozen=True)
class Family:
    """A checkpoint, and a forward pass of its model as loaded by transformers on PyTorch.

    inputs: arrays for the model's `forward`.
    logits: float32 (1, tokens, vocabulary).
    """

    folder: Path
    inputs: dict[str, np.ndarray]
    logits: np.ndarray


def llava(parent: Path) -> Path:
    """llava-1.5-hf: CLIP and Llama."""
    return _write(parent, "llava")


def llava_next(parent: Path) -> Path:
    """llava-v1.6-vicuna-hf: CLIP with tiles, Llama."""
    return _write(parent, "llava_next")


def llava_next_mistral(parent: Path) -> Path:
    """llava-v1.6-mistral-hf: CLIP with tiles, Mistral without a window."""
    return _write(parent, "llava_next_mistral")


def llava_next_video(parent: Path) -> Path:
    """LLaVA-NeXT-Video-7B-hf: CLIP, pooled frames, Llama."""
    return _write(parent, "llava_next_video")


def llava_onevision(parent: Path) -> Path:
    """llava-onevision-qwen2-0.5b-ov-hf: SigLIP, Qwen2 with a tied head."""
    return _write(parent, "llava_onevision")


def qwen2_vl(parent: Path) -> Path:
    """Qwen2-VL-2B-Instruct: a tied head; config.json has the entries of the text model at the top."""
    return _write(parent, "qwen2_vl")


def qwen2_5_vl(parent: Path) -> Path:
    """Qwen2.5-VL-7B-Instruct: window attention in the tower; config.json as that of Qwen2-VL."""
    return _write(parent, "qwen2_5_vl")


def blip2_opt(parent: Path) -> Path:
    """blip2-opt: a tied head."""
    return _write(parent, "blip2_opt")


def blip2_t5(parent: Path) -> Path:
    """blip2-flan-t5: encoder-decoder, a head of its own."""
    return _write(parent, "blip2_t5")


def janus(parent: Path) -> Path:
    """Janus-Pro in the layout of transformers, with the parts for image generation."""
    return _write(parent, "janus")


def internvl(parent: Path) -> Path:
    """InternVL3-hf: its own tower, Qwen2."""
    return _write(parent, "internvl")


FAMILIES: dict[str, Callable[[Path], Path]] = {
    function.__name__: function
    for function in (
        *(llava, llava_next, llava_next_mistral, llava_next_video, llava_onevision, qwen2_vl, qwen2_5_vl),
        *(blip2_opt, blip2_t5, janus, internvl),
    )
}


def run(parent: Path) -> dict[str, Family]:
    """The checkpoints of all families in `parent`, written and run in a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", __spec__.name, str(parent)], cwd=_ROOT, env=environment, check=True)
    families = {}
    for name in FAMILIES:
        arrays = dict(np.load(parent / f"{name}.npz"))
        logits = arrays.pop("logits")
        families[name] = Family(parent / name, arrays, logits)
    return families


def _write(parent: Path, name: str) -> Path:
    import torch
    import transformers

    tiny, folder = CONFIGS[name], parent / name
    config = getattr(transformers, tiny.model_class).config_class(**json.loads(json.dumps(tiny.config)))
    model = getattr(transformers, tiny.model_class)(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(random_weights(key, tuple(parameter.shape))))
    model.save_pretrained(folder, max_shard_size=_SHARD)
    entries = {"architectures": [tiny.model_class], "model_type": config.model_type, "torch_dtype": "float32"}
    write_json(folder / "config.json", entries | tiny.config)
    write_json(folder / "generation_config.json", tiny.generation)
    getattr(transformers, tiny.image_processor)(**tiny.processor).save_pretrained(folder)
    write_tokenizer(folder, tiny.is_chatml)
    return folder


def random_weights(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights, the same for a name in every run. Scales of normalisations are near 1."""
    values = np.random.default_rng(zlib.crc32(key.encode())).normal(0, 1, shape).astype(np.float32)
    if len(shape) > 1:
        return (0.6 if _FROM_IMAGE.search(key) else 0.15) * values
    return 1 + 0.1 * values if key.endswith("weight") else 0.1 * values


def write_tokenizer(folder: Path, is_chatml: bool) -> None:
    """The tokenizer of mini-a with the special tokens of IDS; Qwen's adds no token at the start of a text."""
    tokenizer = json.loads((_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((_TOKENIZER / "tokenizer_config.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    known = {token["id"] for token in tokenizer["added_tokens"]}
    for content, token in IDS.items():
        if token not in known:
            tokenizer["added_tokens"].append({"id": token, "content": content, **flags})
            settings["added_tokens_decoder"][str(token)] = {"content": content, **flags}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if is_chatml:
        tokenizer["post_processor"] = None
        special |= {"bos_token": None, "eos_token": "<|im_end|>"}
        settings["add_bos_token"] = False
    settings = {key: value for key, value in settings.items() if key != "processor_class"} | special
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", {name: token for name, token in special.items() if token})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _forward_inputs(name: str, model: Any) -> dict[str, np.ndarray]:
    """A prompt with an image or a video, as the family's processor would make it."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))

    def pixels(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    vision: dict[str, np.ndarray] = {}
    before, after = [11, 40], [33, 21, 17]
    if name.startswith("qwen"):
        grid = (2, 6, 4)
        vision["pixel_values_videos"] = pixels(int(np.prod(grid)), 3 * 2 * PATCH**2)
        vision["video_grid_thw"] = np.array([grid])
        token, count = IDS["<|video_pad|>"], int(np.prod(grid)) // 4
        before, after = [*before, IDS["<|vision_start|>"]], [IDS["<|vision_end|>"], *after]
    elif name in ("llava_next_video", "llava_onevision"):
        vision["pixel_values_videos"] = pixels(1, 3, 3, SIDE, SIDE)
        per_frame = (SIDE // PATCH // 2) ** 2
        token, count = IDS["<video>"], 3 * per_frame + (name == "llava_onevision")
    elif name.startswith("llava_next"):
        vision["pixel_values"] = pixels(1, 3, 3, SIDE, SIDE)  # the whole image, and two tiles side by side
        vision["image_sizes"] = np.array([[40, 100]])
        features = model.get_image_features(*_tensors(vision).values())
        token, count = IDS["<image>"], len(features[0])
    elif name == "internvl":
        vision["pixel_values"] = pixels(2, 3, SIDE, SIDE)
        token, count = IDS["<IMG_CONTEXT>"], 2 * (SIDE // PATCH // 2) ** 2
    elif name.startswith("blip2"):
        vision["pixel_values"] = pixels(1, 3, SIDE, SIDE)
        token, count = IDS["<image>"], CONFIGS[name].config["num_query_tokens"]
        if name == "blip2_t5":
            vision["decoder_input_ids"] = np.array([[0, 5, 9]])
    else:
        vision["pixel_values"] = pixels(1, 3, SIDE, SIDE)
        name_of_token = "<image_placeholder>" if name == "janus" else "<image>"
        token, count = IDS[name_of_token], (SIDE // PATCH) ** 2
    ids = np.array([[*before, *[token] * count, *after]])
    assert ids.max() < VOCABULARY
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **vision}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def _main(parent: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    for name, write in FAMILIES.items():
        folder = write(parent)
        model, report = getattr(transformers, CONFIGS[name].model_class).from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True
        )
        assert not any(report.values()), (name, report)
        with torch.no_grad():
            inputs = _forward_inputs(name, model)
            logits = model(**_tensors(inputs)).logits
        np.savez(parent / f"{name}.npz", logits=logits.numpy(), **inputs)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
