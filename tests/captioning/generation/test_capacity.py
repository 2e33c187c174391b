"""`--bs auto` and the size of a vision chunk: from the configuration, or from the peak of a rehearsal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from tests.out_of_memory import ASCEND_OUT_OF_MEMORY

pytestmark = pytest.mark.model
GIB = 2**30


class Device(Backend):
    """A device with a given memory size; a rehearsal sets `used` to the bytes that it takes."""

    memory = 64 * GIB
    used = 0

    def available_memory(self) -> int:
        return self.memory

    def release_memory(self) -> None:
        pass

    def peak_during(self, work: Callable[[], None]) -> int:
        Device.used = 0
        work()
        return Device.used


SLOT, WORK = GIB, 6 * GIB
ESTIMATE = (GIB, 2 * GIB)


CUDA_OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20 MiB"


def _max_slots(
    device: Device, fitting: int = 10**6, beams: int = 1, prefill_clips: int = 3, error: str = CUDA_OUT_OF_MEMORY
) -> tuple[int, list[int]]:
    """Number of slots, and the numbers of clips that were rehearsed.

    A clip takes SLOT bytes, a prefill WORK bytes. A rehearsal of more than `fitting` clips fails with `error`.
    """
    from pipeline.captioning.generation.capacity import MemoryEstimate, max_slots

    rehearsed: list[int] = []

    def rehearse(clips: int) -> None:
        rehearsed.append(clips)
        if clips > fitting:
            raise RuntimeError(error)
        Device.used = WORK + clips * SLOT * beams

    return max_slots(device, MemoryEstimate(*ESTIMATE), beams, prefill_clips, rehearse), rehearsed


def test_an_accelerator_divides_the_memory_that_a_rehearsal_leaves(backend: Backend) -> None:
    slots, rehearsed = _max_slots(Device("torch", "cuda:0", "bfloat16"))
    assert (slots, rehearsed) == (int(0.92 * 64) - 6, [3])
    half = Device("torch", "npu:0", "bfloat16")
    half.__dict__["memory"] = 32 * GIB
    assert _max_slots(half)[0] == int(0.92 * 32) - 6


def test_beams_are_rehearsed(backend: Backend) -> None:
    slots, rehearsed = _max_slots(Device("torch", "cuda:0", "bfloat16"), beams=4)
    assert (slots, rehearsed) == (int(0.92 * 64 - 6) // 4, [1, 2])


def test_beams_of_two_clips_that_do_not_fit(backend: Backend) -> None:
    assert _max_slots(Device("torch", "cuda:0", "bfloat16"), fitting=1, beams=4) == (1, [1, 2])


def test_a_rehearsal_that_does_not_fit_is_tried_with_one_clip(backend: Backend) -> None:
    for error in ASCEND_OUT_OF_MEMORY:
        ascend = Device("mindspore", "npu:0", "bfloat16")
        assert _max_slots(ascend, fitting=2, error=error) == (int(0.92 * 64) - 6, [3, 1]), error
        assert _max_slots(ascend, fitting=1, beams=4, error=error) == (1, [1, 2]), error
    with pytest.raises(RuntimeError, match="out of memory"):
        _max_slots(Device("torch", "cuda:0", "bfloat16"), fitting=0)


def test_on_a_cpu_the_estimate_decides_without_a_rehearsal(backend: Backend) -> None:
    slots, rehearsed = _max_slots(Device("torch", "cpu", "float32"))
    assert (slots, rehearsed) == (32, [])
    small = Device("torch", "cpu", "float32")
    small.__dict__["memory"] = 10 * GIB
    assert _max_slots(small)[0] == int(0.92 * 10) - 2


def test_the_size_of_a_vision_chunk_depends_only_on_device_and_memory(backend: Backend) -> None:
    from pipeline.captioning.generation.capacity import frames_together

    device = Device("torch", "cuda:0", "bfloat16")
    assert frames_together(device, GIB // 8) == 16
    assert frames_together(device, 1000 * GIB) == 1
    assert frames_together(device, 1000) == 64
    assert frames_together(Device("torch", "cpu", "float32"), 1000) == 16


def test_the_estimate_is_the_size_of_the_cache(backend: Backend) -> None:
    import torch
    from transformers import LlamaConfig

    from pipeline.captioning.generation.capacity import slot_memory
    from pipeline.captioning.generation.kv_cache import CacheShape, SlotCache, bytes_per_slot

    config = LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    shape = CacheShape.for_lengths(5, 4, 17, 9)
    assert shape.columns % 16 == 0 and shape.ring == 8 and shape.prompt >= 17
    cache = SlotCache(config, shape, [], "cpu", torch.float32)
    size = sum(tensor.numel() * 4 for layer in cache._layers for tensor in layer)
    assert size == 5 * bytes_per_slot(config, shape.columns, 4)
    # 2 (key, value) x 32 layers x 4096 x 2592 columns x 2 bytes = 1.27 GiB
    assert slot_memory(LlamaConfig(), 2380, GenerationOptions(max_new_tokens=200), 2) == pytest.approx(1.27 * GIB, 0.01)


def test_memory_of_opt(backend: Backend) -> None:
    """opt-2.7b: 32 layers of 32 heads, no grouped keys, an MLP of 10240."""
    from transformers import OPTConfig

    from pipeline.captioning.generation.capacity import prefill_memory, slot_memory

    config = OPTConfig(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10240, vocab_size=50272)
    # 38 prompt tokens and 10 new ones, the last of which is not fed: 47 columns, rounded up to 48
    cache = 2 * 32 * 2560 * 48 * 2
    assert slot_memory(config, 38, GenerationOptions(max_new_tokens=10), 2) == cache + 50272 * 14
    work = 3 * 38 * (3 * 10240 + 8 * 2560) * 2
    assert prefill_memory(config, 3 * 38, 2) == work
    assert prefill_memory(config, 3 * 38, 2, eager_length=38) == work + 3 * 32 * 38**2 * (4 + 4 + 2)


def test_memory_of_t5_is_the_size_of_its_caches(backend: Backend) -> None:
    """The cache of transformers after `generate`: all tokens but the last, and the encoder's output in each layer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from pipeline.captioning.generation.capacity import prefill_memory, slot_memory

    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    config = T5Config(**sizes, vocab_size=64, decoder_start_token_id=0, eos_token_id=64)
    length, new_tokens = 11, 7
    output = T5ForConditionalGeneration(config).generate(
        inputs_embeds=torch.ones(1, length, 32),
        attention_mask=torch.ones((1, length), dtype=torch.int64),
        max_new_tokens=new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
    )
    caches = (output.past_key_values.self_attention_cache, output.past_key_values.cross_attention_cache)
    size = sum(
        tensor.numel() * 4 for cache in caches for layer in cache.layers for tensor in (layer.keys, layer.values)
    )
    assert size == 2 * 3 * 4 * 6 * (length + new_tokens) * 4  # layers, heads, head width, columns, bytes
    slot = slot_memory(config, length, GenerationOptions(max_new_tokens=new_tokens), 4)
    assert slot == size + length * 32 * 4 + 64 * (4 + 12)
    assert prefill_memory(config, 50, 4) == 50 * (3 * 48 + 8 * 32) * 4


def test_memory_of_qwen2_5_vl(backend: Backend) -> None:
    """Qwen2.5-VL-3B: 36 layers of 2 key heads of width 128, an MLP of 11008."""
    from transformers import Qwen2_5_VLConfig

    from pipeline.captioning.generation.capacity import prefill_memory, slot_memory

    text = {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
    config = Qwen2_5_VLConfig(text_config={**text, "intermediate_size": 11008, "vocab_size": 151936}).get_text_config()
    # 650 prompt tokens and 199 fed ones: 849 columns, rounded up to 864
    cache = 2 * 36 * 2 * 128 * 864 * 2
    assert slot_memory(config, 650, GenerationOptions(max_new_tokens=200), 2) == cache + 151936 * 14
    assert prefill_memory(config, 650, 2) == 650 * (3 * 11008 + 8 * 2048) * 2
