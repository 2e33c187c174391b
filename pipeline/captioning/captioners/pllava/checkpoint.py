"""PLLaVA checkpoints as they are published: which file holds which weight, and how they are folded.

Layouts read without a conversion step: LoRA unmerged (pllava-7b/13b/34b), merged, llava-v1.6 base,
newer transformers names, and a base with a separate folder (LoRA, or LoRA and trained weights).
Framework-free: everything here happens in numpy, one weight at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..safetensors_files import StoredTensor, read_header
from .configuration import PllavaConfig

_PREFIXES = (
    ("language_model.base_model.model.", "language_model."),  # LoRA on the text model, in a whole checkpoint
    ("base_model.model.language_model.", "language_model."),  # a PEFT adapter of the whole model
    ("base_model.model.", "language_model."),  # a PEFT adapter of the text model
    ("model.language_model.", "language_model.model."),  # transformers from 4.52 on
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
_LORA = re.compile(r"(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight")
_UNUSED = re.compile(
    r"image_newline|model\.image_newline|.*\.rotary_emb\.inv_freq|.*\.position_ids|.*\.post_layernorm\.(weight|bias)"
)
_VISION_LAYER = re.compile(r"vision_tower\.vision_model\.encoder\.layers\.(\d+)\.")


def canonical_name(name: str) -> str:
    """The model's own name for a stored weight; LoRA parts keep `.lora_A.` or `.lora_B.`."""
    for stored, own in _PREFIXES:
        if name.startswith(stored):
            name = own + name[len(stored) :]
            break
    return name.replace(".base_layer.", ".")


@dataclass(frozen=True)
class _Weight:
    """Where one weight of the model comes from."""

    base: StoredTensor
    lora_a: StoredTensor | None = None
    lora_b: StoredTensor | None = None


class CheckpointWeights:
    """The weights of a checkpoint folder, with those of `weight_folder` laid over them.

    LoRA weights are used wherever they are found; `needs_lora` makes it an error if there are none.

    Raises:
        UsageError: a folder or its safetensors files are missing or damaged, LoRA parts are
            incomplete or a bare adapter's beside the checkpoint's own, or LoRA is there and alpha is not known.
    """

    def __init__(
        self, folder: Path, weight_folder: Path | None, lora_alpha: float | None, needs_lora: bool = False
    ) -> None:
        base: dict[str, StoredTensor] = {}
        lora: dict[str, dict[str, StoredTensor]] = {}
        self._headers = hashlib.sha256()
        for source in filter(None, (folder, weight_folder)):
            tensors = list(_stored_tensors(source))
            if lora and source.resolve() != folder.resolve():
                _check_replaces(set(lora), source, folder, tensors)
            for tensor in tensors:
                self._headers.update(tensor.identity().encode())
                name = canonical_name(tensor.name)
                part = _LORA.fullmatch(name)
                if part:
                    lora.setdefault(part[1] + ".weight", {})[part[2]] = tensor
                else:
                    base[name] = tensor
        if needs_lora and not lora:
            searched = f"{weight_folder} or {folder}" if weight_folder else f"{folder}"
            raise UsageError(
                f"--use_lora: no LoRA weights (lora_A, lora_B) in {searched}; --weight_dir names their folder"
            )
        _check_lora(base, lora)
        self.lora_alpha = _alpha(folder, weight_folder, lora_alpha) if lora else None
        self._weights = {
            name: _Weight(tensor, lora.get(name, {}).get("A"), lora.get(name, {}).get("B"))
            for name, tensor in base.items()
        }

    @property
    def lora_weights(self) -> int:
        """How many weights have a LoRA part."""
        return sum(weight.lora_a is not None for weight in self._weights.values())

    def digest(self) -> str:
        """Hash of names, types, shapes and file sizes: tells checkpoints apart without reading them."""
        return self._headers.hexdigest()[:16]

    def check(self, config: PllavaConfig) -> None:
        """Compare with the weights that a model of `config` has.

        Raises:
            UsageError: lists every missing, unexpected and misshapen weight.
        """
        expected = expected_weights(config)
        unused = {name for name in self._weights if _is_unused(name, config.vision_layers)}
        problems = [f"missing: {name}" for name in sorted(set(expected) - set(self._weights))]
        problems += [f"unexpected: {name}" for name in sorted(set(self._weights) - set(expected) - unused)]
        for name in sorted(set(expected) & set(self._weights)):
            stored = self._weights[name].base.shape
            if expected[name] != stored:
                problems.append(f"misshapen: {name} is {stored}, the config asks for {expected[name]}")
        if problems:
            shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
            raise UsageError(f"the checkpoint does not fit its config.json, {len(problems)} weights: {shown}")

    def read(self, name: str) -> np.ndarray:
        """One weight in float32 (exact for every stored type), LoRA folded in: W + alpha / rank * B A."""
        weight = self._weights[name]
        value = weight.base.read_float32()
        if weight.lora_a is not None and weight.lora_b is not None:
            a, b = weight.lora_a.read_float32(), weight.lora_b.read_float32()
            assert self.lora_alpha is not None
            value = value + np.float32(self.lora_alpha / a.shape[0]) * (b @ a)
        return value


def _is_unused(name: str, vision_layers: int) -> bool:
    layer = _VISION_LAYER.match(name)
    return bool(_UNUSED.fullmatch(name)) or (layer is not None and int(layer[1]) >= vision_layers)


def _stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    for file in safetensors_files(folder):
        yield from read_header(file)


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a folder, by its index where it has one.

    Raises:
        UsageError: none, or one that the index names is missing.
    """
    if not folder.is_dir():
        raise UsageError(f"checkpoint folder {folder} does not exist")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise UsageError(f"{index} can't be read: {error!r}") from error
        files = [folder / name for name in names]
        files += folder.glob("adapter_model.safetensors")  # a PEFT adapter beside the shards
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UsageError(f"checkpoint {folder} lacks {', '.join(missing)}, which its index names")
    if not files:
        pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pth")]), None)
        hint = f" ({pickled.name} is a pickle, which can run code: convert it)" if pickled else ""
        raise UsageError(f"checkpoint {folder} holds no .safetensors file{hint}")
    return files


def _check_lora(base: Mapping[str, StoredTensor], lora: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    for name, parts in lora.items():
        if set(parts) != {"A", "B"}:
            raise UsageError(f"LoRA for {name} has no lora_{'B' if 'A' in parts else 'A'}")
        if name not in base:
            raise UsageError(f"LoRA for {name}, a weight that the checkpoint does not have")
        folded = (parts["B"].shape[0], parts["A"].shape[1])
        if folded != base[name].shape or parts["A"].shape[0] != parts["B"].shape[1]:
            raise UsageError(
                f"LoRA for {name}: A {parts['A'].shape} and B {parts['B'].shape} do not fit {base[name].shape}"
            )


def _check_replaces(own: set[str], weight_folder: Path, folder: Path, tensors: Sequence[StoredTensor]) -> None:
    """Trained weights may replace a checkpoint's `own` LoRA: all of it, with what it belongs to. A bare
    adapter would drop it where both have one, and share its alpha elsewhere: refuse that."""
    stored = {canonical_name(tensor.name) for tensor in tensors}
    lora = {part[1] + ".weight" for part in map(_LORA.fullmatch, stored) if part}
    if lora and (lora - stored or own - lora):
        raise UsageError(
            f"{folder} holds LoRA weights of its own beside those of {weight_folder}; merge its own first, "
            "or take a checkpoint without"
        )


def _alpha(folder: Path, weight_folder: Path | None, lora_alpha: float | None) -> float:
    if lora_alpha is not None:
        return lora_alpha
    for source in filter(None, (weight_folder, folder)):
        config = source / "adapter_config.json"
        if config.exists():
            try:
                settings = json.loads(config.read_text(encoding="utf-8"))
                for name in ("use_rslora", "use_dora", "alpha_pattern", "fan_in_fan_out"):
                    if settings.get(name):
                        raise UsageError(f"{config}: {name} is not supported; merge the adapter with PEFT first")
                return float(settings["lora_alpha"])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{config} gives no lora_alpha: {error!r}; give --lora_alpha") from error
    raise UsageError(
        f"{weight_folder or folder} holds LoRA weights, but alpha is not stored with them: give --lora_alpha "
        "(4 for the public pllava-7b; 4, 14 or 32 are usual)"
    )


def expected_weights(config: PllavaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a model of `config`, without building one."""
    return {
        **{f"vision_tower.vision_model.{name}": shape for name, shape in _vision_weights(config).items()},
        **{f"multi_modal_projector.{name}": shape for name, shape in _projector_weights(config).items()},
        **{f"language_model.{name}": shape for name, shape in _text_weights(config.text).items()},
    }


def _vision_weights(config: PllavaConfig) -> dict[str, tuple[int, ...]]:
    vision, width, patch = config.vision, config.vision["hidden_size"], config.vision["patch_size"]
    weights: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": (config.patch_grid**2 + 1, width),
        **_affine("pre_layrnorm", width),
    }
    for layer in range(config.vision_layers):
        inner = vision["intermediate_size"]
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            weights |= _affine(f"encoder.layers.{layer}.{name}", width, width)
        weights |= _affine(f"encoder.layers.{layer}.mlp.fc1", inner, width)
        weights |= _affine(f"encoder.layers.{layer}.mlp.fc2", width, inner)
        weights |= _affine(f"encoder.layers.{layer}.layer_norm1", width)
        weights |= _affine(f"encoder.layers.{layer}.layer_norm2", width)
    return weights


def _projector_weights(config: PllavaConfig) -> dict[str, tuple[int, ...]]:
    width = config.text["hidden_size"]
    return _affine("linear_1", width, config.vision["hidden_size"]) | _affine("linear_2", width, width)


def _text_weights(text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = text["hidden_size"], text["intermediate_size"]
    heads = text["num_attention_heads"]
    head_width = text.get("head_dim") or width // heads
    query, key = heads * head_width, (text.get("num_key_value_heads") or heads) * head_width
    linear = {
        "self_attn.q_proj": (query, width, "attention_bias"),
        "self_attn.k_proj": (key, width, "attention_bias"),
        "self_attn.v_proj": (key, width, "attention_bias"),
        "self_attn.o_proj": (width, query, "attention_bias"),
        "mlp.gate_proj": (inner, width, "mlp_bias"),
        "mlp.up_proj": (inner, width, "mlp_bias"),
        "mlp.down_proj": (width, inner, "mlp_bias"),
    }
    weights: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (text["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not text["tie_word_embeddings"]:
        weights["lm_head.weight"] = (text["vocab_size"], width)
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = (width,)
        for name, (rows, columns, bias) in linear.items():
            affine = _affine(f"{prefix}.{name}", rows, columns)
            if not text.get(bias):
                affine.pop(f"{prefix}.{name}.bias")
            weights |= affine
    return weights


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
