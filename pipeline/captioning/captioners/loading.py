"""Builds a model without allocating memory and loads a checkpoint's weights into it, one at a time.

Needs the framework (PyTorch, or MindSpore through mindnlp). Knows nothing about model families: it finds weights and
buffers through the model's modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from ..process.errors import RunError
from .weights import CheckpointWeights

Config = TypeVar("Config")
Model = TypeVar("Model", bound=torch.nn.Module)

_LARGEST_FLOAT16 = 65504.0


def meta_model(build: Callable[[Config], Model], config: Config) -> Model:
    """`build(config)` on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return build(config)


def weight_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight that a checkpoint must contain; tied weights count once, by their first name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def tied_names(model: torch.nn.Module) -> dict[str, str]:
    """Further names of tied weights, each with the first name of the same weight, which `weight_shapes` has."""
    first: dict[int, str] = {}
    # A list keeps every parameter alive, so that no two parameters can have the same id.
    parameters = list(model.named_parameters(remove_duplicate=False))
    names = {name: first.setdefault(id(parameter), name) for name, parameter in parameters}
    return {name: first_name for name, first_name in names.items() if name != first_name}


def check_weights(model: torch.nn.Module, weights: CheckpointWeights) -> None:
    """Compare names and shapes of a checkpoint's weights with those of a model; reads no values.

    A checkpoint may contain a tied weight (the head of many text models) under any of its names.

    Raises:
        UsageError: see `CheckpointWeights.check`.
    """
    weights.tie(tied_names(model))
    weights.check(weight_shapes(model))


def load_weights(model: Model, weights: CheckpointWeights, device: str, dtype: torch.dtype) -> Model:
    """Fill a model made by `meta_model` from a checkpoint; returns it in inference mode on `device`.

    Each weight is rounded once, from its stored type to `dtype`. Host memory holds one weight at a time.

    Raises:
        UsageError: the names or shapes of the weights differ from the model's; found before any weight is read.
        RunError: a weight is not finite, or overflows in `dtype`; see also `fill_model`.
    """
    check_weights(model, weights)

    def stored(name: str, _: torch.Size) -> torch.Tensor:
        value = weights.read(name)
        _check_range(name, value, dtype)
        return torch.from_numpy(value).to(device=device, dtype=dtype)

    return fill_model(model, device, stored)


def fill_model(model: Model, device: str, weight: Callable[[str, torch.Size], torch.Tensor]) -> Model:
    """Fill a model made by `meta_model`; returns it in inference mode.

    weight: returns a weight's values on `device`, given its name and shape. It is called once for weights that are
        tied; they stay tied.

    Raises:
        RunError: the model has a tensor that is neither a parameter nor a known buffer.
    """
    filled: dict[int, torch.nn.Parameter] = {}
    # A list keeps every parameter alive, so that no two parameters can have the same id.
    for name, empty in list(model.named_parameters(remove_duplicate=False)):
        if id(empty) not in filled:
            filled[id(empty)] = torch.nn.Parameter(weight(name, empty.shape), requires_grad=False)
        _set(model, name, filled[id(empty)])
    _make_buffers(model, device)
    unfilled = [name for name, tensor in _tensors(model) if tensor.device.type == "meta"]
    if unfilled:
        raise RunError(f"{type(model).__name__} was not filled: {', '.join(unfilled)} still on the meta device")
    return model.eval()


def _check_range(name: str, value: np.ndarray, dtype: torch.dtype) -> None:
    largest = float(np.abs(value).max(initial=0.0))
    if not np.isfinite(largest):
        raise RunError(f"weight {name} holds values that are not finite; the checkpoint is damaged")
    if dtype == torch.float16 and largest > _LARGEST_FLOAT16:
        raise RunError(
            f"weight {name} has values up to {largest:g}, too large for float16; give --dtype float32 or bfloat16"
        )


def _make_buffers(model: torch.nn.Module, device: str) -> None:
    """Compute the buffers that a checkpoint need not contain: positions, and the frequencies of rotary embeddings."""
    for name, module in list(model.named_modules()):
        buffers = dict(module.named_buffers(recurse=False))
        if "position_ids" in buffers:
            module.position_ids = torch.arange(buffers["position_ids"].shape[-1], device=device).reshape(1, -1)
        if "inv_freq" in buffers:
            _set(model, name, _rotary(name, module).to(device))


def _rotary(name: str, empty: torch.nn.Module) -> torch.nn.Module:
    """A rotary embedding like `empty`, computed in float32 on the CPU.

    The whole module is constructed again, because it keeps more copies of its frequencies. Rotary embeddings of text
    models have a config. Those of transformers' vision towers have none: they take their width, which is twice the
    number of frequencies, and use the default base.
    """
    config = getattr(empty, "config", None)
    made = type(empty)(2 * empty.inv_freq.shape[0]) if config is None else type(empty)(config=config)
    if made.inv_freq.shape != empty.inv_freq.shape:
        shapes = f"{tuple(made.inv_freq.shape)}, not {tuple(empty.inv_freq.shape)}"
        raise RunError(f"{name}: {type(empty).__name__} can't be computed again: its frequencies are {shapes}")
    return made


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes of a module."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{name}.{attribute}", value


def _set(model: torch.nn.Module, name: str, value: torch.nn.Module | torch.nn.Parameter) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, value)
