"""How many captions at once a device's memory holds (`--bs auto`): by arithmetic, then tried out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from transformers import PretrainedConfig

from ..backends import Backend
from .engine import cache_columns
from .kv_cache import bytes_per_slot
from .options import GenerationOptions

logger = logging.getLogger(__name__)

ACCELERATOR_SLOTS = 256
CPU_SLOTS = 32
"""More bring little: a step's time then grows with the slots."""
_USABLE = 0.92
"""Of the memory that is left; the rest goes to fragmentation."""


def most_slots(
    backend: Backend,
    config: PretrainedConfig,
    length: int,
    options: GenerationOptions,
    rehearse: Callable[[int], None],
) -> int:
    """Slots that fit beside the loaded model.

    config: of the text model; length: tokens of a prompt.
    rehearse: goes through the largest batches with so many slots; tried on accelerators, where memory
        is given out at once, with an eighth fewer slots after every failure.

    Raises:
        What `rehearse` raises, if it is not for memory or happens with one slot.
    """
    memory = backend.available_memory()
    itemsize = backend.dtype.itemsize
    per_slot = slot_memory(config, length, options, itemsize)
    prefill = prefill_memory(config, max(backend.prefill_tokens, length), itemsize)
    fitting = int(memory * _USABLE - prefill) // (per_slot * options.num_beams)
    slots = max(1, min(fitting, ACCELERATOR_SLOTS if backend.is_accelerator else CPU_SLOTS))
    gib = 2**30
    logger.info("--bs auto: %d clips at once; each takes %.2f of %.1f GiB", slots, per_slot / gib, memory / gib)
    while backend.is_accelerator:
        try:
            rehearse(slots)
            break
        except Exception as error:
            if slots == 1 or not backend.is_out_of_memory(error):
                raise
        slots = slots * 7 // 8
        logger.warning("--bs auto: out of memory in the rehearsal; trying %d", slots)
        backend.release_memory()
    return slots


def slot_memory(config: PretrainedConfig, length: int, options: GenerationOptions, itemsize: int) -> int:
    """Bytes that one slot takes: its part of the cache, and its logits with what choosing makes of them."""
    choosing = config.vocab_size * (itemsize + 3 * 4)
    return bytes_per_slot(config, cache_columns(length, options), itemsize) + choosing


def prefill_memory(config: PretrainedConfig, tokens: int, itemsize: int) -> int:
    """Bytes of the intermediate values of one prefill: the widest are the MLP's, three at once."""
    return tokens * (3 * config.intermediate_size + 8 * config.hidden_size) * itemsize
