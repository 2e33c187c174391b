"""What a device's memory holds: captions at once (`--bs auto`), frames at once in a vision tower."""

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
"""More bring little: a step's time then grows with the slots."""
ACCELERATOR_FRAMES = 64
CPU_FRAMES = 16
"""More bring nothing: the vision tower's matrix products are large enough, and a CPU's caches are small."""
_USABLE = 0.92
"""Of the memory that is left; the rest goes to fragmentation."""
_VISION_SHARE = 32
"""The vision tower's intermediate values take at most one part in so many of the memory that is left."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by arithmetic.

    slot: of one caption, with its part of the cache; work: of the largest prefill and the largest vision chunk.
    """

    slot: int
    work: int


def frames_together(backend: Backend, frame_bytes: int) -> int:
    """Frames that go through the vision tower at once; frame_bytes: intermediate values of one of them."""
    most = ACCELERATOR_FRAMES if backend.is_accelerator else CPU_FRAMES
    return max(1, min(most, backend.available_memory() // _VISION_SHARE // frame_bytes))


def max_slots(
    backend: Backend, estimate: MemoryEstimate, beams: int, together: int, rehearse: Callable[[int], None]
) -> int:
    """Captions at once that fit beside the loaded model.

    A CPU goes by the estimate. An accelerator rehearses the largest prefill and vision chunk once, reads the peak
    of its memory, and divides what is left. With beams, captions of one and of two clips are rehearsed, because
    transformers' cache grows in its own way; the difference is what a clip takes.

    together: clips of the largest prefill. rehearse: goes through the largest prefill, vision chunk and decoding
    of so many clips.

    Raises:
        What `rehearse` raises, if it is not for memory or happens with one clip.
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
            slot = memory  # two clips at once do not fit
        work = max(0, one - slot)
    elif backend.is_accelerator:
        work = _measured_work(backend, slot, together, rehearse)
    backend.release_memory()
    fitting = int((memory * _USABLE - work) // slot)
    slots = max(1, min(fitting, ACCELERATOR_SLOTS if backend.is_accelerator else CPU_SLOTS))
    gib = 2**30
    logger.info(
        "--bs auto: %d clips at once; each takes %.2f of %.1f GiB, vision and prefill %.2f GiB",
        slots,
        slot / gib,
        memory / gib,
        work / gib,
    )
    return slots


def _measured_work(backend: Backend, slot: int, together: int, rehearse: Callable[[int], None]) -> int:
    try:
        return max(0, backend.peak_during(lambda: rehearse(together)) - together * slot)
    except Exception as error:
        if together == 1 or not backend.is_out_of_memory(error):
            raise
    logger.warning("--bs auto: out of memory in the rehearsal of %d clips; trying one", together)
    backend.release_memory()
    return max(0, backend.peak_during(lambda: rehearse(1)) - slot)


def slot_memory(config: PretrainedConfig, length: int, options: GenerationOptions, itemsize: int) -> int:
    """Bytes that one slot takes: its part of the cache, and its logits with what choosing makes of them.

    length: tokens of a prompt.
    """
    columns = CacheShape.for_lengths(1, 0, length, options.max_new_tokens).columns
    choosing = config.vocab_size * (itemsize + 3 * 4)
    return bytes_per_slot(config, columns, itemsize) + choosing


def prefill_memory(config: PretrainedConfig, tokens: int, itemsize: int) -> int:
    """Bytes of the intermediate values of one prefill: the widest are the MLP's, three at once."""
    return tokens * (3 * config.intermediate_size + 8 * config.hidden_size) * itemsize
