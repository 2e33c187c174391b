"""`--bs auto`: arithmetic from the configuration, then a rehearsal that may fail."""

from __future__ import annotations

import itertools

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions

pytestmark = pytest.mark.model
GIB = 2**30


class Device(Backend):
    """A device with a memory of our choice; the arithmetic needs no other."""

    memory = 64 * GIB
    releases = 0

    def available_memory(self) -> int:
        return self.memory

    def release_memory(self) -> None:
        Device.releases += 1


def _config():  # type: ignore[no-untyped-def]
    from transformers import LlamaConfig

    return LlamaConfig()  # that of the 7b


def _most(device: Device, limit: int = 10**6, max_new_tokens: int = 200) -> tuple[int, list[int]]:
    from pipeline.captioning.generation.capacity import most_slots

    tried: list[int] = []

    def rehearse(slots: int) -> None:
        tried.append(slots)
        if slots > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB")

    options = GenerationOptions(max_new_tokens=max_new_tokens)
    return most_slots(device, _config(), 2380, options, rehearse), tried


def test_slots_are_what_memory_holds(backend: Backend) -> None:
    slots, tried = _most(Device("torch", "cuda:0", "bfloat16"))
    # 2 (key, value) x 32 layers x 4096 x 2592 columns x 2 bytes = 1.27 GiB
    assert 40 <= slots <= int(0.92 * 64 / 1.27) and tried == [slots]
    half = Device("torch", "cuda:0", "bfloat16")
    half.__dict__["memory"] = 32 * GIB
    assert _most(half)[0] < 0.5 * slots


def test_the_rehearsal_lowers_what_arithmetic_says(backend: Backend) -> None:
    slots, tried = _most(Device("torch", "npu:0", "bfloat16"), limit=30)
    assert slots == tried[-1] <= 30 and len(tried) > 1
    assert all(more > 30 and less == more * 7 // 8 for more, less in itertools.pairwise(tried))
    assert Device.releases


def test_not_even_one_fits(backend: Backend) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        _most(Device("torch", "cuda:0", "bfloat16"), limit=0)


def test_a_cpu_is_not_filled(backend: Backend) -> None:
    slots, tried = _most(Device("torch", "cpu", "float32"))
    assert 1 <= slots <= 32 and not tried


def test_the_arithmetic_is_that_of_the_cache(backend: Backend) -> None:
    import torch
    from transformers import LlamaConfig

    from pipeline.captioning.generation.engine import cache_columns
    from pipeline.captioning.generation.kv_cache import SlotCache, bytes_per_slot

    config = LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    columns = cache_columns(21, GenerationOptions(max_new_tokens=9))
    assert columns % 16 == 0 and columns >= 21 + 8
    cache = SlotCache(config, 5, columns, [], "cpu", torch.float32)
    size = sum(tensor.numel() * 4 for layer in cache._layers for tensor in layer)
    assert size == 5 * bytes_per_slot(config, columns, 4)
