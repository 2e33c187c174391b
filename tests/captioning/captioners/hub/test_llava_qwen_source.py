"""LLaVA-Video in its publishers' layout through the command: frames, prompts, tokens, limits and usage errors.

The checkpoint is tiny and random; the reference is in `tests/tiny_llava_qwen.py`.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning import caption
from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_qwen_source import prompt_times
from pipeline.captioning.captioners.hub.source import HubSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.frames import distinct_frames
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.process.errors import UsageError
from scripts.llava_video_golden import checkpoint
from tests import tiny_llava_qwen
from tests.fakes import render_clip
from tests.golden import token_ids
from tests.tiny_llava_qwen import CASES, NEW_TOKENS, QUESTION, VIDEOS, Case, Checkpoints

pytestmark = pytest.mark.model

COMMAND = Path(__file__).parents[4] / "pipeline" / "captioning" / "caption.py"


def _source(folder: Path, tower: Path | None, *arguments: str) -> HubSource:
    flags = [] if tower is None else ["--vision_tower", str(tower)]
    parsed = caption.make_parser().parse_args(
        ["meta.csv", "--pretrained_model_name_or_path", str(folder), *flags, *arguments]
    )
    source = caption.make_source(parsed)
    assert isinstance(source, HubSource)
    return source


def _clips(source: HubSource) -> list[Clip]:
    """The clips of VIDEOS, as the decoding processes make them."""
    clips = []
    for row, video in enumerate(VIDEOS):
        positions = source.sampling.indices(video.total_frames, video.rate)
        distinct, index = distinct_frames(positions)
        frames = source.frame_transform([video.frame(number) for number in distinct])
        seconds = tuple(position / video.rate for position in positions)
        about = seconds, video.total_frames / video.rate, video.size[::-1], video.rate
        clips.append(Clip(row, "", frames, index, False, *about))
    return clips


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.pool_mode}-{case.newlines}" for case in CASES])
def test_tokens_are_those_of_transformers(
    number: int, llava_video: Checkpoints, tmp_path: Path, backend: Backend
) -> None:
    """Eight clips of mixed sizes and lengths over three slots, with the penalty of generation_config.json."""
    if backend.framework == "mindspore" and number:
        pytest.skip("slower on MindSpore, where the recorded outputs have one case of each mode")
    case: Case = CASES[number]
    folder = checkpoint(tmp_path, llava_video.folder / case.layout, case.config)
    frames = ["--fps", str(case.fps), "--max_frames", "4"] if case.fps else ["--num_frames", "4"]
    arguments = ["--question", QUESTION, "--max_new_tokens", str(NEW_TOKENS), *frames]
    source = _source(folder, llava_video.folder / "siglip", *arguments)
    assert source.generation.repetition_penalty == tiny_llava_qwen.PENALTY
    captioner = source.load(backend)
    assert token_ids(captioner, _clips(source), slots=3) == llava_video.expected[number]


def test_the_command_captions_a_table(llava_video: Checkpoints, tmp_path: Path, backend: Backend) -> None:
    if backend.framework == "mindspore":
        pytest.skip("the same process on both frameworks; the starts of MindSpore take long")
    sizes = [(96, 64), (64, 96), (160, 96)]
    paths = [render_clip(tmp_path / f"{i}.mp4", i, frames=5 + 9 * i, size=size) for i, size in enumerate(sizes)]
    (tmp_path / "meta.csv").write_text("\n".join(["path", *map(str, paths), "missing.mp4"]), encoding="utf-8")
    arguments = ["--vision_tower", str(llava_video.folder / "siglip"), "--num_frames", "3", "--max_new_tokens", "8"]
    arguments += ["--pretrained_model_name_or_path", str(llava_video.folder / "checkpoint"), "--bs", "2"]
    done = subprocess.run(
        [sys.executable, str(COMMAND), "meta.csv", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "family llava_qwen: architecture LlavaQwenForCausalLM in config.json" in done.stderr
    assert "frames: uniform 3" in done.stderr and "repetition penalty 1.05 (generation_config.json)" in done.stderr
    with (tmp_path / "meta_caption.csv").open(encoding="utf-8", newline="") as file:
        captioned = [row["path"] for row in csv.DictReader(file) if row["text"]]
    assert captioned == [str(path) for path in paths]


def test_frames_and_prompts_of_the_model_card_by_default(llava_video: Checkpoints) -> None:
    source = _source(llava_video.folder / "checkpoint", llava_video.folder / "siglip")
    assert source.sampling == FrameSampling("uniform", 64)
    assert any("<image>[time instruction]\\nDescribe the video in details." in line for line in source.describe())
    clip = Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), (0, 0), seconds=(0.0, 1.96), duration=2.0, rate=25.0)
    assert source.prompts.text(clip, *source.asks.texts) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>The video lasts for 2.00 "
        "seconds, and 2 frames are uniformly sampled from it. These frames are located at 0.00s,1.96s.Please answer "
        "the following questions related to this video.\nDescribe the video in details.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_system_prompt_of_a_request(llava_video: Checkpoints) -> None:
    """It makes the tokens of a run with `--system`, with times of frames and without."""
    flags = llava_video.folder / "checkpoint", llava_video.folder / "siglip", "--num_frames", "2"
    source, watching = _source(*flags), _source(*flags, "--system", "Watch.")
    assert source.images_are_frames and not source.prompts.has_images
    timed = Clip(0, "", np.zeros((2, 1, 1, 3), np.uint8), (0, 1), seconds=(0.0, 1.0), duration=2.0, rate=1.0)
    for clip in (timed, replace(timed, seconds=(), duration=0.0, rate=0.0)):
        assert source.prompts.pieces(clip, "Who?", "Watch.") == watching.prompts.pieces(clip, "Who?")
        assert watching.prompts.pieces(clip, "Who?", "") == source.prompts.pieces(clip, "Who?")
        assert source.prompts.text(clip, "Who?", "Watch.").startswith("<|im_start|>system\nWatch.<|im_end|>\n")


def test_the_flag_replaces_the_penalty_of_the_checkpoint(llava_video: Checkpoints) -> None:
    source = _source(llava_video.folder / "checkpoint", llava_video.folder / "siglip", "--repetition_penalty", "1")
    assert source.generation.penalty == 1
    assert not any("penalty" in line for line in source.describe())


def test_no_times_without_a_frame_rate_or_if_the_config_wants_none(llava_video: Checkpoints, tmp_path: Path) -> None:
    clip = Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), (0, 0), seconds=(0.0, 0.0))
    source = _source(llava_video.folder / "checkpoint", llava_video.folder / "siglip")
    assert "<|im_start|>user\n<image>\nDescribe" in source.prompts.text(clip, *source.asks.texts)
    folder = checkpoint(tmp_path, llava_video.folder / "checkpoint", {"add_time_instruction": False})
    timed = Clip(0, "", clip.frames, (0, 0), seconds=(0.0, 1.0), duration=2.0, rate=1.0)
    assert "<image>\nDescribe" in _source(folder, llava_video.folder / "siglip").prompts.text(timed, "Describe")


# The step branch of the public program writes index / step; the uniform branch writes index / rate.
@pytest.mark.parametrize(
    ("sampling", "total_frames", "rate", "times"),
    [
        (FrameSampling("step", 0, 1.0, 64), 120, 29.97, [0, 1, 2, 3]),
        (FrameSampling("step", 0, 2.0, 64), 75, 29.97, [0, 1, 2, 3, 4]),
        (FrameSampling("step", 0, 1.0, 4), 40, 10.0, [0, 1, 2, 3]),
        (FrameSampling("step", 0, 1.0, 4), 41, 10.0, [0, 1.3, 2.6, 4]),
        (FrameSampling("step", 0, 1.0, 5), 61, 10.0, [0, 1.5, 3, 4.5, 6]),
        (FrameSampling("step", 0, 1.0, 1), 61, 10.0, [0]),
        (FrameSampling("step", 0, 1.0, 4), 1, 10.0, [0]),
        (FrameSampling("uniform", 3), 41, 10.0, [0, 2, 4]),
        (FrameSampling("rate", 0, 2.0, 64), 8, 4.0, [0, 0.5, 1.25, 1.75]),
    ],
)
def test_times_in_the_prompt(sampling: FrameSampling, total_frames: int, rate: float, times: list[float]) -> None:
    seconds = tuple(position / rate for position in sampling.indices(total_frames, rate))
    clip = Clip(0, "", np.zeros(1), (0,), seconds=seconds, duration=total_frames / rate, rate=rate)
    assert prompt_times(clip, sampling) == pytest.approx(times)


@pytest.mark.parametrize(
    ("arguments", "sampling"),
    [
        ("--fps 2", FrameSampling("step", 0, 2.0, 64)),
        ("--fps 0.5 --max_frames 16", FrameSampling("step", 0, 0.5, 16)),
        ("--fps 2 --sampling rate --max_frames 16", FrameSampling("rate", 0, 2.0, 16)),
        ("--num_frames 32", FrameSampling("uniform", 32)),
        ("--sampling segments", FrameSampling("segments", 64)),
    ],
)
def test_flags_of_the_frames(llava_video: Checkpoints, arguments: str, sampling: FrameSampling) -> None:
    source = _source(llava_video.folder / "checkpoint", llava_video.folder / "siglip", *arguments.split())
    assert source.sampling == sampling


def test_the_longest_prompt_is_refused_with_its_numbers(llava_video: Checkpoints, tmp_path: Path) -> None:
    short = checkpoint(tmp_path, llava_video.folder / "checkpoint", {"tokenizer_model_max_length": 1500})
    siglip = llava_video.folder / "siglip"
    _source(short, siglip, "--num_frames", "10")
    with pytest.raises(
        UsageError, match=r"make \d+; the model was made for 1500.*; 768 of the prompt's tokens are vis"
    ):
        _source(short, siglip, "--num_frames", "64")
    assert 10 <= _source(short, siglip).sampling.num_frames < 64  # the default is reduced to what fits
    with pytest.raises(UsageError, match=r"100 new tokens make \d+; the model was made for 32768.*; 28800 of the"):
        _source(llava_video.folder / "checkpoint", siglip, "--num_frames", "2400", "--max_new_tokens", "100")


def test_the_weights_of_the_checkpoint_replace_those_of_the_towers_folder(llava_video: Checkpoints) -> None:
    own = _source(llava_video.folder / "checkpoint", llava_video.folder / "siglip").weights
    separate = _source(llava_video.folder / "checkpoint-no-tower", llava_video.folder / "siglip").weights
    name = "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
    assert own.read(name).shape == separate.read(name).shape
    assert not np.array_equal(own.read(name), separate.read(name))


def test_the_fingerprint_covers_the_towers_folder(llava_video: Checkpoints, tmp_path: Path) -> None:
    folder, siglip = llava_video.folder / "checkpoint", llava_video.folder / "siglip"
    other = tmp_path / "siglip"
    other.mkdir()
    (other / "model.safetensors").symlink_to(siglip / "model.safetensors")
    config = json.loads((siglip / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config["vision_config"] | {"num_attention_heads": 4}))
    known, changed = (dict(_source(folder, tower).fingerprint()) for tower in (siglip, other))
    assert {key for key in known if known[key] != changed[key]} == {"vision tower"}


def test_a_local_folder_in_the_config_is_the_tower(llava_video: Checkpoints, tmp_path: Path) -> None:
    siglip = llava_video.folder / "siglip"
    folder = checkpoint(tmp_path, llava_video.folder / "checkpoint-no-tower", {"mm_newline_position": "grid"})
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": str(siglip)}
    (folder / "config.json").write_text(json.dumps(config))
    _source(folder, None).check_weights()


def test_a_relative_folder_in_the_config_is_in_the_checkpoint(
    llava_video: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of this name in the current directory is not the tower."""
    folder = checkpoint(tmp_path, llava_video.folder / "checkpoint-no-tower", {"mm_newline_position": "grid"})
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "siglip"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(llava_video.folder)
    with pytest.raises(UsageError, match="the vision tower siglip is not known; give its folder as --vision_tower"):
        _source(folder, None)
    shutil.copytree(llava_video.folder / "siglip", folder / "siglip")
    _source(folder, None).check_weights()


def test_the_published_tower_needs_no_folder_if_the_checkpoint_has_its_weights(
    llava_video: Checkpoints, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, llava_video.folder / "checkpoint", {"mm_hidden_size": 1152})
    clip = Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), (0,) * 64)
    source = _source(folder, None)
    assert source.frame_transform([VIDEOS[0].frame(0)]).shape == (1, 384, 384, 3)
    assert source._family.block_lengths(clip) == [64 * 14 * 15]
    vision = source._empty_model().config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size) == (26, 1152)


def _tower(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_usage_errors(llava_video: Checkpoints, tmp_path: Path) -> None:
    folder, siglip = llava_video.folder / "checkpoint", llava_video.folder / "siglip"
    clip_tower = _tower(tmp_path / "clip", {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}})
    short = _tower(tmp_path / "short", {"model_type": "siglip_vision_model", "hidden_size": 24, "image_size": 70})
    published = {"mm_hidden_size": 1152}  # the tower that needs no folder, if the checkpoint has its weights
    no_tower = checkpoint(tmp_path, llava_video.folder / "checkpoint-no-tower", published)
    for checkpoint_folder, tower, message in (
        (no_tower, None, "has no weights of its vision tower google/siglip-so400m-patch14-384; give the folder"),
        (folder, tmp_path / "none", "folder of --vision_tower, .*none, does not exist; nothing is downloaded"),
        (folder, tmp_path, "is not a checkpoint: it has no config.json"),
        (folder, clip_tower, "model_type is 'clip_vision_model'; a vision tower has 'siglip_vision_model'"),
        (folder, short, "the vision tower has no intermediate_size, num_hidden_layers, num_attention_heads, patch_s"),
        (folder, None, "mm_hidden_size is 24, but the vision tower has 1152; give the tower's own folder as --vision"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            _source(checkpoint_folder, tower)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="<image>"):
        _source(folder, siglip, "--question", "What is in <image>?")


def test_other_families_refuse_the_flag(llava_video: Checkpoints, tmp_path: Path) -> None:
    other = _tower(tmp_path / "llava", {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"})
    with pytest.raises(UsageError, match=r"--vision_tower .* is not for the family llava, only for llava_qwen"):
        _source(other, llava_video.folder / "siglip")
