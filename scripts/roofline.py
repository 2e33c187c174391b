"""What captioning must cost at least: operations and bytes from the configuration, rates from the device.

    python -m scripts.roofline 7b --matmul_tflops 313 --memory_tbs 1.6 --memory_gib 64 --share 0.5 --devices 64

says on paper how long a million clips take. The limit is that of a device which multiplies matrices all
the time at the rate it was measured at, or moves memory all the time where a decoding step needs that
longer. Norms, activations, sampling and the host count nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from scripts.presets import AFTER, BEFORE, PRESETS, preset


@dataclass(frozen=True)
class Rates:
    """Measured on the device: operations a second of a square matrix product, bytes a second of a copy
    (read and written ones together)."""

    matmul_flops: float
    copy_bytes: float


@dataclass(frozen=True)
class Load:
    """One clip.

    frames: distinct ones; prompt: tokens; prefix: those of them that are shared; new_tokens: of a caption.
    """

    frames: int
    prompt: int
    prefix: int
    new_tokens: int


@dataclass(frozen=True)
class Limit:
    """Least seconds for a clip, by stage, with `slots` captions at once; `steps_bound` says what decoding waits for."""

    vision: float
    prefill: float
    decode: float
    steps_bound: str

    @property
    def total(self) -> float:
        return self.vision + self.prefill + self.decode

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def text_parameters(config: PllavaConfig) -> int:
    """Weights that every token goes through: layers and output head."""
    text = config.text
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head = text.get("head_dim") or width // heads
    key_heads = text.get("num_key_value_heads") or heads
    layer = 2 * width * head * (heads + key_heads) + 3 * width * text["intermediate_size"]
    return text["num_hidden_layers"] * layer + width * text["vocab_size"]


def limit(config: PllavaConfig, load: Load, slots: int, itemsize: int, rates: Rates) -> Limit:
    """The least time for one clip of many."""
    vision, text = config.vision, config.text
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head = text.get("head_dim") or width // heads
    key_heads = text.get("num_key_value_heads") or heads
    layers, head_weights = text["num_hidden_layers"], width * text["vocab_size"]

    patches, eyes = config.patch_grid**2, vision["hidden_size"]
    frame = config.vision_layers * (
        2 * patches * (4 * eyes * eyes + 2 * eyes * vision["intermediate_size"]) + 4 * patches * patches * eyes
    )
    frame += 2 * patches * (3 * vision["patch_size"] ** 2 * eyes + eyes * width + width * width)

    new = load.prompt - load.prefix
    # Causal attention: the last token of the prompt sees all, the first of the new ones the prefix.
    seen = (load.prefix + load.prompt) / 2
    prefill = (
        2 * new * (text_parameters(config) - head_weights) + 4 * new * seen * heads * head * layers + 2 * head_weights
    )

    columns = load.prompt + load.new_tokens / 2
    step_flops = slots * (2 * text_parameters(config) + 4 * columns * heads * head * layers)
    step_bytes = itemsize * (text_parameters(config) + slots * columns * 2 * key_heads * head * layers)
    # Reading alone: a copy reads and writes, so its rate counts both.
    step_by = {"memory": step_bytes / rates.copy_bytes, "arithmetic": step_flops / rates.matmul_flops}
    bound = max(step_by, key=lambda name: step_by[name])
    return Limit(
        vision=load.frames * frame / rates.matmul_flops,
        prefill=prefill / rates.matmul_flops,
        decode=(load.new_tokens - 1) * step_by[bound] / slots,
        steps_bound=bound,
    )


def measure_rates(backend: Backend) -> Rates:
    """The better of several tries of each, on an otherwise idle device."""
    multiply, copy, size, copied = (_numpy_work if _computes_in_numpy(backend) else _torch_work)(backend)

    def best(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(6):
            backend.synchronize()
            begin = time.perf_counter()
            run()
            backend.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)

    return Rates(matmul_flops=2 * size**3 / best(multiply), copy_bytes=2 * copied / best(copy))


Work = tuple[Callable[[], Any], Callable[[], Any], int, int]
"""A square matrix product, a copy, the side of the one in elements and the size of the other in bytes."""


def _computes_in_numpy(backend: Backend) -> bool:
    return backend.framework == "mindspore" and not backend.is_accelerator  # see `mindspore_cpu`


def _numpy_work(_: Backend) -> Work:
    square, block = np.ones((1536, 1536), np.float32), np.ones(2**26, np.float32)
    copy = np.zeros_like(block)
    return lambda: square @ square, lambda: np.copyto(copy, block), len(square), block.nbytes


def _torch_work(backend: Backend) -> Work:
    import torch

    size = 8192 if backend.is_accelerator else 1536
    square = torch.ones((size, size), dtype=backend.dtype, device=backend.device)
    block = torch.ones(2**28 // square.element_size(), dtype=backend.dtype, device=backend.device)
    copy = torch.zeros_like(block)
    return lambda: torch.matmul(square, square), lambda: copy.copy_(block), size, 2**28


def main() -> None:
    """Print the arithmetic for a device that is not at hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--matmul_tflops", type=float, required=True, help="of a device, 16 bit")
    parser.add_argument("--memory_tbs", type=float, required=True, help="bandwidth, TB/s")
    parser.add_argument("--memory_gib", type=float, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of these rates that is reached")
    parser.add_argument("--visual_tokens", type=int, default=16 * 12 * 12)
    parser.add_argument("--new_tokens", type=int, default=150, help="of a caption, on average")
    parser.add_argument("--max_new_tokens", type=int, default=200)
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--clips", type=int, default=10**6)
    flags = parser.parse_args()
    config = preset(flags.preset)
    prompt = BEFORE + flags.visual_tokens + AFTER
    text = config.text
    width = text["hidden_size"]
    slot = 2 * 2 * (prompt + flags.max_new_tokens) * width * text["num_hidden_layers"]
    weights = 2 * (text_parameters(config) + text["vocab_size"] * width)
    slots = int((0.9 * flags.memory_gib * 2**30 - weights - 2 * 2**30) // slot)
    rates = Rates(flags.share * flags.matmul_tflops * 1e12, flags.share * flags.memory_tbs * 1e12)
    least = limit(config, Load(4, prompt, BEFORE, flags.new_tokens), slots, 2, rates)
    rate = flags.devices / least.total
    print(
        f"{flags.preset}: {slots} clips at once ({slot / 2**30:.2f} GiB each); a clip takes "
        f"{least.total:.3f} s of a device: vision {least.vision:.3f}, prefill {least.prefill:.3f}, "
        f"decoding {least.decode:.3f} (bound by {least.steps_bound}); {flags.devices} devices: {rate:.0f} clips/s, "
        f"{flags.clips:,} clips in {flags.clips / rate / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
