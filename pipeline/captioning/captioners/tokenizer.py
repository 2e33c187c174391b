"""A checkpoint's tokenizer: the prompt around the clip, and captions from token ids.

Framework-free: it needs the `tokenizers` package alone. Knows no model family: the image token is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..process.errors import UsageError
from .checkpoint_config import read_settings
from .prompts import ConversationTemplate, template_for


@dataclass(frozen=True)
class Prompt:
    """What a run asks of every clip, tokenized.

    text: the whole prompt with the image placeholder.
    before, after: token ids around the visual tokens.
    stop_ids: tokens that end a caption.
    """

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    stop_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of text."""
        return len(self.before) + len(self.after)


class CheckpointTokenizer:
    """`tokenizer.json` of a checkpoint.

    image_token_id: the token that stands for the clip.

    Raises:
        UsageError: it is missing or unreadable, or does not know the image token.
    """

    def __init__(self, folder: Path, image_token_id: int) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise UsageError(f"checkpoint {folder} has no tokenizer.json")
        self.file = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises plain Exception
            raise UsageError(f"{path} can't be read: {error}") from error
        self._folder = folder
        self._image_token_id = image_token_id
        if self._tokenizer.id_to_token(image_token_id) is None:
            raise UsageError(f"{path} has no token {image_token_id}, the image token of config.json")

    def template(self, conv_mode: str | None) -> tuple[str, ConversationTemplate, str]:
        """Name, conversation template and the reason for it."""
        return template_for(conv_mode, self._tokenizer.token_to_id("<|im_start|>") is not None)

    def split_prompt(self, prompt: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image token, the beginning-of-sequence token included.

        Raises:
            UsageError: the prompt does not have exactly one image token.
        """
        ids = self._tokenizer.encode(prompt).ids
        if ids.count(self._image_token_id) != 1:
            raise UsageError(
                f"the prompt has {ids.count(self._image_token_id)} image tokens, it must have one: {prompt!r}"
            )
        position = ids.index(self._image_token_id)
        return ids[:position], ids[position + 1 :]

    def stop_ids(self, template: ConversationTemplate) -> list[int]:
        """Tokens that end a caption: those of the configs, of the tokenizer and of the template.

        Raises:
            UsageError: there are none, or a JSON file of the checkpoint can't be read.
        """
        ids: list[int] = []
        for name in ("generation_config.json", "config.json"):
            eos = read_settings(self._folder / name).get("eos_token_id")
            ids += eos if isinstance(eos, list) else [eos] if eos is not None else []
        tokens = [_text_of(read_settings(self._folder / "tokenizer_config.json").get("eos_token")), template.end]
        ids += [i for i in map(self._tokenizer.token_to_id, filter(None, tokens)) if i is not None]
        if not ids:
            raise UsageError(f"checkpoint {self._folder} names no end-of-sequence token (generation_config.json)")
        return sorted(set(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _text_of(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
