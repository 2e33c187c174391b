"""Writes the folder of pllava-tiny: configuration, tokenizer, and weights with the names of the public checkpoints.

Knows nothing about training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION, DEFAULT_SYSTEM, IMAGE_PLACEHOLDER, TEMPLATES
from scripts.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, VERBS

IMAGE_SIZE = 128
PATCH_SIZE = 16
POOLING_SHAPE = (4, 4, 4)
DEFAULT_PROMPT = TEMPLATES["vicuna"].prompt(DEFAULT_QUESTION, DEFAULT_SYSTEM)
PROMPT_WITHOUT_SYSTEM = TEMPLATES["vicuna"].prompt(DEFAULT_QUESTION, "")
"""The default question without a system prompt."""
BRIEF_QUESTION = "Describe the video briefly."
BRIEF_PROMPT = TEMPLATES["vicuna"].prompt(BRIEF_QUESTION, DEFAULT_SYSTEM)
"""The question that asks for a caption in the terse style."""

_SPECIAL = ["<unk>", "<s>", "</s>"]
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def config(vocab_size: int, image_token_id: int, pad_token_id: int) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "architectures": ["PllavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_token_index": image_token_id,
        "pad_token_id": pad_token_id,
        "num_frames": POOLING_SHAPE[0],
        "pooling_method": "avg",
        "pooling_shape": list(POOLING_SHAPE),
        "use_pooling": True,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vocab_size": vocab_size,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "projection_dim": 128,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "num_hidden_layers": 4,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": pad_token_id,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vocab_size": vocab_size,
        },
    }


def build_tokenizer() -> Tokenizer:
    """A BPE tokenizer with one token for each word of the captions and the default prompt, and bytes for other text."""
    words = [*SIZES, *COLOURS, *SHAPES, *VERBS.values(), *BACKGROUNDS, "left right up down A a and on , background . ;"]
    words += ["On a there is that while The background is"]
    words += DEFAULT_PROMPT.split(IMAGE_PLACEHOLDER)
    split = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    trained.train_from_iterator([" ".join(words)], trainers.BpeTrainer(vocab_size=4096, show_progress=False))
    bpe = json.loads(trained.to_str())["model"]
    pieces = sorted(bpe["vocab"], key=bpe["vocab"].get)
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in bpe["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = [AddedToken(name, special=True, normalized=False) for name in [*_SPECIAL, IMAGE_PLACEHOLDER, "<pad>"]]
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_folder(folder: Path) -> dict[str, Any]:
    """Write all files except the weights. Returns the content of `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    image, pad = tokenizer.token_to_id(IMAGE_PLACEHOLDER), tokenizer.token_to_id("<pad>")
    settings = config(-(-tokenizer.get_vocab_size() // 16) * 16, image, pad)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ids = {name: tokenizer.token_to_id(name) for name in [*_SPECIAL, IMAGE_PLACEHOLDER, "<pad>"]}
    files = {
        "config.json": settings,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad},
        "special_tokens_map.json": special,
        "added_tokens.json": {IMAGE_PLACEHOLDER: image, "<pad>": pad},
        "tokenizer_config.json": {
            **special,
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(number): {
                    "content": name,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for name, number in ids.items()
            },
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "padding_side": "left",
            "processor_class": "PllavaProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "preprocessor_config.json": {
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": _MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": _STD,
            "processor_class": "PllavaProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": IMAGE_SIZE},
        },
        "processor_config.json": {
            "center_pad": False,
            "longest_edge": 640,
            "processor_class": "PllavaProcessor",
            "shortest_edge": IMAGE_SIZE,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return settings


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of the model in float16."""
    _write_float16(folder / "model.safetensors", weights)


def write_lora(folder: Path, lora_config: LoraConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a LoRA adapter in PEFT's layout, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    lora_config.save_pretrained(str(folder))
    _write_float16(folder / "adapter_model.safetensors", weights)


def _write_float16(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    stored = {name: value.detach().to(torch.float16).contiguous().numpy() for name, value in weights.items()}
    save_file(stored, str(file), metadata={"format": "pt"})
