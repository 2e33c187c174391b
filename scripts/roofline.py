"""The roofline limit of captioning: the minimum time for a clip, from the model's configuration and the device's rates.

    python -m scripts.roofline 7b --matmul_tflops 313 --memory_tbs 1.6 --memory_gib 64 --share 0.5 --devices 64

prints an estimate for many clips on devices that need not be present. The limit assumes that the device multiplies
matrices all the time at its measured rate. For a decode step it takes the longer of two times: multiplying matrices, or
reading weights and keys and values from memory. Norms, activations, sampling and the host are not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from scripts.model_shapes import ModelShape, pllava_shape, text_parameters
from scripts.presets import PRESETS, TOKENS_AFTER_IMAGE, TOKENS_BEFORE_IMAGE, preset_config


@dataclass(frozen=True)
class Rates:
    """Rates of a device.

    matmul_flops: operations per second of a square matrix product. copy_bytes: bytes per second of a copy; bytes read
    and bytes written both count.
    """

    matmul_flops: float
    copy_bytes: float


@dataclass(frozen=True)
class ClipLoad:
    """What the text model computes for one clip.

    prompt: tokens of the whole prompt. prefix: those of them that all clips share. new_tokens: tokens of the caption.
    asks: number of questions about the clip, each with a caption of `new_tokens`. question: tokens of the text that
        differs between the questions; the first one is part of `prompt`.
    """

    prompt: int
    prefix: int
    new_tokens: int
    asks: int = 1
    question: int = 0


@dataclass(frozen=True)
class Limit:
    """Minimum seconds for a clip, by stage. steps_bound: what limits a decode step, "memory" or "arithmetic"."""

    vision: float
    prefill: float
    decode: float
    steps_bound: str

    @property
    def total(self) -> float:
        return self.vision + self.prefill + self.decode

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def roofline_limit(shape: ModelShape, load: ClipLoad, slots: int, itemsize: int, rates: Rates) -> Limit:
    """The minimum time for one clip when there are many clips.

    slots: clips that are decoded at the same time. itemsize: bytes of one weight.
    """
    text = shape.text
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head_dim = text.get("head_dim") or width // heads
    kv_heads = text.get("num_key_value_heads") or heads
    layers, head_weights = text["num_hidden_layers"], width * text["vocab_size"]

    further = load.asks - 1
    computed = load.prompt - load.prefix
    # Causal attention: the first computed token attends to the prefix, the last one to the whole prompt.
    mean_context = (load.prefix + load.prompt) / 2
    prefill = (
        2 * computed * (text_parameters(text) - head_weights)
        + 4 * computed * mean_context * heads * head_dim * layers
        + 2 * head_weights
    )
    prefill += further * (
        2 * load.question * (text_parameters(text) - head_weights)
        + 4 * load.question * load.prompt * heads * head_dim * layers
        + 2 * head_weights
    )

    columns = load.prompt + load.new_tokens / 2
    step_flops = slots * (2 * text_parameters(text) + 4 * columns * heads * head_dim * layers)
    step_bytes = itemsize * (text_parameters(text) + slots * columns * 2 * kv_heads * head_dim * layers)
    # A decode step only reads. `copy_bytes` fits, because it counts the bytes that a copy reads and those it writes.
    step_seconds = {"memory": step_bytes / rates.copy_bytes, "arithmetic": step_flops / rates.matmul_flops}
    bound = max(step_seconds, key=lambda name: step_seconds[name])
    return Limit(
        vision=shape.tower.operations / rates.matmul_flops,
        prefill=prefill / rates.matmul_flops,
        decode=load.asks * (load.new_tokens - 1) * step_seconds[bound] / slots,
        steps_bound=bound,
    )


def measure_rates(backend: Backend) -> Rates:
    """Measure the rates of the device: the best of six tries each. The device should have no other work."""
    multiply, copy, size, block_bytes = (_numpy_operations if _computes_in_numpy(backend) else _torch_operations)(
        backend
    )

    def minimum_seconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(6):
            backend.synchronize()
            begin = time.perf_counter()
            run()
            backend.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)

    return Rates(
        matmul_flops=2 * size**3 / minimum_seconds(multiply), copy_bytes=2 * block_bytes / minimum_seconds(copy)
    )


Operations = tuple[Callable[[], Any], Callable[[], Any], int, int]
"""A square matrix product, a copy, the rows of the matrix, the bytes of the copied block."""


def _computes_in_numpy(backend: Backend) -> bool:
    return backend.framework == "mindspore" and not backend.is_accelerator  # see `mindspore_cpu`


def _numpy_operations(_: Backend) -> Operations:
    square, block = np.ones((1536, 1536), np.float32), np.ones(2**26, np.float32)
    copy = np.zeros_like(block)
    return lambda: square @ square, lambda: np.copyto(copy, block), len(square), block.nbytes


def _torch_operations(backend: Backend) -> Operations:
    import torch

    size = 8192 if backend.is_accelerator else 1536
    square = torch.ones((size, size), dtype=backend.dtype, device=backend.device)
    block = torch.ones(2**28 // square.element_size(), dtype=backend.dtype, device=backend.device)
    copy = torch.zeros_like(block)
    return lambda: torch.matmul(square, square), lambda: copy.copy_(block), size, 2**28


def main() -> None:
    """Estimate parallel clips, seconds per clip and hours for all clips, for devices that need not be present."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS, help="size of the model")
    parser.add_argument("--matmul_tflops", type=float, required=True, help="16-bit matrix product of a device, TFLOP/s")
    parser.add_argument("--memory_tbs", type=float, required=True, help="memory bandwidth of a device, TB/s")
    parser.add_argument("--memory_gib", type=float, required=True, help="memory of a device, GiB")
    parser.add_argument(
        "--share", type=float, default=0.5, help="share of these two rates that is reached (default: %(default)s)"
    )
    parser.add_argument("--visual_tokens", type=int, default=16 * 12 * 12, help="of a clip (default: %(default)s)")
    parser.add_argument("--new_tokens", type=int, default=150, help="mean length of a caption (default: %(default)s)")
    parser.add_argument(
        "--max_new_tokens", type=int, default=200, help="maximum length of a caption (default: %(default)s)"
    )
    parser.add_argument("--devices", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=10**6, help="default: %(default)s")
    flags = parser.parse_args()
    config = preset_config(flags.preset)
    prompt = TOKENS_BEFORE_IMAGE + flags.visual_tokens + TOKENS_AFTER_IMAGE
    text = config.text
    width = text["hidden_size"]
    slot_bytes = 2 * 2 * (prompt + flags.max_new_tokens) * width * text["num_hidden_layers"]
    weight_bytes = 2 * (text_parameters(text) + text["vocab_size"] * width)
    slots = int((0.9 * flags.memory_gib * 2**30 - weight_bytes - 2 * 2**30) // slot_bytes)
    rates = Rates(flags.share * flags.matmul_tflops * 1e12, flags.share * flags.memory_tbs * 1e12)
    load = ClipLoad(prompt, TOKENS_BEFORE_IMAGE, flags.new_tokens)
    limit = roofline_limit(pllava_shape(config, 4), load, slots, 2, rates)
    clips_per_second = flags.devices / limit.total
    print(
        f"{flags.preset}: {slots} clips at the same time ({slot_bytes / 2**30:.2f} GiB each); a clip takes "
        f"{limit.total:.3f} s of a device: vision {limit.vision:.3f}, prefill {limit.prefill:.3f}, "
        f"decoding {limit.decode:.3f} (bound by {limit.steps_bound}); {flags.devices} devices: "
        f"{clips_per_second:.0f} clips/s, {flags.clips:,} clips in {flags.clips / clips_per_second / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
