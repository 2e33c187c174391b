"""Runs one phase of a training: optimizers, learning rates, and a state on disk from which the phase continues.

Knows nothing about models and losses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

MUON_SCALE = 3.0
"""Learning rate of Muon divided by that of AdamW. Both are measured as the root mean square of an update."""


def _make_optimizers(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in the layers, AdamW for all other parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (matrices if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def train(
    name: str,
    work: Path,
    module: nn.Module,
    steps: int,
    rate: float,
    seed: int,
    loss_of: Callable[[np.random.Generator, float], tuple[torch.Tensor, dict[str, float]]],
    every_500: Callable[[], Any] = lambda: None,
) -> None:
    """Run one phase. Continue from the state in the folder `work` if there is one.

    name: of the phase; it selects the random stream and the file of the state. rate: peak learning rate.
    loss_of: takes a random generator and the share of steps done, returns the loss and metrics by name.
    every_500: is called after every 500 steps.
    """
    state_file = work / f"{name}.pt"
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizers = _make_optimizers(module, rate)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        first = state["step"]
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
    phase = sum(map(ord, name))
    sums: dict[str, list[float]] = {}
    started = saved = time.monotonic()
    for step in range(first, steps):
        share = step / steps
        for optimizer in optimizers:
            scale = MUON_SCALE if isinstance(optimizer, torch.optim.Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = scale * rate * min(1, (step + 1) / 100) * max(0.02, min(1, (1 - share) / 0.6))
        loss, metrics = loss_of(np.random.default_rng([seed, phase, step, 2]), share)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for key, value in {"loss": loss.item(), **metrics}.items():
            sums.setdefault(key, []).append(value)
        if (step + 1) % 50 == 0:
            means = ", ".join(f"{key} {np.mean(values):.3f}" for key, values in sums.items())
            seconds = (time.monotonic() - started) / (step + 1 - first)
            logger.info("%s %d/%d (%.2f s per step): %s", name, step + 1, steps, seconds, means)
            sums.clear()
        if (step + 1) % 500 == 0:
            every_500()
        if time.monotonic() - saved > 120 or step + 1 == steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            _save(state_file, {"module": module.state_dict(), "optimizers": states, "step": step + 1})
            saved = time.monotonic()


def _save(path: Path, state: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)
