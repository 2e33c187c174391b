"""The text of a family's prompt: from the checkpoint's chat template, else the published prompt of the family.

Imports no framework. Knows nothing about token ids: each image or video is one placeholder in the text, which
`tokenizer.PromptTokenizer` splits the text at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..process.errors import UsageError
from .checkpoint_config import read_settings
from .checkpoint_template import SYSTEM_MOVED, CheckpointTemplate, Conversation
from .prompt_formats import (
    BLIP_2,
    CHATML,
    INTERNVL,
    JANUS,
    LLAMA3,
    MISTRAL,
    ONEVISION,
    QWEN_1_5,
    QWEN_VL,
    VICUNA,
    PromptFormat,
)
from .prompts import check_prompt_part


@dataclass(frozen=True)
class PromptText:
    """The text of a prompt.

    source: which template was used, and why; for the log.
    placeholder: the text that stands for each image or video in `text`; empty if they stand before the whole text.
    """

    text: str
    source: str
    placeholder: str


@dataclass(frozen=True)
class _Family:
    """How prompts of a family are made.

    placeholders: what templates write for an image and for a video; a family without videos has images only.
    published: the published prompt; None if it depends on the text model.
    uses_template: False for families that are not published in the layout of transformers, or not for chats.
    """

    placeholders: Mapping[str, str]
    published: PromptFormat | None
    uses_template: bool = True


_IMAGE, _VIDEO = {"image": "<image>"}, {"video": "<video>"}
_QWEN = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
_INTERNVL = {"image": "<IMG_CONTEXT>", **_VIDEO}

FAMILY_PROMPTS = {
    "llava": _Family(_IMAGE, VICUNA),
    "llava_next": _Family(_IMAGE, None),
    "llava_next_video": _Family(_IMAGE | _VIDEO, None),
    "llava_onevision": _Family(_IMAGE | _VIDEO, ONEVISION),
    "llava_qwen": _Family({"image": "<image>", "video": "<image>"}, QWEN_1_5, uses_template=False),
    "qwen2_vl": _Family(_QWEN, QWEN_VL),
    "qwen2_5_vl": _Family(_QWEN, QWEN_VL),
    "blip-2": _Family({"image": ""}, BLIP_2, uses_template=False),
    "janus": _Family({"image": "<image_placeholder>"}, JANUS),
    "internvl": _Family(_INTERNVL, INTERNVL),
}


@dataclass(frozen=True)
class FamilyPrompt:
    """Makes the prompts of a run with one checkpoint. Its files are read once, by `of`: they may change during a run.

    family: a name of FAMILY_PROMPTS.
    published: the prompt that is used if the template has no place for the blocks.
    template: None if the checkpoint has none, or the family uses none.
    has_janus_system: whether the files ask for the published system prompt of Janus where the user gives none.
    """

    family: str
    published: PromptFormat
    template: CheckpointTemplate | None
    has_janus_system: bool = False

    @classmethod
    def of(cls, folder: Path, family: str) -> FamilyPrompt:
        """Read the template of a checkpoint folder.

        Raises:
            UsageError: a file can't be read, or has values that are not usable.
        """
        about = FAMILY_PROMPTS[family]
        return cls(
            family,
            about.published or _format_of_text_model(folder),
            CheckpointTemplate.of(folder) if about.uses_template else None,
            family == "janus" and bool(read_settings(folder / _PROCESSOR_CONFIG).get(_JANUS_SETTING)),
        )

    def text(self, question: str, system: str, blocks: Sequence[str], *, frames: int = 1, time: str = "") -> PromptText:
        """The prompt for images or one kind of visual blocks, followed by a question.

        The chat template is used if the checkpoint has one with a place for the blocks. If it refuses or ignores the
        system prompt, the system prompt stands before the question. Without a system prompt there is no system turn,
        except the one that the template or the published prompt writes itself.

        blocks: "image" or "video" for each block, all the same; at least one.
        frames: number of frames of each video; `internvl` writes each frame of a video as an image.
        time: see `prompt_formats.time_instruction`; for `llava_qwen` only.

        Raises:
            UsageError: question or system prompt contains a placeholder, or the checkpoint's template is unusable.
            ValueError: the family has no such blocks or no time instruction, or the blocks differ.
        """
        about, family = FAMILY_PROMPTS[self.family], self.family
        if len(set(blocks)) != 1 or blocks[0] not in about.placeholders or (time and family != "llava_qwen"):
            raise ValueError(f"{family} has no prompt for the blocks {list(blocks)} and the time instruction {time!r}")
        for placeholder in filter(None, about.placeholders.values()):
            check_prompt_part("the question", question, placeholder)
            check_prompt_part("the system prompt", system, placeholder)
        asked = Conversation(question, system, blocks, about.placeholders[blocks[0]])
        text, source = self._text_and_source(asked, time)
        text, placeholder = _written_out(family, text, asked.placeholder, frames)
        return PromptText(text, source, placeholder)

    def text_alone(self, question: str, system: str, name: str = "the system prompt") -> PromptText:
        """The prompt for a question about text alone: the same template as in `text`, without a block.

        The question may contain placeholders; the caller sees to it that they are no tokens.

        name: of the system prompt, for messages.

        Raises:
            UsageError: the system prompt contains a placeholder, or the checkpoint's template is unusable.
        """
        about = FAMILY_PROMPTS[self.family]
        for placeholder in about.placeholders.values():
            check_prompt_part(name, system, placeholder)
        asked = Conversation(question, system, [], "")
        rendered = None if self.template is None else self.template.rendered_alone(asked, about.placeholders)
        text, source = self._chosen(rendered, asked, "", "is not one for images, videos and text alone")
        return PromptText(text, source, "")

    def _text_and_source(self, asked: Conversation, time: str) -> tuple[str, str]:
        rendered = None if self.template is None else self.template.rendered(asked)
        return self._chosen(rendered, asked, time, f"has no place for {asked.blocks[0]}s")

    def _chosen(self, rendered: tuple[str, str] | None, asked: Conversation, time: str, lack: str) -> tuple[str, str]:
        """The text and source of a prompt.

        rendered: those of the chat template, if it can be used. lack: what a template lacks that can't be used.
        """
        if rendered is None:
            text, source = _published(self.published, asked, time)
            return text, source + self._reason_for_published(lack)
        text, source = rendered
        if not self.has_janus_system or asked.system:
            return text, source
        text = JANUS.system.format(system=JANUS.default_system) + text
        return text, f"{source}; with the system prompt of Janus, as {_PROCESSOR_CONFIG} asks for"

    def _reason_for_published(self, lack: str) -> str:
        if self.template is not None:
            return f"; the chat template of {self.template.template.file.name} {lack}"
        return "; the checkpoint has no chat template" if FAMILY_PROMPTS[self.family].uses_template else ""


_PROCESSOR_CONFIG, _JANUS_SETTING = "processor_config.json", "use_default_system_prompt"


def _published(chosen: PromptFormat, asked: Conversation, time: str) -> tuple[str, str]:
    """The text and source of a published prompt."""
    tokens = [asked.placeholder] * len(asked.blocks)
    if asked.system and not asked.question and not chosen.is_chat:
        raise UsageError(
            f"{chosen.name} has no system prompt: {asked.system!r} stands before the question, which is empty; write a "
            "question"
        )
    if time:
        # The placeholder stands directly before the time instruction (model card of LLaVA-Video).
        text = chosen.text(f"{''.join(tokens)}{time}\n{asked.question}", asked.system, [])
    else:
        text = chosen.text(asked.question, asked.system, tokens)
    return text, f"published prompt {chosen.name}{SYSTEM_MOVED if asked.system and not chosen.system else ''}"


def _format_of_text_model(folder: Path) -> PromptFormat:
    """The published prompt of LLaVA-NeXT and LLaVA-NeXT-Video, which are published with several text models."""
    text_config = read_settings(folder / "config.json").get("text_config")
    if isinstance(text_config, dict) and text_config.get("model_type") == "mistral":
        return MISTRAL
    vocabulary = folder / "tokenizer.json"
    tokens = vocabulary.read_text(encoding="utf-8") if vocabulary.exists() else ""
    if '"<|start_header_id|>"' in tokens:
        return LLAMA3
    return CHATML if '"<|im_start|>"' in tokens else VICUNA


def _written_out(family: str, text: str, placeholder: str, frames: int) -> tuple[str, str]:
    """Writes what the family's processor in transformers writes around the visual tokens of each image.

    Returns the text, and the placeholder of each image or video in it.
    """
    if family == "janus":
        return text.replace(placeholder, f"<begin_of_image>{placeholder}<end_of_image>"), placeholder
    if family == "internvl":
        image = _INTERNVL["image"]
        written = f"<img>{image}</img>"
        if placeholder == _INTERNVL["video"]:
            written = "\n".join(f"Frame{number}: {written}" for number in range(1, frames + 1))
        return text.replace(placeholder, written), image
    return text, placeholder
