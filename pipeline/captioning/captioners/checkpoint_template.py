"""Renders a question about images, videos or text alone with the chat template of a checkpoint folder.

Imports no framework. Knows nothing about model families and their published prompts: the caller says what the template
writes for a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..process.errors import UsageError
from .chat_template import (
    TOKENIZER_CONFIG,
    ChatTemplate,
    Message,
    find_template,
    overridden_template,
    render,
    special_tokens,
)
from .prompt_formats import before_question

SYSTEM_MOVED = "; it has no system turn, so the system prompt stands before the question"
"""Note about a template or published prompt, for the log."""


@dataclass(frozen=True)
class Conversation:
    """What a prompt is made from.

    blocks: "image" or "video" for each visual block; empty for a question about text alone.
    placeholder: what the family's templates write for a block; not used without blocks.
    """

    question: str
    system: str
    blocks: Sequence[str]
    placeholder: str


@dataclass(frozen=True)
class CheckpointTemplate:
    """The chat template of a checkpoint.

    tokens: special tokens by their names in the template.
    other: a `chat_template.json` that differs and is not used; None if there is none.
    """

    template: ChatTemplate
    tokens: Mapping[str, Any]
    other: Path | None

    @classmethod
    def of(cls, folder: Path) -> CheckpointTemplate | None:
        """The template of a checkpoint folder; None if it has none."""
        template = find_template(folder)
        return None if template is None else cls(template, special_tokens(folder), overridden_template(folder))

    def rendered(self, asked: Conversation) -> tuple[str, str] | None:
        """The text and source of a prompt; None if the template has no place for images or videos.

        Raises:
            UsageError: the template fails, or has a place for some of the blocks only.
        """
        file = self.template.file
        try:
            text, note = _with_system_prompt(self.template, self.tokens, asked)
        except UsageError:
            # A template of tokenizer_config.json may be that of the text model, which takes text only.
            if file.name == TOKENIZER_CONFIG:
                return None
            raise
        places = text.count(asked.placeholder)
        if places == 0:
            return None
        if places != len(asked.blocks):
            raise UsageError(
                f"{file}: the chat template writes {asked.placeholder} {places} times for {len(asked.blocks)} "
                f"{asked.blocks[0]}s; correct or remove it"
            )
        return text, self._source(note)

    def rendered_alone(self, asked: Conversation, placeholders: Mapping[str, str]) -> tuple[str, str] | None:
        """The text and source of a prompt without blocks; None if the template is not the one for this.

        It is, if the prompts with blocks are made with it too, and if it writes the question and no placeholder.

        placeholders: what the family's templates write for an image and for a video.
        """
        if not any(self.rendered(Conversation("?", "", [kind], text)) for kind, text in placeholders.items()):
            return None
        try:
            text, note = _with_system_prompt(self.template, self.tokens, asked)
        except UsageError:  # it may require a block
            return None
        if asked.question.strip() not in text or _count(text, placeholders) > _count(asked.question, placeholders):
            return None
        return text, self._source(note)

    def _source(self, note: str) -> str:
        unused = f"; {self.other.name} differs and is not used" if self.other else ""
        return f"chat template of {self.template.file.name}{note}{unused}"


def _with_system_prompt(template: ChatTemplate, tokens: Mapping[str, Any], asked: Conversation) -> tuple[str, str]:
    """The rendered template, and a note if it does not write a system turn."""
    system = asked.system.strip()
    if not system:
        return render(template, [_user(asked.question, asked.blocks)], tokens), ""
    turn = {"role": "system", "content": [{"type": "text", "text": asked.system}]}
    try:
        text = render(template, [turn, _user(asked.question, asked.blocks)], tokens)
    except UsageError:
        text = ""  # if the system prompt was not the cause, the template fails below again
    if text.count(system) > asked.question.count(system):
        return text, ""
    question = before_question(asked.system, asked.question)
    return render(template, [_user(question, asked.blocks)], tokens), SYSTEM_MOVED


def _user(question: str, blocks: Sequence[str]) -> Message:
    return {"role": "user", "content": [*({"type": kind} for kind in blocks), {"type": "text", "text": question}]}


def _count(text: str, placeholders: Mapping[str, str]) -> int:
    return sum(text.count(placeholder) for placeholder in placeholders.values())
