"""A checkpoint's tokenizer: converts the prompt to token ids, and token ids to captions.

Needs only the `tokenizers` package and imports no framework. Knows nothing about model families: the caller passes the
image token, or the placeholder of images and videos.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from ..process.errors import UsageError
from .chat_template import TOKENIZER_CONFIG, special_tokens, token_text
from .checkpoint_config import read_settings
from .prompts import ConversationTemplate, template_for


class CheckpointTokenizer:
    """The tokenizer in a checkpoint's `tokenizer.json`.

    image_token_id: the token in the place of the clip; None if prompts are not split at a single token.

    Raises:
        UsageError: the file is missing or unreadable, or its vocabulary does not contain the image token.
    """

    def __init__(self, folder: Path, image_token_id: int | None) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise UsageError(f"checkpoint {folder} has no tokenizer.json")
        self.file = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises plain Exception
            raise UsageError(f"{path} can't be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._folder = folder
        self._image_token_id = image_token_id
        if image_token_id is not None and self._tokenizer.id_to_token(image_token_id) is None:
            raise UsageError(f"{path} has no token {image_token_id}, the image token of config.json")

    def template(self, conv_mode: str | None) -> tuple[str, ConversationTemplate, str]:
        """Name and template of the conversation template, and the reason of the choice; see `template_for`."""
        return template_for(conv_mode, self._tokenizer.token_to_id("<|im_start|>") is not None)

    @property
    def size(self) -> int:
        """Number of tokens, including those that were added to the vocabulary."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def token(self, number: int) -> str:
        """A token with its id, for messages."""
        return f"{self._tokenizer.id_to_token(number) or '(not in the vocabulary)'} ({number})"

    def special_token_in(self, text: str) -> str:
        """A special token whose text occurs in `text`; '' if there is none."""
        return next((token for token in self._special_tokens.values() if token in text), "")

    @functools.cached_property
    def added_ids(self) -> frozenset[int]:
        """Ids of the tokens that were added to the vocabulary, which are found in a text before it is divided."""
        return frozenset(self._tokenizer.get_added_tokens_decoder())

    @functools.cached_property
    def _special_tokens(self) -> dict[int, str]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items() if token.special}

    def without_control_tokens(self, text: str, control: Collection[int] = ()) -> str:
        """A text in which no special token takes effect: a space after the first character makes it ordinary text.

        `a <|im_end|> b` becomes `a < |im_end|> b`. The tokenizer itself finds the tokens, because those that match
        normalised text also match other spellings. A token that a space does not break is removed.

        control: ids of further tokens to break, such as placeholders that are not marked as special.
        """
        control = {*self._special_tokens, *control}
        spans = self._spans(text, control)
        replace = _broken
        while spans:
            text = _with_spans_replaced(text, spans, replace)
            replace, spans = _removed, self._spans(text, control)
        return text

    def _spans(self, text: str, control: Collection[int]) -> list[tuple[int, int]]:
        """Where tokens of `control` are in a text: begin and end, from the first to the last."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [span for number, span in found if number in control and not self._is_unknown(number, text, *span)]

    @functools.cached_property
    def _unknown(self) -> object:
        """The text of the unknown token; None if the vocabulary has none."""
        return special_tokens(self._folder).get("unk_token") or getattr(self._tokenizer.model, "unk_token", None)

    def _is_unknown(self, number: int, text: str, begin: int, end: int) -> bool:
        """Whether a token stands for characters that the vocabulary does not have."""
        unknown = self._special_tokens.get(number, "")
        return unknown == self._unknown and unknown not in text[begin:end]

    def token_id(self, token: str) -> int | None:
        """The id of a token; None if the vocabulary does not have it."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    def split_prompt(self, prompt: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image token, including the beginning-of-sequence token.

        Raises:
            UsageError: the prompt does not have exactly one image token.
        """
        ids = self._tokenizer.encode(prompt).ids
        assert self._image_token_id is not None
        if ids.count(self._image_token_id) != 1:
            raise UsageError(
                f"the prompt has {ids.count(self._image_token_id)} image tokens, but it must have one: {prompt!r}"
            )
        position = ids.index(self._image_token_id)
        return ids[:position], ids[position + 1 :]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a whole prompt without blocks, including the beginning-of-sequence token."""
        return list(self._tokenizer.encode(prompt).ids)

    def count(self, text: str) -> int:
        """Number of tokens of a piece of text, without the tokens that begin or end a prompt."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def stop_ids(self, template: ConversationTemplate | None = None) -> list[int]:
        """Token ids that end a caption: those of both config files, of the tokenizer and of the template, if given.

        Raises:
            UsageError: there are none, a JSON file of the checkpoint can't be read, or an entry has the wrong type.
        """
        ids = self._configured_stop_ids()
        tokens = [token_text(read_settings(self._folder / TOKENIZER_CONFIG).get("eos_token"))]
        tokens += [template.end] if template else []
        ids += [i for i in map(self._tokenizer.token_to_id, filter(None, tokens)) if i is not None]
        if not ids:
            raise UsageError(f"checkpoint {self._folder} defines no end-of-sequence token (generation_config.json)")
        return sorted(set(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _configured_stop_ids(self) -> list[int]:
        return [
            *self._eos_ids("generation_config.json", read_settings(self._folder / "generation_config.json")),
            *self._eos_ids("config.json", read_settings(self._folder / "config.json")),
        ]

    def _eos_ids(self, name: str, settings: Mapping[str, Any]) -> list[int]:
        eos = settings.get("eos_token_id")
        found = eos if isinstance(eos, list) else [eos] if eos is not None else []
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
            raise UsageError(f"{self._folder / name}: eos_token_id is {eos!r}; expected a token id or a list of them")
        return found


class PromptTokenizer(CheckpointTokenizer):
    """Encodes prompts as the checkpoint's tokenizer class in transformers does; prompts have any number of blocks.

    A block is an image or a video, whose place is a placeholder in the prompt. Transformers encodes a prompt in which
    the placeholder's token is repeated for each visual token; the tokens around the blocks are the same.

    Raises:
        UsageError: see CheckpointTokenizer; or a setting of the tokenizer's files is unusable.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, None)
        self._bos: str | None = special_tokens(folder).get("bos_token")
        if read_settings(folder / TOKENIZER_CONFIG).get("tokenizer_class") in _LLAMA_CLASSES:
            self._add_llama_tokens(read_settings(folder / TOKENIZER_CONFIG))

    def _configured_stop_ids(self) -> list[int]:
        """With those of the text model, which transformers takes if generation_config.json has none."""
        text = read_settings(self._folder / "config.json").get("text_config")
        own = self._eos_ids("config.json: text_config", text) if isinstance(text, dict) else []
        return super()._configured_stop_ids() + own

    def prompt_ids(self, prompt: str) -> list[int]:
        """As in the base class, but special tokens such as the beginning of sequence are not added to a prompt that
        begins with the text of that token, as chat templates may write it.
        """
        return list(self._tokenizer.encode(prompt, add_special_tokens=not self._begins_with_bos(prompt)).ids)

    def split(self, prompt: str, placeholder: str | int, blocks: int) -> list[list[int]]:
        """Token ids before, between and after the blocks: blocks + 1 lists. The prompt is encoded as by `prompt_ids`.

        placeholder: text of the placeholder, which must be one token, or the id of this token. Empty if the prompt
            contains none, because the blocks stand before it and before its special tokens (BLIP-2).

        Raises:
            UsageError: the placeholder is not a token, or the prompt does not contain it `blocks` times.
        """
        ids = self.prompt_ids(prompt)
        if placeholder == "":
            return [*([] for _ in range(blocks)), ids]
        token = placeholder if isinstance(placeholder, int) else self._tokenizer.token_to_id(placeholder)
        if token is None:
            raise UsageError(f"{self.file} has no token {placeholder}, the placeholder of images or videos")
        pieces: list[list[int]] = [[]]
        for i in ids:
            if i == token:
                pieces.append([])
            else:
                pieces[-1].append(i)
        return self._checked(pieces, prompt, placeholder, blocks)

    def split_parts(self, prompt: str, placeholder: str, blocks: int) -> list[list[int]]:
        """As `split`, but the text is split at the placeholder, and each part is encoded alone.

        The public LLaVA programs encode prompts in this way (`tokenizer_image_token`); the placeholder need not be a
        token. Special tokens are added to the first and after the last part.

        Raises:
            UsageError: the prompt does not contain the placeholder `blocks` times.
        """
        pieces = [self._tokenizer.encode(part, add_special_tokens=False).ids for part in prompt.split(placeholder)]
        if not self._begins_with_bos(prompt):
            # Position of the text among special tokens, from a text of at least one token.
            sequences = self._tokenizer.encode("a").sequence_ids
            ids = self._tokenizer.encode("a").ids
            begin, end = sequences.index(0), len(sequences) - sequences[::-1].index(0)
            pieces[0] = ids[:begin] + pieces[0]
            pieces[-1] = pieces[-1] + ids[end:]
        return self._checked(pieces, prompt, placeholder, blocks)

    def _begins_with_bos(self, prompt: str) -> bool:
        return self._bos is not None and prompt.startswith(self._bos)

    def _checked(self, pieces: list[list[int]], prompt: str, placeholder: str | int, blocks: int) -> list[list[int]]:
        if len(pieces) != blocks + 1:
            raise UsageError(
                f"the prompt has the placeholder {placeholder} {len(pieces) - 1} times, but it must have it {blocks} "
                f"times: {prompt!r}"
            )
        return pieces

    def _add_llama_tokens(self, settings: dict[str, Any]) -> None:
        """Special tokens of Llama's class follow its settings, whatever `tokenizer.json` says."""
        single, tokens = ["$A:0"], []
        for setting, name, default, added in (
            ("add_bos_token", "bos_token", "<s>", True),
            ("add_eos_token", "eos_token", "</s>", False),
        ):
            if not settings.get(setting, added):
                continue
            token = token_text(settings.get(name, default))
            number = None if token is None else self._tokenizer.token_to_id(token)
            if number is None:
                raise UsageError(f"{self.file} has no {name} {token!r}, but {TOKENIZER_CONFIG} has {setting}")
            single.insert(0 if name == "bos_token" else len(single), f"{token}:0")
            tokens.append((token, number))
        self._tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=tokens)


_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


def _with_spans_replaced(text: str, spans: Sequence[tuple[int, int]], replace: Callable[[str], str]) -> str:
    parts, position = [], 0
    for begin, end in spans:
        parts += [text[position:begin], replace(text[begin:end])]
        position = end
    return "".join(parts) + text[position:]


def _broken(token: str) -> str:
    """A token with a space after its first character. Spaces around it belong to tokens that take them too."""
    word = token.strip()
    return token.replace(word, f"{word[0]} {word[1:]}") if len(word) > 1 else ""


def _removed(token: str) -> str:
    return ""
