"""Writes `tests/data/hub-answers.json`: the answers of transformers' `generate` on PyTorch for the tiny checkpoints.

Run `python -m tests.captioning.captioners.hub.record` after a tiny checkpoint or a case is added or changed. Nothing of
our captioner is used: the pixels are those of transformers' slow image processors, and the prompts are written here.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from pipeline.captioning.clips.frames import SampledFrames
from tests.tiny_families import FAMILIES
from tests.tiny_family_configs import CONFIGS, SIDE, WIDTH

from .reference_cases import (
    BEAM_ROWS,
    BEAM_TOKENS,
    BEAMS,
    CASES,
    NEW_TOKENS,
    QUESTION,
    RECORDED,
    TEXTS,
    checkpoint,
    checkpoint_of,
    digest,
    generation_stop_ids,
    image_pairs,
    images,
    pair_cases,
    text_cases,
    videos,
)

_CLOSE = 2e-4
"""Rounding differences of the frameworks are smaller than this difference of two logits."""
_SHORTEST = 3
_NO_ID = 10**6
_PATCHES = (SIDE // 14) ** 2
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
# The published prompts of the cases without a chat template.
_PROMPTS = {
    "llava_next": "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n"  # that of llava-v1.6-34b-hf
    + "<image>\n" * 3
    + f"{QUESTION}<|im_end|><|im_start|>assistant\n",
    "qwen2_vl": f"{_SYSTEM}<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{QUESTION}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "blip2_opt": f"Question: {QUESTION} Answer:",
    "blip2_t5": f"Question: {QUESTION} Answer:",
}

_IMAGE_BLOCK = "<|vision_start|><|image_pad|><|vision_end|>"
_IMAGE_PROMPTS = {
    "llava_next": {count: _PROMPTS["llava_next"].replace("<image>\n" * 3, "<image>\n" * count) for count in (1, 2)},
    "qwen2_vl": {
        count: _PROMPTS["qwen2_vl"].replace("<|vision_start|><|video_pad|><|vision_end|>", _IMAGE_BLOCK * count)
        for count in (1, 2)
    },
}
"""By number of images."""
# Of questions about text alone, for the cases without a chat template.
_TEXT_PROMPTS = {
    "llava_next": _PROMPTS["llava_next"].replace("<image>\n" * 3, "").replace(QUESTION, "{}"),
    "qwen2_vl": f"{_SYSTEM}<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n",
}


@dataclass(frozen=True)
class _Prompt:
    """The arguments of `generate` for one prompt."""

    ids: list[int]
    vision: dict[str, Any]


@dataclass(frozen=True)
class _Answer:
    """New tokens of one prompt, and the smallest difference of the two largest scores of a step."""

    ids: list[int]
    margin: float


class _Reference:
    """transformers' model, slow image processor and tokenizer of a checkpoint."""

    def __init__(self, name: str, folder: Path) -> None:
        tiny = CONFIGS[checkpoint_of(name)]
        self.name, self.folder = name, folder
        self.model = getattr(transformers, tiny.model_class).from_pretrained(folder, attn_implementation="eager")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.processor = getattr(transformers, tiny.image_processor).from_pretrained(folder)
        if name == "llava_onevision":  # its class makes tiles of images; frames of a video are resized as SigLIP's
            sizes = {"size": {"height": SIDE, "width": SIDE}, "resample": self.processor.resample}
            normalisation = {"image_mean": self.processor.image_mean, "image_std": self.processor.image_std}
            self.processor = transformers.SiglipImageProcessor(**sizes, **normalisation)
        image_class = {"llava_next_video": "LlavaNextImageProcessor"}.get(name, tiny.image_processor)
        self.image_processor = getattr(transformers, image_class).from_pretrained(folder)

    def prompts(self, video: SampledFrames) -> list[_Prompt]:
        """One prompt, or for BLIP-2 one for each distinct frame of three."""
        frames = list(video.images)
        if "--num_frames=3" in CASES[self.name].flags:
            last = len(frames) - 1
            frames = [frames[index] for index in (0, last // 2, last)]
        if not self.name.startswith("blip2"):
            return [self._prompt(frames, video.rate)]
        distinct = {id(frame): frame for frame in frames}.values()
        return [self._prompt([frame], video.rate) for frame in distinct]

    def image_prompts(self, images: Sequence[Image.Image]) -> list[_Prompt]:
        """The prompt of a still image, or of several."""
        if self.name.startswith("blip2"):
            return [self._prompt(images, 0.0)]
        vision, counts, placeholder = self._image_vision(images)
        text = _IMAGE_PROMPTS.get(self.name, {}).get(len(images)) or self._from_template("image", len(images))
        first, *parts = text.split(placeholder)
        for count, part in zip(counts, parts, strict=True):
            first += self._written(placeholder * count) + part
        return [_Prompt(self.tokenizer(first)["input_ids"], vision)]

    def text_prompt(self, question: str) -> _Prompt:
        """The prompt of a question about text alone."""
        if self.name in _TEXT_PROMPTS:
            return _Prompt(self.tokenizer(_TEXT_PROMPTS[self.name].format(question))["input_ids"], {})
        messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return _Prompt(self.tokenizer(text)["input_ids"], {})

    def _image_vision(self, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[int], str]:
        """The visual arguments of `generate`, the number of visual tokens of each image, and their placeholder."""
        name = self.name
        options: dict[str, Any] = {}
        if name.startswith("internvl"):  # InternVLProcessor makes tiles with the limits of the file
            options = {"crop_to_patches": True, **({"max_patches": 4} if name == "internvl_tiles" else {})}
        if name.startswith("qwen"):
            options = {"min_pixels": 3136, "max_pixels": 12544}
        # LLaVA-OneVision prepares several images of a prompt, which are a list in a list, in another way.
        given = [list(images)] if name == "llava_onevision" and len(images) > 1 else list(images)
        values = dict(self.image_processor(images=given, return_tensors="pt", **options))
        if name.startswith("qwen"):
            return values, (values["image_grid_thw"].prod(1) // 4).tolist(), "<|image_pad|>"
        if name.startswith(("llava_next", "llava_onevision")):
            keys = ("pixel_values", "image_sizes", *(["batch_num_images"] if given != list(images) else []))
            vision = {key: values[key] for key in keys}
            features = self.model.model.get_image_features(**vision)  # flat if an image has one tile
            return vision, [tokens.numel() // WIDTH for tokens in features], "<image>"
        vision = {"pixel_values": values["pixel_values"]}
        if name.startswith("internvl"):
            return vision, [_PATCHES // 4 * int(count) for count in values["num_patches"]], "<IMG_CONTEXT>"
        return vision, [_PATCHES] * len(images), "<image_placeholder>" if name == "janus" else "<image>"

    def _prompt(self, frames: Sequence[Image.Image], rate: float) -> _Prompt:
        vision, counts, placeholder = self._vision(list(frames), rate)
        is_video = self.name == "internvl" or placeholder.startswith(("<video>", "<|video"))
        text = _PROMPTS.get(self.name) or self._from_template("video" if is_video else "image", len(counts))
        if self.name.startswith("blip2"):
            ids = self.tokenizer(text)["input_ids"]
            return _Prompt([self.model.config.image_token_id] * counts[0] + ids, vision)
        if self.name == "internvl":  # a video, whose frames are written as images
            text = text.replace("<video>", "\n".join(f"Frame{i}: {placeholder}" for i in range(1, len(counts) + 1)))
        first, *parts = text.split(placeholder)
        assert len(parts) == len(counts), (text, counts)
        for count, part in zip(counts, parts, strict=True):
            first += self._written(placeholder * count) + part
        return _Prompt(self.tokenizer(first)["input_ids"], vision)

    def _from_template(self, kind: str, blocks: int) -> str:
        places = 1 if kind == "video" else blocks
        content = [*([{"type": kind}] * places), {"type": "text", "text": QUESTION}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def _written(self, tokens: str) -> str:
        """The visual tokens of an image with what the family's processor writes around them."""
        around = {"janus": ("<begin_of_image>", "<end_of_image>"), "internvl": ("<img>", "</img>")}
        before, after = around.get(checkpoint_of(self.name), ("", ""))
        return before + tokens + after

    def _vision(self, frames: list[Image.Image], rate: float) -> tuple[dict[str, Any], list[int], str]:
        """The visual arguments of `generate`, the number of tokens of each block, and the placeholder of a token."""
        name, n = self.name, len(frames)
        if name.startswith("qwen"):
            pixels = (3136, 12544)
            values = self.processor(
                images=None, videos=[frames], min_pixels=pixels[0], max_pixels=pixels[1], return_tensors="pt"
            )
            vision = {key: values[key] for key in ("pixel_values_videos", "video_grid_thw")}
            if name == "qwen2_5_vl":
                vision["second_per_grid_ts"] = [2 / rate]
            return vision, [int(vision["video_grid_thw"].prod()) // 4], "<|video_pad|>"
        options: dict[str, Any] = {"crop_to_patches": False} if name == "internvl" else {}
        if name == "internvl_tiles":
            options = {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}
        values = self.processor(images=frames, return_tensors="pt", **options)
        if name in ("llava_next_video", "llava_onevision"):
            key = "pixel_values_videos" if "pixel_values_videos" in values else "pixel_values"
            frames_of_video = values[key].reshape(1, n, 3, SIDE, SIDE)
            return {"pixel_values_videos": frames_of_video}, [n * 4 + (name == "llava_onevision")], "<video>"
        if name.startswith("llava_next"):
            vision = {"pixel_values": values["pixel_values"], "image_sizes": values["image_sizes"]}
            return vision, [len(tokens) for tokens in self.model.get_image_features(**vision)], "<image>"
        vision = {"pixel_values": values["pixel_values"]}
        if name.startswith("internvl"):
            tiles = values["num_patches"].tolist() if name == "internvl_tiles" else [1] * n
            return vision, [_PATCHES // 4 * count for count in tiles], "<IMG_CONTEXT>"
        if name.startswith("blip2"):
            return vision, [int(self.model.config.num_query_tokens)] * n, ""
        return vision, [_PATCHES] * n, "<image_placeholder>" if name == "janus" else "<image>"

    def answer(self, prompt: _Prompt, stop_ids: Sequence[int], **options: Any) -> _Answer:
        if self.name.startswith("blip2"):  # its `generate` does not read generation_config.json
            options["repetition_penalty"] = CASES[self.name].penalty
        ids = torch.tensor([prompt.ids])
        with torch.no_grad():
            output = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.vision, do_sample=False,
                eos_token_id=list(stop_ids), pad_token_id=0, return_dict_in_generate=True, output_scores=True,
                **{"max_new_tokens": NEW_TOKENS, **options},
            )  # fmt: skip
        new: list[int] = output.sequences[0, 1 if self.name == "blip2_t5" else len(prompt.ids) :].tolist()
        if "num_beams" in options:
            ends = [position for position, token in enumerate(new) if token in stop_ids]
            return _Answer(new[: ends[0] + 1] if ends else new, math.inf)
        best = [step[0].topk(2).values for step in output.scores]
        return _Answer(new, float(min(two[0] - two[1] for two in best)))


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        answers = {name: _recorded(name, Path(temporary)) for name in CASES}
    lines = json.dumps(answers).replace("]], ", "]],\n").replace("}, ", "},\n")
    RECORDED.write_text(lines + "\n", encoding="utf-8")


def _recorded(name: str, parent: Path) -> dict[str, Any]:
    written = FAMILIES[checkpoint_of(name)](parent / name)
    reference = _Reference(name, checkpoint(written, name, parent / f"{name}-copy", []))
    clips = [reference.prompts(video) for video in videos()]
    stills = [reference.image_prompts([image]) for image in images()]
    pairs = [reference.image_prompts(pair) for pair in image_pairs()] if name in pair_cases() else []
    texts = [[reference.text_prompt(question)] for question in TEXTS] if name in text_cases() else []
    prompts = [prompt for clip in clips + stills + pairs + texts for prompt in clip]
    endless = [reference.answer(prompt, [_NO_ID]) for prompt in prompts]
    margin = min(answer.margin for answer in endless)
    stop = _stop_id([answer.ids for answer in endless[: sum(map(len, clips))]])  # as before there were images
    stop_ids = generation_stop_ids(checkpoint(written, name, parent / f"{name}-stop", [stop]))

    def answers(chosen: Iterable[list[_Prompt]], **options: Any) -> list[list[int]]:
        """The answers of clips, those of all prompts of a clip one after the other."""
        found = [[reference.answer(prompt, stop_ids, **options).ids for prompt in clip] for clip in chosen]
        return [list(itertools.chain(*ids)) for ids in found]

    record = {"digest": digest(written), "stop ids": [stop], "greedy": answers(clips)}
    if CASES[name].beams:
        record["beams"] = answers([clips[row] for row in BEAM_ROWS], max_new_tokens=BEAM_TOKENS, num_beams=BEAMS)
    record["images"] = answers(stills)
    if pairs:
        record["image pairs"] = answers(pairs)
        assert len(set(map(tuple, record["image pairs"]))) > 2, f"{name}: most pairs have the same answer"
    if texts:
        record["texts"] = answers(texts)
        if CASES[name].beams:
            record["texts beams"] = answers(texts, max_new_tokens=BEAM_TOKENS, num_beams=BEAMS)
        assert len(set(map(tuple, record["texts"]))) == len(texts), f"{name}: two texts have the same answer"
    lengths = [len(ids) for ids in record["greedy"]]
    print(f"{name}: smallest margin {margin:.4f}, tokens {lengths}")
    assert margin > _CLOSE, f"{name}: two logits differ by {margin} only"
    assert len(set(map(tuple, record["greedy"]))) == len(clips), f"{name}: two clips have the same answer"
    assert len(set(map(tuple, record["images"]))) > 3, f"{name}: most images have the same answer"
    assert len(set(lengths)) > 1, f"{name}: no answer ends early"
    return record


def _stop_id(answers: Sequence[Sequence[int]]) -> int:
    """An id that ends at least one answer early, none of them very early, and leaves different lengths."""

    def lengths(stop: int) -> list[int]:
        return [ids.index(stop) + 1 if stop in ids else NEW_TOKENS for ids in map(list, answers)]

    possible = {stop for ids in answers for stop in ids if min(lengths(stop)) >= _SHORTEST}
    return max(sorted(possible), key=lambda stop: len(set(lengths(stop))), default=0)


if __name__ == "__main__":
    main()
