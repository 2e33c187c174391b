"""How many frames a family samples by default, and the prompts of clips with different numbers of frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning import caption
from pipeline.captioning.captioners.hub.frames import first_frame, largest_clip
from pipeline.captioning.captioners.hub.source import HubSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.process.errors import UsageError
from tests.tiny_families import Family


def _source(folder: Path, *arguments: str) -> HubSource:
    flags = ["meta.csv", "--pretrained_model_name_or_path", str(folder), "--max_new_tokens", "20", *arguments]
    source = caption.make_source(caption.make_parser().parse_args(flags))
    assert isinstance(source, HubSource)
    return source


def _shortened(folder: Path, positions: int, parent: Path) -> Path:
    """A copy of a checkpoint whose text model was made for fewer positions."""
    shutil.copytree(folder, parent / "short")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["max_position_embeddings"] = positions
    (parent / "short/config.json").write_text(json.dumps(config), encoding="utf-8")
    return parent / "short"


def _with_frames(clip: Clip, count: int) -> Clip:
    return replace(clip, frames=clip.frames[:count], frame_index=tuple(range(count)), seconds=clip.seconds[:count])


@pytest.mark.parametrize(
    ("name", "arguments", "sampling"),
    [
        ("llava", "", "points 1"),
        ("llava_next", "", "points 3"),
        ("llava_next_video", "", "uniform 8"),
        ("llava_onevision", "--fps 2 --max_frames 6", "rate 2.0 fps max 6"),
        ("qwen2_vl", "--max_pixels 101000", "rate 2.0 fps max 30 multiple 2"),
        ("qwen2_5_vl", "", "rate 2.0 fps max 14 multiple 2"),
        ("qwen2_vl", "--num_frames 5", "uniform 5 multiple 2"),
        ("blip2_opt", "--num_frames 4", "uniform 4"),
        ("janus", "--num_frames 5 --sampling segments", "5"),
        ("internvl", "--sampling points --num_frames 2", "points 2"),
    ],
)
def test_the_frames(families: dict[str, Family], name: str, arguments: str, sampling: str) -> None:
    assert str(_source(families[name].folder, *arguments.split()).sampling) == sampling


def test_the_default_is_the_largest_number_that_fits(families: dict[str, Family], tmp_path: Path) -> None:
    """A frame of 1280x720 has 52 visual tokens here, and a square one 88: three of these do not fit here."""
    short = _shortened(families["llava_next"].folder, 250, tmp_path)
    source = _source(short, "--question", "?")
    assert str(source.sampling) == "points 2"
    assert "frames: points 2 (more do not fit into the context of the model)" in source.describe()[0]
    assert len(source.prompts.pieces(source.longest, "?")) == 3
    with pytest.raises(UsageError, match=r"the model was made for 250: .*; 264 of the prompt's tokens are visual"):
        _source(short, "--question", "?", "--num_frames", "3")
    with pytest.raises(UsageError, match="the model was made for 250"):
        _source(short, "--question", "? " * 200)


@pytest.mark.parametrize(
    ("name", "text"), [("llava", "<image>\n"), ("internvl", "Frame{}: <img><IMG_CONTEXT></img>\n")]
)
def test_each_clip_has_a_prompt_for_its_number_of_frames(families: dict[str, Family], name: str, text: str) -> None:
    source = _source(families[name].folder, "--fps", "1", "--max_frames", "8", "--question", "What?")
    for count in (1, 3, 8):
        clip = _with_frames(source.longest, count)
        images = "".join(text.format(number) for number in range(1, count + 1))
        assert images + "What?" in source.prompts.text(clip, "What?")
        assert len(source.prompts.pieces(clip, "What?")) == count + 1


def test_tiles_of_internvl_make_images_of_frames(families: dict[str, Family]) -> None:
    folder = families["internvl"].folder
    one, four = _source(folder, "--num_frames", "2"), _source(folder, "--num_frames", "2", "--max_tiles", "4")
    assert one.frame_transform != four.frame_transform
    assert one.longest.frames.shape[:2] == (2, 1)
    assert four.longest.frames.shape[:2] == (2, 5)  # four tiles and the thumbnail
    assert "Frame1: <img>" in one.prompts.text(one.longest, "?") and "Frame1" not in four.prompts.text(
        four.longest, "?"
    )


def test_blip_2_continues_an_empty_prompt_unless_a_question_is_asked(families: dict[str, Family]) -> None:
    source = _source(families["blip2_opt"].folder)
    assert source.prompts.text(source.longest, *source.asks.texts) == ""
    asked = _source(families["blip2_opt"].folder, "--question", "Who?")
    assert asked.prompts.text(asked.longest, *asked.asks.texts) == "Question: Who? Answer:"


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("llava", "--num_frames 3", 3),
        ("llava_next", "--num_frames 2", 10),  # the whole frame and four tiles
        ("llava_onevision", "", 8),
        ("qwen2_5_vl", "--num_frames 6", 3),  # pairs
        ("blip2_t5", "--num_frames 4", 4),
        ("janus", "--num_frames 5", 5),
        ("internvl", "--num_frames 2 --max_tiles 4", 10),  # four tiles and the thumbnail
    ],
)
def test_the_units_of_the_vision_tower_are_counted_without_making_them(
    families: dict[str, Family], name: str, arguments: str, count: int
) -> None:
    source = _source(families[name].folder, *arguments.split())
    family, longest = source._family, source.longest
    assert family.unit_count(longest) == len(family.units(longest)) == count
    frames = np.broadcast_to(longest.frames[:1], (10**8, *longest.frames.shape[1:]))  # too large for a copy
    assert family.unit_count(replace(longest, frames=frames, frame_index=(0,) * 1000)) >= 500


@pytest.mark.parametrize(
    ("name", "arguments", "largest"),
    [
        ("llava_next_video", "--num_frames 8", True),  # 8 frames of 4 tokens; an image has 16 and those of four tiles
        ("llava_onevision", "--num_frames 8", True),
        ("llava_onevision", "--num_frames 64", False),
        ("internvl", "--num_frames 1", True),  # twelve tiles and the thumbnail
        ("internvl", "--num_frames 64", False),
        ("llava_next", "--num_frames 1", False),  # an image is a frame
        ("qwen2_vl", "--num_frames 2", True),  # 1280 tokens, and 256 for two frames
        ("qwen2_vl", "--num_frames 2 --max_pixels 200704", False),
    ],
)
def test_an_image_may_be_longer_than_the_longest_clip(
    families: dict[str, Family], name: str, arguments: str, largest: bool
) -> None:
    """The estimates of memory and the rehearsal use the longer one."""
    source = _source(families[name].folder, *arguments.split())
    family, longest = source._family, source.longest
    found = largest_clip(family, source._prompt, source.generation, longest, 0)
    assert not longest.is_image and found.is_image == largest
    assert largest == (sum(family.prompt_lengths(found)) > sum(family.prompt_lengths(longest)))
    image = first_frame(found)
    assert family.unit_count(found) == len(family.units(found))
    assert len(source.prompts.pieces(image, "?")) == 2 and family.prompts(image) == 1


def test_images_that_do_not_fit_are_no_limit_for_a_run(families: dict[str, Family], tmp_path: Path) -> None:
    """An image of 1440x1440 has 88 visual tokens, and a video of eight frames 32. The image alone fails."""
    source = _source(_shortened(families["llava_next_video"].folder, 80, tmp_path), "--question", "?")
    found = largest_clip(source._family, source._prompt, source.generation, source.longest, 0)
    assert not found.is_image or sum(source._family.prompt_lengths(found)) < 88


@pytest.mark.parametrize(
    ("name", "video", "image"),
    [
        ("llava_next_video", "<video>", "<image>"),
        ("llava_onevision", "<video>", "<image>"),
        ("qwen2_5_vl", "<|video_pad|>", "<|image_pad|>"),
        ("internvl", "Frame1: <img><IMG_CONTEXT></img>", "<img><IMG_CONTEXT></img>"),
        ("janus", "<image_placeholder>", "<image_placeholder>"),
    ],
)
def test_the_prompt_of_an_image_has_its_placeholder(
    families: dict[str, Family], name: str, video: str, image: str
) -> None:
    source = _source(families[name].folder, "--question", "What?", "--num_frames", "2")
    still = first_frame(source.longest)
    of_video, of_image = (source.prompts.text(clip, "What?") for clip in (source.longest, still))
    assert video in of_video and image in of_image and of_image.count(image) == 1
    assert (video in of_image) == (video == image) and of_image.count("What?") == 1
    prefix = source.prompts.shared_prefix
    for clip in (source.longest, still):
        assert tuple(source.prompts.pieces(clip, "What?")[0][: len(prefix)]) == prefix


def test_limits_of_images(families: dict[str, Family]) -> None:
    def pixels(*arguments: str) -> tuple[int, int]:
        transform: Any = _source(families["qwen2_vl"].folder, "--num_frames", "2", *arguments).image_transform
        return transform.min_pixels // 784, transform.max_pixels // 784

    assert pixels() == (256, 1280)
    assert pixels("--min_pixels", "3136", "--max_pixels", "12544") == (4, 16)
    assert pixels("--max_pixels", str(784 * 150)) == (150, 150)
    assert pixels("--min_pixels", str(784 * 200)) == (200, 1280)
    tiles: list[Any] = [
        _source(families["internvl"].folder, "--num_frames", "2", *arguments.split()).image_transform
        for arguments in ("", "--max_tiles 1", "--max_tiles 6")
    ]
    assert [(tile.crop_to_patches, tile.max_patches) for tile in tiles] == [(True, 12), (False, 1), (True, 6)]


def test_journals_of_tables_with_images_depend_on_how_images_are_prepared(families: dict[str, Family]) -> None:
    def fingerprints(name: str, arguments: str = "") -> tuple[str, str]:
        source = _source(families[name].folder, "--num_frames", "2", *arguments.split())
        return str(source.fingerprint()), str(source.image_fingerprint())

    default, one_tile = fingerprints("internvl"), fingerprints("internvl", "--max_tiles 1")
    assert default[0] == one_tile[0] and default[1] != one_tile[1]
    assert fingerprints("qwen2_vl")[1] != fingerprints("qwen2_vl", "--max_pixels 101000")[1]
    assert fingerprints("llava_onevision")[1] != fingerprints("llava_onevision", "--question What?")[1]
