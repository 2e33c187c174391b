"""Every family on the emulated NPU: no operator mixes devices, and mindnlp has all operators for NPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning import caption
from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Captioner, CaptionerSource
from pipeline.captioning.clips.clip import Clip
from scripts.worker_loop import LoadedClips, generated_ids
from tests import tiny_families
from tests.golden import token_ids
from tests.npu_emulation import emulated_npu
from tests.tiny_families import Family
from tests.tiny_llava_qwen import Checkpoints

pytestmark = [pytest.mark.model, pytest.mark.mindspore_only]

_FRAMES = 3  # odd, so that Qwen repeats the last one
_FLAGS = ("--num_frames", str(_FRAMES), "--max_new_tokens", "4")
_QUESTION = ("--question", "What is it?")
_SHAPES = ((60, 90, 3), (90, 60, 2), (60, 90, 1))
"""Height, width and number of distinct frames of each clip."""
_FAMILY_FLAGS = dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), ("--min_pixels", "3136", "--max_pixels", "19600"))
"""Few visual tokens: 2 x 3 and 3 x 2 a frame, which is no multiple of a window of Qwen2.5-VL."""


def _source(folder: Path, *flags: str) -> CaptionerSource:
    flags = ("meta.csv", "--pretrained_model_name_or_path", str(folder), *_FLAGS, *flags)
    return caption.make_source(caption.make_parser().parse_args(flags))


def _clips(source: CaptionerSource) -> list[Clip]:
    rng, clips = np.random.default_rng(0), []
    for row, (height, width, distinct) in enumerate(_SHAPES):
        images = [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(distinct)]
        index = tuple(min(frame, distinct - 1) for frame in range(_FRAMES))
        seconds = tuple(frame / 2 for frame in range(_FRAMES))
        frames = source.frame_transform(images)
        clips.append(Clip(row, "", frames, index, seconds=seconds, duration=2.0, size=(height, width)))
    return clips


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_captions_mix_no_devices_and_lack_no_operator(name: str, families: dict[str, Family], backend: Backend) -> None:
    _check(_source(families[name].folder, *_QUESTION, *_FAMILY_FLAGS.get(name, ())), backend)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_questions_that_follow_each_other_and_still_images(
    name: str, families: dict[str, Family], backend: Backend
) -> None:
    asks = ("--ask", "a=What is it?", "--ask", "b=Which colours does it have, and which shapes?")
    source = _source(families[name].folder, *asks, *_FAMILY_FLAGS.get(name, ()))
    assert source.image_transform is not None
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 50, 3), np.uint8))
    still = Clip(3, "", source.image_transform([image]), (0,), size=(70, 50), seconds=(0.0,), is_image=True)
    clips = [*_clips(source), still]
    expected = generated_ids(source.load(backend), LoadedClips(clips), backend, 2, asks=source.asks)
    assert len(expected) == 2 * len(clips)
    with emulated_npu() as npu:
        captioner: Captioner = source.load(npu)
        assert generated_ids(captioner, LoadedClips(clips), npu, 2, asks=source.asks) == expected
        captioner.max_slots()


def test_llava_video(llava_video: Checkpoints, backend: Backend) -> None:
    folder = llava_video.folder
    _check(_source(folder / "checkpoint", "--vision_tower", str(folder / "siglip"), *_QUESTION), backend)


def _check(source: CaptionerSource, backend: Backend) -> None:
    clips = _clips(source)
    expected = token_ids(source.load(backend), clips, slots=2)
    assert len(set(map(tuple, expected))) > 1, "the clips must have different captions"
    with emulated_npu() as npu:
        captioner: Captioner = source.load(npu)
        found = token_ids(captioner, clips, slots=2)
        captioner.max_slots()  # runs a rehearsal
    assert found == expected
