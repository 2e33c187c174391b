"""Conversation templates and the default prompts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..process.errors import UsageError

IMAGE_PLACEHOLDER = "<image>"

DEFAULT_SYSTEM = (
    "You watch short video clips and describe them so precisely that someone who has not seen a clip could "
    "make it again. Name the people, animals and objects with their appearance and position, tell in the "
    "order of time what moves, how and in which direction, and mention the setting, the light, the style and "
    "the movement of the camera. Say only what can be seen."
)
DEFAULT_QUESTION = "Describe the video in details."
NO_TEXT = "this captioner cannot answer questions about text; use a checkpoint of a family that can, such as qwen2_5_vl"
"""The usage error of a model that is prompted with clips only."""
NO_IMAGES = "this captioner cannot answer questions about several images; send one image, or the frames of one video"
"""The usage error of a model that knows one clip in a prompt only."""


@dataclass(frozen=True)
class ConversationTemplate:
    """Combines a system prompt and a question to the model's prompt.

    system: template with `{system}`; omitted if there is no system prompt.
    user: template with `{question}` and one image placeholder; the answer begins after its end.
    end: text that ends an answer, if it is a single token of the vocabulary.
    """

    system: str
    user: str
    end: str

    def prompt(self, question: str, system: str) -> str:
        head = self.system.format(system=system) if system else ""
        return head + self.user.format(question=question)

    def text_prompt(self, question: str, system: str) -> str:
        """The prompt for a question about text alone: without the placeholder and the line that it stands on."""
        user = self.user.replace(f"{IMAGE_PLACEHOLDER}\n", "").replace(IMAGE_PLACEHOLDER, "")
        return dataclasses.replace(self, user=user).prompt(question, system)


TEMPLATES = {
    # PLLaVA 7b and 13b
    "vicuna": ConversationTemplate(
        system="{system} ",
        user=f"USER:{IMAGE_PLACEHOLDER} {{question}} ASSISTANT:",
        end="</s>",
    ),
    # PLLaVA 34b (Yi)
    "chatml": ConversationTemplate(
        system="<|im_start|>system\n{system}<|im_end|>\n",
        user=f"<|im_start|>user\n{IMAGE_PLACEHOLDER}\n{{question}}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
    ),
}


def template_for(conv_mode: str | None, has_chatml_tokens: bool) -> tuple[str, ConversationTemplate, str]:
    """Name, template and reason of the choice.

    conv_mode: a name of TEMPLATES, or None to choose by the checkpoint's vocabulary.
    """
    if conv_mode is not None:
        return conv_mode, TEMPLATES[conv_mode], "--conv_mode"
    if has_chatml_tokens:
        return "chatml", TEMPLATES["chatml"], "the tokenizer has <|im_start|>"
    return "vicuna", TEMPLATES["vicuna"], "the tokenizer has no <|im_start|>"


def check_prompt_part(name: str, text: str, placeholder: str = IMAGE_PLACEHOLDER) -> None:
    """Check that a part of the prompt contains no placeholder of the clip: the template already contains them all.

    name: of the part, for the message: a flag if the user gave it with one.

    Raises:
        UsageError: the text contains the placeholder.
    """
    if placeholder in text:
        raise UsageError(f"{name} must not contain {placeholder}; the template places the clip")
