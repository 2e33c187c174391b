"""A checkpoint's tokenizer: converts the prompt to token ids, and token ids to captions.

Needs only the `tokenizers` package and imports no framework. Knows nothing about model families: the caller passes the
image token.
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
    """The tokenized prompt, which is the same for every clip of a run.

    text: the whole prompt, with the image placeholder.
    before, after: token ids before and after the visual tokens.
    stop_ids: token ids that end a caption.
    """

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    stop_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of text tokens, without the visual tokens."""
        return len(self.before) + len(self.after)


class CheckpointTokenizer:
    """The tokenizer in a checkpoint's `tokenizer.json`.

    image_token_id: the token in the place of the clip.

    Raises:
        UsageError: the file is missing or unreadable, or its vocabulary does not contain the image token.
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
        """Name and template of the conversation template, and the reason of the choice; see `template_for`."""
        return template_for(conv_mode, self._tokenizer.token_to_id("<|im_start|>") is not None)

    def split_prompt(self, prompt: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image token, including the beginning-of-sequence token.

        Raises:
            UsageError: the prompt does not have exactly one image token.
        """
        ids = self._tokenizer.encode(prompt).ids
        if ids.count(self._image_token_id) != 1:
            raise UsageError(
                f"the prompt has {ids.count(self._image_token_id)} image tokens, but it must have one: {prompt!r}"
            )
        position = ids.index(self._image_token_id)
        return ids[:position], ids[position + 1 :]

    def stop_ids(self, template: ConversationTemplate) -> list[int]:
        """Token ids that end a caption: those of both config files, of the tokenizer and of the template.

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
            raise UsageError(f"checkpoint {self._folder} defines no end-of-sequence token (generation_config.json)")
        return sorted(set(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _text_of(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
