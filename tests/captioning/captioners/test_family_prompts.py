"""The prompt of each family comes from the checkpoint's chat template, else it is the published one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.captioners.family_prompts import FAMILY_PROMPTS, FamilyPrompt, PromptText
from pipeline.captioning.captioners.prompt_formats import time_instruction
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.chat_templates import (
    CHATML,
    INTERNVL,
    JANUS,
    LLAMA3,
    MISTRAL,
    ONEVISION,
    QWEN_VL,
    TEXT_ONLY,
    VICUNA,
    VICUNA_VIDEO,
)
from tests.golden import DATA, SHARED

GOLDEN = SHARED / "golden" / "llava-video-a"
_JANUS_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


def _with_template(folder: Path, template: str, file: str = "chat_template.json") -> Path:
    (folder / file).write_text(json.dumps({"chat_template": template}))
    return folder


@pytest.mark.parametrize(
    ("family", "template", "blocks", "text"),
    [
        ("llava", VICUNA, ["image"], "USER: <image>\nWhat? ASSISTANT:"),
        ("llava_next", VICUNA, ["image"] * 3, "USER: <image>\n<image>\n<image>\nWhat? ASSISTANT:"),
        ("llava_next", MISTRAL, ["image"] * 2, "[INST] <image>\n<image>\nWhat? [/INST]"),
        ("llava_next", CHATML, ["image"], "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"),
        (
            "llava_next",
            LLAMA3,
            ["image"],
            "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("llava_next_video", VICUNA_VIDEO, ["video"], "USER: <video>\nWhat? ASSISTANT:"),
        ("llava_onevision", ONEVISION, ["video"], "<|im_start|>user <video>\nWhat?<|im_end|><|im_start|>assistant\n"),
        (
            "qwen2_vl",
            QWEN_VL,
            ["image", "image"],
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            "qwen2_5_vl",
            QWEN_VL,
            ["video"],
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|video_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "janus",
            JANUS,
            ["image"],
            "<|User|>: <begin_of_image><image_placeholder><end_of_image>\nWhat?\n\n<|Assistant|>:",
        ),
        (
            "internvl",
            INTERNVL,
            ["image"],
            "<|im_start|>user\n<img><IMG_CONTEXT></img>\nWhat?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_the_chat_template_of_the_checkpoint_is_used(
    tmp_path: Path, family: str, template: str, blocks: list[str], text: str
) -> None:
    made = FamilyPrompt.of(_with_template(tmp_path, template), family).text("What?", "", blocks)
    assert (made.text, made.source) == (text, "chat template of chat_template.json")
    assert made.text.count(made.placeholder) == len(blocks)


@pytest.mark.parametrize(
    ("family", "block", "text"),
    [
        ("llava", "image", "USER: <image>\nWhat? ASSISTANT:"),
        ("llava_next", "image", "USER: <image>\nWhat? ASSISTANT:"),
        ("llava_next_video", "video", "USER: <video>\nWhat? ASSISTANT:"),
        ("llava_onevision", "video", "<|im_start|>user <video>\nWhat?<|im_end|><|im_start|>assistant\n"),
        (
            "llava_qwen",
            "video",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            "qwen2_vl",
            "image",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("blip-2", "image", "Question: What? Answer:"),
        (
            "janus",
            "image",
            f"{_JANUS_SYSTEM}\n\n<|User|>: <begin_of_image><image_placeholder><end_of_image>\nWhat?\n\n<|Assistant|>:",
        ),
        (
            "internvl",
            "image",
            "<|im_start|>user\n<img><IMG_CONTEXT></img>\nWhat?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_the_published_prompt_is_used_without_a_template(tmp_path: Path, family: str, block: str, text: str) -> None:
    made = FamilyPrompt.of(tmp_path, family).text("What?", "", [block])
    assert made.text == text
    assert made.source.startswith("published prompt ")
    assert ("no chat template" in made.source) == (family not in ("llava_qwen", "blip-2"))


@pytest.mark.parametrize(
    ("family", "template"),
    [("llava", VICUNA), ("llava_next_video", VICUNA_VIDEO), ("llava_onevision", ONEVISION), ("qwen2_vl", QWEN_VL)],
)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_template_and_published_prompt_agree(tmp_path: Path, family: str, template: str, system: str) -> None:
    block = "image" if family == "llava" else "video"
    published = FamilyPrompt.of(tmp_path, family).text("What?", system, [block])
    made = FamilyPrompt.of(_with_template(tmp_path, template), family).text("What?", system, [block])
    assert made.text == published.text
    assert made.source != published.source


@pytest.mark.parametrize(
    ("model_type", "token", "text"),
    [
        ("mistral", None, "[INST] <image>\nWhat? [/INST]"),
        ("llama", None, "USER: <image>\nWhat? ASSISTANT:"),
        (
            "llama",
            "<|im_start|>",
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|>"
            "<|im_start|>assistant\n",
        ),
        (
            "llama",
            "<|start_header_id|>",
            f"<|start_header_id|>system<|end_header_id|>\n\n{_JANUS_SYSTEM}<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_the_published_prompt_of_llava_next_follows_from_the_text_model(
    tmp_path: Path, model_type: str, token: str | None, text: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": model_type}}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": token}]}))
    assert FamilyPrompt.of(tmp_path, "llava_next").text("What?", "", ["image"]).text == text


def test_a_refused_or_ignored_system_prompt_stands_before_the_question(tmp_path: Path) -> None:
    moved = "[INST] <image>\nBe brief.\n\nWhat? [/INST]"
    ignoring = re.sub(r"raise_exception\(.*?\)", "''", MISTRAL)
    for template in (MISTRAL, ignoring):
        made = FamilyPrompt.of(_with_template(tmp_path, template), "llava_next").text("What?", "Be brief.", ["image"])
        assert made.text == moved
        assert made.source.endswith("it has no system turn, so the system prompt stands before the question")
    (tmp_path / "chat_template.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": "mistral"}}))
    made = FamilyPrompt.of(tmp_path, "llava_next").text("What?", "Be brief.", ["image"])
    assert made.text == moved
    assert "published prompt mistral; it has no system turn" in made.source
    assert FamilyPrompt.of(tmp_path, "blip-2").text("What?", "Be brief.", ["image"]).text == (
        "Question: Be brief.\n\nWhat? Answer:"
    )


def test_a_system_prompt_like_the_template_s_own_is_not_repeated(tmp_path: Path) -> None:
    prompt = FamilyPrompt.of(_with_template(tmp_path, QWEN_VL), "qwen2_vl")
    system = "You are a helpful assistant."
    assert prompt.text("What?", system, ["video"]) == prompt.text("What?", "", ["video"])
    assert prompt.text("What?", " ", ["video"]).text.count("<|im_start|>system") == 1


def test_a_template_without_a_place_for_the_clip_is_not_used(tmp_path: Path) -> None:
    made = FamilyPrompt.of(_with_template(tmp_path, VICUNA), "llava_next_video").text("What?", "", ["video"])
    assert made == PromptText(
        "USER: <video>\nWhat? ASSISTANT:",
        "published prompt vicuna; the chat template of chat_template.json has no place for videos",
        "<video>",
    )
    (tmp_path / "chat_template.json").unlink()
    # The template of the text model fails, because it takes text only.
    folder = _with_template(tmp_path, TEXT_ONLY, "tokenizer_config.json")
    made = FamilyPrompt.of(folder, "llava").text("What?", "", ["image"])
    assert made.text == "USER: <image>\nWhat? ASSISTANT:"
    assert "tokenizer_config.json has no place for images" in made.source


def test_a_second_template_that_is_not_used_is_named(tmp_path: Path) -> None:
    (_with_template(tmp_path, CHATML) / "chat_template.jinja").write_text(VICUNA)
    made = FamilyPrompt.of(tmp_path, "llava").text("What?", "", ["image"])
    assert made.text == "USER: <image>\nWhat? ASSISTANT:"
    assert made.source == "chat template of chat_template.jinja; chat_template.json differs and is not used"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", r"chat_template\.json: the chat template fails: no"),
        ("{% if %}", r"chat_template\.json: the chat template does not compile"),
        (
            "<image>",
            r"chat_template\.json: the chat template writes <image> 1 times for 2 images; correct",
        ),
    ],
)
def test_an_unusable_template_is_a_usage_error(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FamilyPrompt.of(_with_template(tmp_path, template), "llava").text("What?", "Be brief.", ["image", "image"])


def test_a_placeholder_in_the_question_or_system_prompt_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the question must not contain <\|video_pad\|>"):
        FamilyPrompt.of(tmp_path, "qwen2_vl").text("What is <|video_pad|>?", "", ["image"])
    with pytest.raises(UsageError, match="the system prompt must not contain <image_placeholder>"):
        FamilyPrompt.of(tmp_path, "janus").text("What?", "<image_placeholder>", ["image"])


@pytest.mark.parametrize(
    ("family", "blocks", "time"),
    [("llava", ["video"], ""), ("qwen2_vl", ["image", "video"], ""), ("janus", [], ""), ("qwen2_vl", ["video"], "1 s")],
)
def test_blocks_that_a_family_does_not_have_are_an_error(
    tmp_path: Path, family: str, blocks: list[str], time: str
) -> None:
    with pytest.raises(ValueError, match=f"{family} has no prompt"):
        FamilyPrompt.of(tmp_path, family).text("What?", "", blocks, time=time)


def test_every_family_has_a_prompt(tmp_path: Path) -> None:
    for family, about in FAMILY_PROMPTS.items():
        for block in about.placeholders:
            assert "What? {x}" in FamilyPrompt.of(tmp_path, family).text("What? {x}", "Be {y}", [block]).text


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "mini-a" / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("use_default", [True, False])
def test_janus_writes_around_images_what_its_processor_writes(llama_folder: Path, use_default: bool) -> None:
    from transformers import JanusImageProcessor, JanusProcessor, LlamaTokenizerFast

    tokenizer = LlamaTokenizerFast.from_pretrained(
        llama_folder,
        extra_special_tokens={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )
    processor = JanusProcessor(
        JanusImageProcessor(), tokenizer, chat_template=JANUS, use_default_system_prompt=use_default
    )
    processor.save_pretrained(llama_folder)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it? "}]}
    ]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=rendered, return_tensors=None)["input_ids"][0]
    made = FamilyPrompt.of(llama_folder, "janus").text("What is it? ", "", ["image", "image"])
    expanded = made.text.replace(made.placeholder, made.placeholder * 576)
    assert tokenizer(expanded)["input_ids"] == expected
    assert ("processor_config.json asks for" in made.source) == use_default
    own = FamilyPrompt.of(llama_folder, "janus").text("What is it?", "Be brief.", ["image"])
    assert own.text.startswith("System: Be brief.<|end_of_sentence|><|User|>: ")


@pytest.mark.parametrize(("blocks", "frames"), [(["image"] * 3, 1), (["video"], 4)])
def test_internvl_writes_around_images_what_its_processor_writes(
    tmp_path: Path, blocks: list[str], frames: int
) -> None:
    from transformers import InternVLProcessor

    processor: Any = InternVLProcessor.__new__(InternVLProcessor)  # its __init__ asks for a video processor
    processor.image_token, processor.video_token, processor.image_seq_length = "<IMG_CONTEXT>", "<video>", 1
    processor.start_image_token, processor.end_image_token = "<img>", "</img>"
    places = "".join("<IMG_CONTEXT>\n" if block == "image" else "<video>\n" for block in blocks)
    rendered = f"<|im_start|>user\n{places}What?<|im_end|>\n<|im_start|>assistant\n"
    images, count = np.zeros(8), len(blocks) if blocks[0] == "image" else frames
    steps = np.arange(1, count + 1)
    expected = processor._insert_media_placeholders(
        [rendered], images, images, [1] * count, [1] * count, steps, steps, np.array([frames])
    )[0][0]
    made = FamilyPrompt.of(_with_template(tmp_path, INTERNVL), "internvl").text("What?", "", blocks, frames=frames)
    assert (made.text, made.placeholder) == (expected, "<IMG_CONTEXT>")
    assert made.text.count("<IMG_CONTEXT>") == count


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="a clone does not contain the golden outputs of LLaVA-Video")
def test_the_prompts_of_llava_video_are_those_of_the_public_program() -> None:
    cases = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 35
    for case in cases:
        # The public program divides by the frame step, not by the frame rate, if it samples with a step.
        step = case["branch"] == "step"
        rate = case["video_info"]["frame_step" if step else "avg_fps"]
        time = time_instruction(case["video_time"], [index / rate for index in case["frame_indices"]])
        assert case["frame_time"] in time
        question = f"{time}\n{case['question']}" if case["prompt_style"] == "demo-time" else case["question"]
        with_time = time if case["prompt_style"] == "card" else ""
        made = FamilyPrompt.of(GOLDEN / "checkpoint", "llava_qwen").text(question, "", ["video"], time=with_time)
        assert made.text == case["prompt"], case["name"]
        assert made.source == "published prompt qwen_1_5"


def test_files_that_change_during_a_run_change_no_prompt(tmp_path: Path) -> None:
    """The questions may differ from row to row, so that prompts are made until the end of a run."""
    for family, template in (("llava_next", VICUNA), ("janus", JANUS)):
        folder = _with_template(tmp_path, template)
        (folder / "tokenizer.json").write_text("{}")
        (folder / "processor_config.json").write_text(json.dumps({"use_default_system_prompt": True}))
        made = FamilyPrompt.of(folder, family)
        before = made.text("What?", "", ["image"])
        (folder / "chat_template.jinja").write_text("<image>{{ bos_token }} changed")
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
        (folder / "processor_config.json").write_text("{}")
        assert made.text("What?", "", ["image"]) == before
        for file in list(folder.iterdir()):
            file.unlink()
        after = made.text("Where?", "", ["image"])
        assert (after.text, after.source) == (before.text.replace("What", "Where"), before.source)


def test_the_published_prompt_of_llava_next_does_not_follow_files_that_change(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": "mistral"}}))
    made = FamilyPrompt.of(tmp_path, "llava_next")
    (tmp_path / "config.json").write_text("{}")
    assert made.text("What?", "", ["image"]).text == "[INST] <image>\nWhat? [/INST]"
