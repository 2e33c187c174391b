"""The model in cases that the golden outputs do not cover: other frames, pooling shapes and text models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks
from tests.golden import DATA, LORA_ALPHA, QUESTION, token_ids, whole_prompts
from tests.npu_emulation import missing_on_npu

if TYPE_CHECKING:
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

pytestmark = pytest.mark.model


def _captioner(backend: Backend, pooling: tuple[int, int, int], **generation: float) -> PllavaCaptioner:
    options = PllavaOptions(DATA / "mini-a", 4, Asks.single(QUESTION), "", pooling, lora_alpha=LORA_ALPHA)
    source = PllavaSource(options, GenerationOptions(max_new_tokens=12, **generation))  # type: ignore[arg-type]
    return source.load(backend)


def _clip(row: int, frames: int, index: tuple[int, ...]) -> Clip:
    rng = np.random.default_rng(row)
    return Clip(row, "", rng.integers(0, 256, (frames, 336, 336, 3), np.uint8), index)


def test_pooling_is_adaptive_average_pooling(backend: Backend) -> None:
    """The reference is numpy's mean over the windows that `AdaptiveAvgPool3d` documents."""
    captioner = _captioner(backend, (3, 5, 7))
    clip = _clip(0, 2, (0, 0, 1, 1, 1))
    import torch

    processor = captioner._source.frame_processor
    with torch.no_grad():
        pixels = captioner._model.pixel_values(torch.from_numpy(clip.frames), processor.mean, processor.std)
        features = captioner._model.frame_features(pixels).numpy()
    stack = features.reshape(2, 24, 24, -1)[list(clip.frame_index)]
    windows = [[(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in ((5, 3), (24, 5), (24, 7))]
    expected = np.stack(
        [
            stack[t0:t1, y0:y1, x0:x1].mean((0, 1, 2))
            for t0, t1 in windows[0]
            for y0, y1 in windows[1]
            for x0, x1 in windows[2]
        ]
    )
    np.testing.assert_allclose(captioner.visual_tokens([clip])[0].numpy(), expected, atol=1e-4)


def test_pixels_equal_those_of_clips_processor(backend: Backend) -> None:
    """Bit-identical: CLIP scales in float64, rounds to float32, then applies mean and deviation in float32."""
    import torch

    captioner = _captioner(backend, (1, 4, 4))
    processor = captioner._source.frame_processor
    frames = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    mean, std = np.asarray(processor.mean, np.float32), np.asarray(processor.std, np.float32)
    expected = ((frames * (1 / 255)).astype(np.float32) - mean) / std
    pixels = captioner._model.pixel_values(torch.from_numpy(frames), processor.mean, processor.std)
    np.testing.assert_array_equal(pixels.numpy(), expected.transpose(0, 3, 1, 2))


def test_batches_and_single_clips_give_the_same_captions(backend: Backend) -> None:
    captioner = _captioner(backend, (4, 6, 6))
    clips = [_clip(0, 4, (0, 1, 2, 3)), _clip(1, 1, (0, 0, 0, 0)), _clip(2, 3, (0, 1, 1, 2))]
    together = token_ids(captioner, clips)
    assert together == [token_ids(captioner, [clip])[0] for clip in clips] == token_ids(captioner, clips, slots=2)
    from pipeline.captioning.captioners.pllava.captioner import PllavaCaptioner

    without_prefix = PllavaCaptioner(captioner._source, captioner._model, backend, share_prefix=False)
    assert token_ids(without_prefix, clips) == together


def test_the_vision_tower_runs_on_chunks_of_frames(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = _captioner(backend, (4, 6, 6))
    clips = [_clip(0, 4, (0, 1, 2, 3)), _clip(1, 1, (0, 0, 0, 0)), _clip(2, 3, (0, 1, 1, 2))]
    expected = captioner.visual_tokens(clips).numpy()
    chunk_sizes: list[int] = []
    original = captioner._model.frame_features

    def counting(pixel_values):  # type: ignore[no-untyped-def]
        chunk_sizes.append(len(pixel_values))
        return original(pixel_values)

    monkeypatch.setattr(captioner._model, "frame_features", counting)
    monkeypatch.setattr(captioner, "_units_together", 3)
    np.testing.assert_allclose(captioner.visual_tokens(clips).numpy(), expected, atol=1e-4)
    assert chunk_sizes == [3, 3, 2]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_rehearsal_runs_prefill_and_decoding(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, num_beams: int
) -> None:
    captioner = _captioner(backend, (1, 4, 4), num_beams=num_beams)
    original, engine = captioner.visual_tokens, captioner.engine(2)
    batch_sizes: list[int] = []
    monkeypatch.setattr(captioner, "visual_tokens", lambda clips: batch_sizes.append(len(clips)) or original(clips))
    monkeypatch.setattr(captioner, "engine", lambda slots: engine)
    captioner._rehearse(2)
    assert batch_sizes == [2] and engine.stats.decode_tokens > 1
    monkeypatch.undo()
    assert captioner.stages()["vision_seconds"] == 0, "a rehearsal must not change the figures of the stages"
    assert captioner.max_slots() == 32


@pytest.mark.parametrize("num_beams", [1, 2])
def test_penalties_have_the_same_effect_as_in_transformers(backend: Backend, num_beams: int) -> None:
    import torch

    rules = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}
    captioner = _captioner(backend, (1, 4, 4), num_beams=num_beams, **rules)
    clip = _clip(1, 2, (0, 0, 1, 1))
    embeddings = whole_prompts(captioner, [clip])
    with torch.no_grad():
        expected = captioner._model.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
            max_new_tokens=12,
            num_beams=num_beams,
            do_sample=False,
            eos_token_id=list(captioner._source.stop_ids),
            pad_token_id=0,
            **rules,
        )
    found = token_ids(captioner, [clip])
    assert found[0] == expected[0].numpy().tolist()[: len(found[0])]
    assert found != token_ids(_captioner(backend, (1, 4, 4), num_beams=num_beams), [clip]), "the rules have no effect"


def test_sampling_depends_only_on_row_and_seed(backend: Backend) -> None:
    clips = [_clip(row, 1, (0, 0, 0, 0)) for row in range(3)]
    first = _captioner(backend, (1, 4, 4), do_sample=True, seed=1)
    together = token_ids(first, clips)
    assert together[::-1] == token_ids(first, clips[::-1])
    assert together[1] == token_ids(first, [clips[1]])[0]
    assert together != token_ids(_captioner(backend, (1, 4, 4), do_sample=True, seed=2), clips)
    assert together != token_ids(_captioner(backend, (1, 4, 4)), clips)


def test_models_with_grouped_queries_and_a_tied_head_generate(tmp_path: Path, backend: Backend) -> None:
    import json
    import shutil

    from safetensors.numpy import save_file

    from pipeline.captioning.captioners.loading import meta_model, weight_shapes
    from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration

    shutil.copytree(DATA / "mini-a-merged", tmp_path / "grouped")
    (tmp_path / "grouped" / "model.safetensors").unlink()
    path = tmp_path / "grouped" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
    path.write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    shapes = weight_shapes(meta_model(PllavaForConditionalGeneration, PllavaConfig.from_dict(config)))
    save_file(
        {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()},
        tmp_path / "grouped" / "model.safetensors",
    )
    options = PllavaOptions(tmp_path / "grouped", 2, Asks.single(QUESTION), "", (2, 4, 4))
    captioner = PllavaSource(options, GenerationOptions(max_new_tokens=5)).load(backend)
    clips = [_clip(0, 2, (0, 1)), _clip(1, 2, (0, 1))]
    assert token_ids(captioner, clips)[1] == token_ids(captioner, clips[1:])[0]


@pytest.mark.mindspore_only
def test_mindnlp_has_every_operator_on_ascend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator that mindnlp dispatches by name during captioning must be in its table for NPUs.

    The replacements for the CPU are not used, as on Ascend.
    """
    import mindtorch.dispatcher

    from pipeline.captioning.backends import kernels
    from tests.golden import KERNELS, default_kernels

    dispatched: set[str] = set()
    found = []
    dispatcher = type(mindtorch.dispatcher.dispatcher)
    original = dispatcher.dispatch

    def recording(self, name, *args, **kwargs):  # type: ignore[no-untyped-def]
        dispatched.add(name)
        return original(self, name, *args, **kwargs)

    dispatcher.dispatch = recording
    for name in KERNELS:
        monkeypatch.setattr(kernels, name, getattr(default_kernels(), name))
    try:
        clips = [_clip(0, 4, (0, 1, 2, 3)), _clip(1, 1, (0, 0, 0, 0)), _clip(2, 4, (0, 1, 2, 3))]
        penalties = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
        for generation in ({}, {"num_beams": 2}, {"do_sample": True, "top_p": 0.9}, penalties):
            captioner = _captioner(backend, (4, 4, 4), **generation)
            found.append(token_ids(captioner, clips, slots=2))
    finally:
        dispatcher.dispatch = original
    monkeypatch.undo()
    # The default operators, which run on Ascend, must give the same captions.
    assert found[0] == token_ids(_captioner(backend, (4, 4, 4)), clips)
    assert len(dispatched) > 40
    # On Ascend mindnlp runs torch's attention as `flash_attention_score`.
    missing = {name for name in dispatched | {"flash_attention_score"} if missing_on_npu(name)}
    # On an NPU mindnlp runs indexing as `index`.
    assert missing <= {"getitem"}, [missing_on_npu(name) for name in missing]
    assert not missing_on_npu("index")
