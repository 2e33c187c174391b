"""How many clips (`--bs auto`) and how many frames in one vision chunk fit into the memory of a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PretrainedConfig

from ..backends import Backend
from .kv_cache import CacheShape, bytes_per_slot
from .options import GenerationOptions

logger = logging.getLogger(__name__)

ACCELERATOR_SLOTS = 256
CPU_SLOTS = 32
"""More slots bring little on a CPU: beyond this number a step's time grows with the number of slots."""
ACCELERATOR_FRAMES = 64
CPU_FRAMES = 16
"""More frames bring nothing: the vision tower's matrix products are large enough, and a CPU's caches are small."""
_USABLE = 0.92
"""Usable fraction of the available memory; the rest is reserved for fragmentation."""
_VISION_SHARE = 32
"""The vision tower's intermediate values take at most 1 / _VISION_SHARE of the available memory."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory in bytes, computed from the configuration.

    slot: one caption, with its part of the cache.
    work: intermediate values of the largest prefill and of the largest vision chunk.
    """

    slot: int
    work: int


def frames_together(backend: Backend, frame_bytes: int) -> int:
    """Number of frames in one vision chunk. frame_bytes: bytes of the intermediate values of one frame."""
    limit = ACCELERATOR_FRAMES if backend.is_accelerator else CPU_FRAMES
    return max(1, min(limit, backend.available_memory() // _VISION_SHARE // frame_bytes))


def max_slots(
    backend: Backend, estimate: MemoryEstimate, beams: int, prefill_clips: int, rehearse: Callable[[int], None]
) -> int:
    """Number of slots that fit into memory in addition to the loaded model.

    On a CPU the estimate decides. On an accelerator the largest prefill and vision chunk are rehearsed once; the
    remaining memory after this peak is divided by the size of a slot. With beams, one and two clips are rehearsed,
    and the difference of the two peaks is the size of a slot: the estimate does not describe transformers' cache.

    prefill_clips: number of clips in the largest prefill.
    rehearse: runs the largest prefill, the largest vision chunk and decoding for the given number of clips.

    Raises:
        Any error of `rehearse` that is not an out-of-memory error, or that occurs with one clip.
    """
    memory = backend.available_memory()
    slot, work = estimate.slot * beams, estimate.work
    if backend.is_accelerator and beams > 1:
        one = backend.peak_during(lambda: rehearse(1))
        try:
            slot = max(1, backend.peak_during(lambda: rehearse(2)) - one)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            slot = memory  # two clips do not fit together
        work = max(0, one - slot)
    elif backend.is_accelerator:
        work = _measured_work(backend, slot, prefill_clips, rehearse)
    backend.release_memory()
    fitting = int((memory * _USABLE - work) // slot)
    slots = max(1, min(fitting, ACCELERATOR_SLOTS if backend.is_accelerator else CPU_SLOTS))
    gib = 2**30
    logger.info(
        "--bs auto: %d clips in flight; each takes %.2f of %.1f GiB, vision and prefill take %.2f GiB",
        slots,
        slot / gib,
        memory / gib,
        work / gib,
    )
    return slots


def _measured_work(backend: Backend, slot: int, clips: int, rehearse: Callable[[int], None]) -> int:
    try:
        return max(0, backend.peak_during(lambda: rehearse(clips)) - clips * slot)
    except Exception as error:
        if clips == 1 or not backend.is_out_of_memory(error):
            raise
    logger.warning("--bs auto: out of memory in the rehearsal of %d clips; trying one clip", clips)
    backend.release_memory()
    return max(0, backend.peak_during(lambda: rehearse(1)) - slot)


def slot_memory(config: PretrainedConfig, length: int, options: GenerationOptions, itemsize: int) -> int:
    """Bytes that one slot takes: its part of the cache, its logits, and the copies of them that sampling makes.

    config: configuration of the text model. The decoder of an encoder-decoder model keeps keys and values of its own
        tokens and, for cross attention, those of the encoder's output, which is kept too.
    length: tokens of the longest prompt, of all questions of a request.
    """
    logits = config.vocab_size * (itemsize + 3 * 4)
    if not config.is_encoder_decoder:
        columns = CacheShape.for_lengths(1, 0, length, options.max_new_tokens).columns
        return bytes_per_slot(config, columns, itemsize) + logits
    # The decoder's start token is fed, the last generated token is not.
    cache = bytes_per_slot(config, options.max_new_tokens + length, itemsize)
    return cache + length * config.hidden_size * itemsize + logits


def prefill_memory(config: PretrainedConfig, tokens: int, itemsize: int, eager_length: int = 0) -> int:
    """Bytes of the intermediate values of one prefill: the widest are those of the MLP, which keeps three at a time.

    tokens: tokens of all prompts of the prefill.
    eager_length: length of a prompt if the text model computes eager attention, which keeps the scores of all pairs of
        tokens: in float32 for the softmax, and in the computing type. 0 for fused attention.
    """
    scores = eager_length * config.num_attention_heads * (2 * 4 + itemsize)
    return tokens * ((3 * mlp_width(config) + 8 * config.hidden_size) * itemsize + scores)


def mlp_width(config: PretrainedConfig) -> int:
    """Width of the MLP's inner layer; OPT and T5 have names of their own for it."""
    names = ("intermediate_size", "ffn_dim", "d_ff")
    return int(next(getattr(config, name) for name in names if hasattr(config, name)))
