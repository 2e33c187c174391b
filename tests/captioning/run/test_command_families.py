"""`caption.py`: usage errors of all families, and PLLaVA behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.captioning import caption, caption_pllava
from pipeline.captioning.captioners.base import CaptionerSource
from pipeline.captioning.captioners.hub import build
from pipeline.captioning.journal.folder import journal_folder
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.run.fingerprints import COMPUTING_TYPE
from tests import tiny_families
from tests.captioning.run import forked
from tests.golden import DATA


@pytest.fixture(scope="module")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    with forked.serve(Path(caption.__file__)) as server:
        yield server


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and with tiny checkpoints, most of them faulty."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "meta.csv").write_text("path\na.mp4\n")
    for name in ("llava", "qwen2_5_vl", "janus", "llava_onevision", "internvl"):
        tiny_families.FAMILIES[name](folder)
    shutil.copytree(DATA / "mini-a-merged", folder / "pllava")
    (folder / "empty").mkdir()
    for name, (source, change) in FAULTS.items():
        shutil.copytree(folder / source, folder / name)
        change(folder / name)
    return folder


def _entries(file: str, **changes: Any) -> Callable[[Path], None]:
    """Sets entries of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        entries = json.loads((folder / file).read_text()) | changes
        kept = {name: value for name, value in entries.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return change


def _without_tokens(*contents: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokens = [token for token in tokenizer["added_tokens"] if token["content"] not in contents]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"added_tokens": tokens}))

    return change


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "unsupported": ("llava", _entries("config.json", architectures=["GitForCausalLM"], model_type="git")),
    "nameless": ("llava", _entries("config.json", architectures=None, model_type=None)),
    "not_json": ("llava", lambda folder: (folder / "config.json").write_text("{")),
    "no_shard": ("llava", lambda folder: (folder / "model-00002-of-00003.safetensors").unlink()),
    "no_weights": ("llava", lambda folder: [file.unlink() for file in folder.glob("model*")]),
    "no_tokenizer": ("janus", lambda folder: (folder / "tokenizer.json").unlink()),
    "no_preprocessor": ("janus", lambda folder: (folder / "preprocessor_config.json").unlink()),
    "other_preprocessor": (
        "llava",
        lambda folder: shutil.copy(folder.parent / "llava_onevision" / "preprocessor_config.json", folder),
    ),
    "no_placeholder": ("llava_onevision", _without_tokens("<video>")),
    "two_layers": ("llava", _entries("config.json", vision_feature_layer=[-2, -5])),
    "odd_tower": (
        "llava",
        _entries("config.json", vision_config={"model_type": "swin", "image_size": 56, "patch_size": 14}),
    ),
    "video_size": (
        "llava_onevision",
        lambda folder: (folder / "video_preprocessor_config.json").write_text(
            json.dumps({"size": {"height": 384, "width": 384}})
        ),
    ),
    "penalty": ("janus", _entries("generation_config.json", repetition_penalty=0)),
    "end": ("janus", _entries("generation_config.json", eos_token_id=[2, "</s>"])),
    "token": ("janus", _entries("tokenizer_config.json", bos_token=1)),
    "no_text": ("llava", _entries("config.json", text_config=None)),
    "no_tower": ("qwen2_5_vl", _entries("config.json", vision_config="large")),
    "patch": ("qwen2_5_vl", _entries("config.json", vision_config={"patch_size": "14"})),
    "layers": ("qwen2_5_vl", _entries("config.json", num_hidden_layers="two")),
    "window": (
        "qwen2_5_vl",
        _entries("config.json", use_sliding_window=True, sliding_window=16, max_window_layers=0),
    ),
    "quantized": ("llava", _entries("config.json", quantization_config={"bits": 4})),
    "mean": ("janus", _entries("preprocessor_config.json", image_mean=[0.5, "x", 0.5])),
    "template": ("llava", lambda folder: (folder / "chat_template.jinja").write_text("{% for %}")),
    "template_fails": (
        "llava",
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('only text') }}"),
    ),
    "two_places": ("llava", lambda folder: (folder / "chat_template.jinja").write_text("<image><image>{{ messages }}")),
}
PROMPT_FLAGS = ["--question", "--prompt", "--list_prompts", "--question_column", "--ask", "--column", "--any_media"]
FEW_TOKENS = ["--num_frames", "2", "--max_pixels", "12544", "--min_pixels", "784", "--max_new_tokens", "20"]
USAGE_ERRORS: list[tuple[str, list[str], str]] = [
    ("nowhere", [], "checkpoint folder nowhere does not exist"),
    ("meta.csv", [], "meta.csv is not a folder"),
    ("empty", [], "empty is not a checkpoint: it has no config.json"),
    ("empty", ["--family", "llava"], "empty is not a checkpoint: it has no config.json"),
    (
        "unsupported",
        [],
        "architecture GitForCausalLM with model_type 'git' is not supported. Supported families: pllava",
    ),
    ("nameless", [], "architecture (none) with model_type None is not supported"),
    ("not_json", [], "config.json can't be read: Expecting property name"),
    ("llava", ["--family", "git"], "argument --family: invalid choice: 'git'"),
    ("qwen2_5_vl", ["--family", "pllava"], "no image_token_index"),
    (
        "qwen2_5_vl",
        ["--family", "pllava"],
        "the family is pllava: --family, although config.json has architecture Qwen2_5_VLForConditionalGeneration",
    ),
    (
        "qwen2_5_vl",
        ["--min_pixels", "5000", "--max_pixels", "4000"],
        "--min_pixels 5000 is more than --max_pixels 4000",
    ),
    ("qwen2_5_vl", ["--max_pixels", "99"], "--min_pixels 100352 (the default) is more than --max_pixels 99; give both"),
    ("qwen2_5_vl", ["--min_pixels", "0"], "--min_pixels: 0 is less than 1"),
    ("llava", ["--min_pixels", "5000"], "--min_pixels 5000 is not for the family llava, only for qwen2_vl, qwen2_5_vl"),
    (
        "qwen2_5_vl",
        ["--pooling_shape", "4-6-6"],
        "--pooling_shape 4-6-6 is not for the family qwen2_5_vl, only for pllava",
    ),
    ("janus", ["--conv_mode", "vicuna"], "--conv_mode vicuna is not for the family janus, only for pllava"),
    ("pllava", ["--max_pixels", "5000"], "--max_pixels 5000 is not for the family pllava"),
    ("pllava", ["--sampling", "uniform"], "--sampling uniform: the family pllava samples segments"),
    ("pllava", ["--fps", "2"], "--fps 2: the family pllava samples segments"),
    ("pllava", ["--short_side", "336"], "--short_side 336: the family pllava samples segments"),
    ("pllava", ["--question", "<image>?"], "--question must not contain <image>"),
    ("llava", ["--num_frames", "3", "--fps", "1"], "--num_frames 3 and --fps 1 both set the number of frames"),
    ("llava", ["--sampling", "points", "--num_frames", "5"], "points has points for 1, 2 or 3 frames"),
    ("llava", ["--max_frames", "5"], "--max_frames 5 limits the frames of --fps"),
    ("qwen2_5_vl", ["--max_frames", "1"], "--max_frames 1: the model needs at least 2 frames"),
    ("llava", ["--short_side", "0"], "--short_side: 0 is less than 1"),
    ("llava", ["--question", "<image>?"], "--question must not contain <image>"),
    ("llava_onevision", ["--system", "<video>"], "--system must not contain <video>"),
    ("janus", ["--question", "<image_placeholder>?"], "--question must not contain <image_placeholder>"),
    ("qwen2_5_vl", ["--question", "<|video_pad|>"], "--question must not contain <|video_pad|>"),
    ("llava", ["--max_new_tokens", "3000"], "and 3000 new tokens make 3"),
    ("qwen2_5_vl", ["--max_frames", "32"], "4096 of the prompt's tokens are visual"),
    ("llava", ["--system", ""], "--system '' is only for pllava; llava has the system prompt of its template"),
    ("llava", ["--lora_alpha", "2"], "--lora_alpha 2: no LoRA weights"),
    ("qwen2_5_vl", [*FEW_TOKENS, "--use_lora"], "--use_lora: no LoRA weights"),
    ("janus", ["--weight_dir", "."], "--weight_dir is only read with --use_lora"),
    ("no_shard", [], "lacks model-00002-of-00003.safetensors"),
    ("no_weights", [], "no_weights holds no .safetensors file"),
    ("no_tokenizer", [], "no_tokenizer has no tokenizer.json"),
    ("no_preprocessor", [], "preprocessor_config.json is missing or empty"),
    ("other_preprocessor", [], "other_preprocessor/preprocessor_config.json: crop_size is missing"),
    ("no_placeholder", [], "no token <video>, the placeholder of images or videos"),
    ("two_layers", [], "two_layers/config.json: vision_feature_layer [-2, -5] is not supported; use a checkpoint"),
    ("odd_tower", [], "odd_tower/config.json: vision tower type 'swin' is not supported; use a checkpoint with"),
    ("video_size", [], "video_size/video_preprocessor_config.json: size is {'height': 384, 'width': 384}, but"),
    ("penalty", [], "generation_config.json: repetition_penalty 0 is not a positive number"),
    ("end", [], "generation_config.json: eos_token_id is [2, '</s>']; expected a token id"),
    ("token", [], "tokenizer_config.json: a special token is 1; expected a text"),
    ("no_text", [], "no_text/config.json: text_config is missing; expected an object"),
    ("no_tower", [], "no_tower/config.json: vision_config is 'large'; expected an object"),
    ("patch", [], "patch/config.json: vision_config: patch_size is '14'; expected a value like 14"),
    ("layers", [], "layers/config.json: num_hidden_layers is 'two'; expected a whole number"),
    ("window", [*FEW_TOKENS], "sliding window has 16 tokens"),
    ("quantized", [], "quantized/config.json: quantized weights (quantization_config) are not supported"),
    (
        "qwen2_5_vl",
        ["--family", "janus"],
        "the family is janus: --family, although config.json has architecture Qwen2_5",
    ),
    ("internvl", ["--max_tiles", "100000"], "--max_tiles 100000 is more than 64"),
    ("llava", ["--max_tiles", "4"], "--max_tiles 4 is not for the family llava, only for internvl"),
    ("mean", [], "preprocessor_config.json: image_mean is [0.5, 'x', 0.5]; expected three numbers"),
    ("template", [], "chat_template.jinja"),
    ("template_fails", [], "chat_template.jinja: the chat template fails: only text"),
    ("two_places", [], "the chat template writes <image> 2 times for 1 images"),
]


@pytest.mark.parametrize(("checkpoint", "flags", "message"), USAGE_ERRORS)
def test_usage_error(
    checkpoints: Path,
    tmp_path: Path,
    fork_server: subprocess.Popen[str],
    checkpoint: str,
    flags: list[str],
    message: str,
) -> None:
    arguments = ["meta.csv", "--pretrained_model_name_or_path", checkpoint, *flags]
    forked.check_usage_error(fork_server, arguments, message, checkpoints, tmp_path)


def test_the_checkpoint_must_be_given(checkpoints: Path, tmp_path: Path, fork_server: subprocess.Popen[str]) -> None:
    message = "arguments are required: --pretrained_model_name_or_path"
    forked.check_usage_error(fork_server, ["meta.csv"], message, checkpoints, tmp_path)


def test_a_run_with_other_settings_is_not_resumed(
    checkpoints: Path, tmp_path: Path, fork_server: subprocess.Popen[str]
) -> None:
    """Nothing is logged before this error either."""
    arguments = ["other.csv", "--pretrained_model_name_or_path", "llava"]
    (checkpoints / "other.csv").write_text("path\na.mp4\n")
    fingerprint = {"frames": "points 3", COMPUTING_TYPE: "float32"}
    folder = journal_folder(checkpoints / "other_caption.csv")
    with Journal(folder, 0, fingerprint, "2026-11-20T09:00:00.000+00:00", 1) as journal:
        journal.finish([RowResult(0, {"text": CaptionResult("a caption", 3)})])
    message = "other settings: checkpoint: (none) in the journals"
    forked.check_usage_error(fork_server, arguments, message, checkpoints, tmp_path)
    assert "frames: points 3 in the journals, points 1 now" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(
    ("family", "flags", "question"),
    [
        ("llava", [], "Describe the video in details."),
        ("blip-2", [], ""),
        ("blip-2", ["--question", "What moves?"], "What moves?"),
        ("blip-2", ["--question_column", "prompt"], ""),
    ],
)
def test_a_family_may_have_another_default_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, flags: list[str], question: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    given: list[Asks] = []

    def make_source(name: str, flags: Any, asks: Asks, *_: Any) -> CaptionerSource:
        given.append(asks)
        return cast(CaptionerSource, SimpleNamespace(name=name))

    monkeypatch.setattr(build, "make_source", make_source)
    arguments = ["meta.csv", "--pretrained_model_name_or_path", str(tmp_path), *flags]
    caption.make_source(caption.make_parser().parse_args(arguments))
    assert [asks.texts for asks in given] == [(question,)]


def test_both_commands_have_the_same_flags_of_the_prompt() -> None:
    helps = []
    for command in (caption, caption_pllava):
        flags = command.make_parser()._option_string_actions
        helps.append({name: flags[name].help for name in PROMPT_FLAGS})
    assert helps[0] == helps[1]


def test_both_commands_make_the_same_source_of_a_pllava_checkpoint() -> None:
    """So either command resumes a run of the other (`test_msrun.py` has such a run)."""
    flags = ["meta.csv", "--pretrained_model_name_or_path", str(DATA / "mini-a"), "--lora_alpha", "2"]
    for more in ([], ["--num_frames", "7", "--pooling_shape", "4-6-6", "--num_beams", "2", "--conv_mode", "chatml"]):
        sources = [
            command.make_source(command.make_parser().parse_args([*flags, *more]))
            for command in (caption, caption_pllava)
        ]
        assert sources[0].fingerprint() == sources[1].fingerprint()
        assert sources[0].describe() == sources[1].describe()
        assert (sources[0].sampling.num_frames, sources[0].short_side) == (7 if more else 4, 0)
