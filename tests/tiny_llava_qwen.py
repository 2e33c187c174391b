"""A tiny random LLaVA-Video checkpoint in its publishers' layout, and what transformers generates with its weights.

As a program, `python -m tests.tiny_llava_qwen FOLDER` writes them; it runs on PyTorch in a separate process, so that
tests on MindSpore can compare too (`run`). The reference is transformers' LLaVA-OneVision. Pixels come from its slow
image processor; prompt, pooling and newlines follow the description of the public program. Importing this module
imports no framework.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .tiny_families import random_weights, write_json, write_tokenizer
from .tiny_family_configs import IDS, PATCH, VOCABULARY, WIDTH

ROOT = Path(__file__).parents[1]
SIDE = 5 * PATCH  # an odd number of patches, as in the published tower: pooling modes differ in the last row
QUESTION, NEW_TOKENS, PENALTY = "What happens in the video?", 10, 1.05
_NAME = "google/siglip-so400m-patch14-384"
_TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
_TOWER |= {"image_size": SIDE, "patch_size": PATCH, "model_type": "siglip_vision_model"}
_TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 2, "tie_word_embeddings": False,
}  # fmt: skip
_STORED = (  # names of transformers' model, and the published ones
    ("model.vision_tower.", "model.vision_tower.vision_tower."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.language_model.", "model."),
)


@dataclass(frozen=True)
class Video:
    """A rendered video: number of frames, frames per second, and (width, height)."""

    total_frames: int
    rate: float
    size: tuple[int, int]

    def frame(self, number: int) -> Image.Image:
        """A frame with a pattern that depends on its number and on the video."""
        width, height = self.size
        y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
        values = x * (2 + c) + y * (4 - c) + number * 23 * (c + 1) + self.total_frames * 5
        return Image.fromarray((values % 256).astype(np.uint8))


VIDEOS = (
    Video(40, 10.0, (96, 72)), Video(7, 29.97, (72, 96)), Video(1, 25.0, (80, 80)), Video(90, 30.0, (160, 90)),
    Video(33, 8.0, (90, 160)), Video(3, 1.0, (71, 71)), Video(100, 24.0, (128, 72)), Video(12, 2.0, (72, 72)),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Entries of config.json, and the frames: `fps` 0 for 4 frames from the first to the last, else at most 4."""

    pool_mode: str
    newlines: str
    fps: float
    layout: str = "checkpoint"

    @property
    def config(self) -> dict[str, str]:
        return {"mm_spatial_pool_mode": self.pool_mode, "mm_newline_position": self.newlines}


CASES = (
    Case("bilinear", "grid", 0),
    Case("average", "frame", 1),
    Case("max", "no_token", 0),
    Case("bilinear", "one_token", 1, "checkpoint-no-tower"),
)


@dataclass(frozen=True)
class Checkpoints:
    """folder: with the checkpoints `checkpoint` and `checkpoint-no-tower`, and the tower in `siglip`.

    expected: for each case, the generated token ids of each video.
    """

    folder: Path
    expected: list[list[list[int]]]


def run(folder: Path) -> Checkpoints:
    """The checkpoints and the reference, made in a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", __spec__.name, str(folder)], cwd=ROOT, env=environment, check=True)
    return Checkpoints(folder, json.loads((folder / "expected.json").read_text(encoding="utf-8")))


def _main(folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "siglip")
    for layout in ("checkpoint", "checkpoint-no-tower"):
        (folder / layout).mkdir()
        _write_texts(folder / layout)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "checkpoint")
    models = _write_weights(folder, len(tokenizer))
    processor = transformers.SiglipImageProcessor.from_pretrained(folder / "siglip")
    expected = []
    with torch.no_grad():
        for case in CASES:
            inputs = [_embeddings(models[case.layout], tokenizer, processor, case, video) for video in VIDEOS]
            expected.append([_generate(models[case.layout], each) for each in inputs])
    write_json(folder / "expected.json", expected)


def _write_texts(folder: Path) -> None:
    write_tokenizer(folder, is_chatml=True)
    config = {
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen", "torch_dtype": "float32", **_TEXT,
        "add_faster_video": False, "add_time_instruction": True, "bos_token_id": IDS["<pad>"],
        "eos_token_id": IDS["<|im_end|>"], "faster_token_stride": 10, "force_sample": True, "hidden_act": "silu",
        "image_aspect_ratio": "anyres_max_9", "mm_hidden_size": _TOWER["hidden_size"], "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad", "mm_projector_type": "mlp2x_gelu", "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": _NAME, "tokenizer_model_max_length": 32768, "use_mm_proj": True, "vocab_size": VOCABULARY,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    stop = [IDS["<|im_end|>"], IDS["<pad>"]]
    generation = {"do_sample": True, "eos_token_id": stop, "repetition_penalty": PENALTY, "temperature": 0.7}
    write_json(folder / "generation_config.json", generation)


def _write_weights(folder: Path, vocabulary: int) -> dict[str, Any]:
    """The weight files; returns transformers' model of each layout. The folder of the tower has other values."""
    import torch
    from safetensors.numpy import save_file
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionModel
    from transformers.models.siglip import SiglipVisionConfig

    tower = SiglipVisionModel(SiglipVisionConfig(**_TOWER))
    published = {key: random_weights(f"siglip.{key}", tuple(value.shape)) for key, value in tower.state_dict().items()}
    write_json(folder / "siglip/config.json", {"model_type": "siglip", "vision_config": _TOWER})
    other = {"text_model.final_layer_norm.weight": np.ones(8, np.float32), "logit_scale": np.ones(1, np.float32)}
    save_file(published | other, folder / "siglip/model.safetensors")
    models = {}
    for layout in ("checkpoint", "checkpoint-no-tower"):
        config = LlavaOnevisionConfig(
            vision_config={**_TOWER, "num_hidden_layers": _TOWER["num_hidden_layers"] - 1, "vision_use_head": False},
            text_config={**_TEXT, "model_type": "qwen2", "vocab_size": vocabulary},
            tie_word_embeddings=False,
        )
        model = models[layout] = LlavaOnevisionForConditionalGeneration(config).eval()
        stored: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                own = key.removeprefix("model.vision_tower.")
                name = next((new + key[len(old) :] for old, new in _STORED if key.startswith(old)), key)
                if layout == "checkpoint-no-tower" and own != key:
                    values = published[own]
                else:
                    # The published embeddings have more rows than the tokenizer has tokens.
                    extra = VOCABULARY - vocabulary if parameter.shape[0] == vocabulary else 0
                    stored[name] = random_weights(key, (parameter.shape[0] + extra, *parameter.shape[1:]))
                    values = stored[name][: parameter.shape[0]]
                parameter.copy_(torch.from_numpy(values))
        save_file(stored, folder / layout / "model.safetensors")
    return models


def _embeddings(model: Any, tokenizer: Any, processor: Any, case: Case, video: Video) -> Any:
    """The prompt of a video in the width of the text model, (1, tokens, width)."""
    import torch
    import torch.nn.functional as F

    step = max(1, round(video.rate / (case.fps or 1)))
    indices = list(range(0, video.total_frames, step))
    rate: float = step  # as the public program divides, if it takes every step-th frame
    if not case.fps or len(indices) > 4:
        indices, rate = np.linspace(0, video.total_frames - 1, 4, dtype=int).tolist(), video.rate
    times = ",".join(f"{index / rate:.2f}s" for index in indices)
    duration = video.total_frames / video.rate
    after = (
        f"The video lasts for {duration:.2f} seconds, and {len(indices)} frames are uniformly sampled from it. These "
        f"frames are located at {times}.Please answer the following questions related to this video.\n{QUESTION}"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    texts = [torch.tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in (before, after)]
    pixels = processor([video.frame(index) for index in indices], return_tensors="pt").pixel_values
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    grid = SIDE // PATCH
    maps = model.model.multi_modal_projector(hidden).unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    if case.pool_mode == "bilinear":
        maps = F.interpolate(maps, size=(-(-grid // 2),) * 2, mode="bilinear")
    else:
        maps = {"average": F.avg_pool2d, "max": F.max_pool2d}[case.pool_mode](maps, 2)
    frames = maps.permute(0, 2, 3, 1)  # (frames, rows, columns, width)
    newline = model.model.image_newline
    if case.newlines == "grid":
        frames = torch.cat([frames, newline.expand(*frames.shape[:2], 1, -1)], 2)
    visual = frames.flatten(1, 2)
    if case.newlines == "frame":
        visual = torch.cat([visual, newline.expand(len(visual), 1, -1)], 1)
    visual = visual.flatten(0, 1)
    if case.newlines == "one_token":
        visual = torch.cat([visual, newline[None]])
    embed = model.get_input_embeddings()
    return torch.cat([embed(texts[0]), visual, embed(texts[1])])[None]


def _generate(model: Any, embeddings: Any) -> list[int]:
    import torch

    generated: list[int] = model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        repetition_penalty=PENALTY,
        eos_token_id=[IDS["<|im_end|>"], IDS["<pad>"]],
        pad_token_id=IDS["<pad>"],
    )[0].tolist()
    return generated


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
