"""Reads the weights of a checkpoint folder, and merges LoRA weights into them.

Needs no conversion step for complete checkpoints with unmerged or merged LoRA, and for a base checkpoint with a
separate folder (a PEFT adapter, or LoRA and other trained weights). Computes in numpy, one weight at a time. Imports no
framework. Knows nothing about model families: `WeightNames` describes how a family's checkpoints name their weights.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..process.errors import UsageError
from .safetensors_files import StoredTensor, samples, stored_tensors

_LORA = re.compile(r"(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight")
# Buffers are computed from the config, even if the checkpoint contains them.
_BUFFER = re.compile(r".*\.(inv_freq|position_ids)")


@dataclass(frozen=True)
class WeightNames:
    """How the checkpoints of a model family name their weights.

    prefixes: pairs of a stored prefix and the model's prefix; the first matching prefix of a stored name is replaced.
    is_unused: whether a weight, given the model's name for it, belongs to a part of the model that is not run.
    alpha_hint: text with values of LoRA alpha to try, for the error message if alpha is not known.
    rows: by the model's name, how many rows of a weight are used, from the first; the others are left out.
    """

    prefixes: Sequence[tuple[str, str]]
    is_unused: Callable[[str], bool]
    alpha_hint: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    def model_name(self, stored: str) -> str:
        """The model's name for a stored weight; LoRA parts keep `.lora_A.` or `.lora_B.`."""
        name = stored
        for prefix, model_prefix in self.prefixes:
            if stored.startswith(prefix):
                name = model_prefix + stored[len(prefix) :]
                break
        return name.replace(".base_layer.", ".")


@dataclass(frozen=True)
class _Weight:
    """The stored tensors that one weight of the model is computed from."""

    base: StoredTensor
    lora_a: StoredTensor | None = None
    lora_b: StoredTensor | None = None


class CheckpointWeights:
    """The weights of a checkpoint folder; weights of `weight_folder` replace those with the same name.

    LoRA weights are used if either folder contains them.

    tower_folder: a vision tower that is published in a folder of its own; weights of `folder` replace those with the
        same name.
    lora_alpha: LoRA alpha; None to read it from an adapter_config.json.
    needs_lora: whether missing LoRA weights are an error.

    Raises:
        UsageError: a folder or its safetensors files are missing or damaged; LoRA weights are incomplete or do not fit;
            both folders contain LoRA weights and those of `weight_folder` can't replace the others; LoRA alpha is
            unknown; or `lora_alpha` or `needs_lora` is given without LoRA weights.
    """

    def __init__(
        self,
        folder: Path,
        names: WeightNames,
        weight_folder: Path | None = None,
        lora_alpha: float | None = None,
        needs_lora: bool = False,
        tower_folder: Path | None = None,
    ) -> None:
        base: dict[str, StoredTensor] = {}
        lora: dict[str, dict[str, StoredTensor]] = {}
        self._names = names
        self._stored: list[StoredTensor] = []
        for source in filter(None, (tower_folder, folder, weight_folder)):
            tensors = [(names.model_name(tensor.name), tensor) for tensor in stored_tensors(source)]
            if lora and source.resolve() != folder.resolve():
                _check_replaces(set(lora), source, folder, {name for name, _ in tensors})
            for name, tensor in tensors:
                self._stored.append(tensor)
                part = _LORA.fullmatch(name)
                if part:
                    lora.setdefault(part[1] + ".weight", {})[part[2]] = tensor
                else:
                    base[name] = tensor
        searched = f"{weight_folder} or {folder}" if weight_folder else f"{folder}"
        if needs_lora and not lora:
            raise UsageError(
                f"--use_lora: no LoRA weights (lora_A, lora_B) in {searched}; give their folder as --weight_dir"
            )
        if lora_alpha is not None and not lora:
            raise UsageError(
                f"--lora_alpha {lora_alpha:g}: no LoRA weights (lora_A, lora_B) in {searched}; leave it out, or give "
                "--use_lora and their folder as --weight_dir"
            )
        _check_lora(base, lora)
        self.lora_alpha = _alpha(folder, weight_folder, lora_alpha, names.alpha_hint) if lora else None
        self._weights = {
            name: _Weight(tensor, lora.get(name, {}).get("A"), lora.get(name, {}).get("B"))
            for name, tensor in base.items()
        }

    @property
    def lora_weights(self) -> int:
        """How many weights have a LoRA part."""
        return sum(weight.lora_a is not None for weight in self._weights.values())

    def digest(self) -> str:
        """Hash of names, types, shapes, file sizes and samples of the values.

        It differs between checkpoints, and between fine-tuned versions of one checkpoint. Reads the values in at most
        2048 reads and 8 MiB (`safetensors_files.samples`).
        """
        digest = hashlib.sha256()
        for tensor in self._stored:
            digest.update(tensor.identity().encode())
        for sample in samples(self._stored):
            digest.update(sample)
        return digest.hexdigest()[:16]

    def tie(self, names: Mapping[str, str]) -> None:
        """Treat stored weights with different names as one, because the model has one weight with all of these names.

        A checkpoint may contain any of the names, or several. The value with the model's first name is used if there is
        one, else that with the next name.

        names: further names of tied weights, each with the first name of the same weight.

        Raises:
            UsageError: LoRA for a further name, which would change the first one too.
        """
        for name, first in names.items():
            weight = self._weights.pop(name, None)
            if weight is None:
                continue
            if weight.lora_a is not None:
                raise UsageError(f"LoRA for {name}, which is tied to {first}; merge the adapter with PEFT first")
            self._weights.setdefault(first, weight)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare with the names and shapes of a model's weights; reads no values.

        expected: shape of each weight, by the model's name.

        Raises:
            UsageError: lists every missing weight, every unexpected weight and every weight with a wrong shape.
        """
        unused = {name for name in self._weights if _BUFFER.fullmatch(name) or self._names.is_unused(name)}
        problems = [f"missing: {name}" for name in sorted(set(expected) - set(self._weights))]
        problems += [f"unexpected: {name}" for name in sorted(set(self._weights) - set(expected) - unused)]
        for name in sorted(set(expected) & set(self._weights)):
            stored = self._weights[name].base.shape
            if name in self._names.rows:
                stored = (min(self._names.rows[name], stored[0]), *stored[1:])
            if expected[name] != stored:
                problems.append(f"misshapen: {name} is {stored}, the config asks for {expected[name]}")
        if problems:
            shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
            raise UsageError(f"the checkpoint does not fit its config.json, {len(problems)} weights: {shown}")

    def read(self, name: str) -> np.ndarray:
        """One weight in float32 (exact for every stored type but F64), with LoRA merged: W + alpha / rank * B A.

        Rows that are not used are left out.
        """
        weight = self._weights[name]
        value = weight.base.read_float32()
        if weight.lora_a is not None and weight.lora_b is not None:
            a, b = weight.lora_a.read_float32(), weight.lora_b.read_float32()
            assert self.lora_alpha is not None
            value = value + np.float32(self.lora_alpha / a.shape[0]) * (b @ a)
        return value[: self._names.rows[name]] if name in self._names.rows else value


def _check_lora(base: Mapping[str, StoredTensor], lora: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    for name, parts in lora.items():
        if set(parts) != {"A", "B"}:
            raise UsageError(f"LoRA for {name} has no lora_{'B' if 'A' in parts else 'A'}")
        if name not in base:
            raise UsageError(f"LoRA for {name}, but the checkpoint does not contain this weight")
        product = (parts["B"].shape[0], parts["A"].shape[1])
        if product != base[name].shape or parts["A"].shape[0] != parts["B"].shape[1]:
            raise UsageError(
                f"LoRA for {name}: A {parts['A'].shape} and B {parts['B'].shape} do not fit {base[name].shape}"
            )


def _check_replaces(own_lora: set[str], weight_folder: Path, folder: Path, stored: set[str]) -> None:
    """Check that trained weights replace all of a checkpoint's own LoRA, or contain no LoRA.

    Trained weights may replace the LoRA if they contain LoRA for all the same weights, and these weights too. An
    adapter without them would replace the checkpoint's LoRA of some weights, and would apply its alpha to the others.

    own_lora: weights with LoRA in `folder`. stored: all names in `weight_folder`.

    Raises:
        UsageError: `weight_folder` contains LoRA that does not replace the checkpoint's.
    """
    lora = {part[1] + ".weight" for part in map(_LORA.fullmatch, stored) if part}
    if lora and (lora - stored or own_lora - lora):
        raise UsageError(
            f"{folder} and {weight_folder} both hold LoRA weights; merge those of {folder} first, or use a checkpoint "
            "without LoRA"
        )


def _alpha(folder: Path, weight_folder: Path | None, lora_alpha: float | None, hint: str) -> float:
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
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{config} has no valid lora_alpha: {error!r}; give --lora_alpha") from error
    raise UsageError(
        f"{weight_folder or folder} holds LoRA weights, but alpha is not stored with them: give --lora_alpha"
        + (f" ({hint})" if hint else "")
    )
