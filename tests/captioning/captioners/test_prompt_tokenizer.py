"""Prompts with images and videos have the token ids of transformers and of the public LLaVA programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.captioning.captioners.tokenizer import CheckpointTokenizer, PromptTokenizer
from pipeline.captioning.process.errors import UsageError
from tests.golden import DATA, SHARED

GOLDEN = SHARED / "golden" / "llava-video-a"
_TEXTS = ["USER: <image>\nWhat is shown in these images? ASSISTANT:", "A man describes the video in 12 words, größer."]


def _save(folder: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _llama(folder: Path, metaspace: bool = False, **settings: Any) -> Path:
    """A BPE of sentencepiece's form with a beginning of sequence; spaces are as in old or new checkpoints."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", "<image>", "<video>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *(f"<0x{i:02X}>" for i in range(256))])
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return _save(folder, tokenizer, tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", **settings)


def _qwen(folder: Path) -> Path:
    """A byte-level BPE without a beginning of sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return _save(folder, tokenizer, tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>", bos_token=None)


def _joined(pieces: list[list[int]], token: int, repeats: int) -> list[int]:
    """The ids of a prompt in which each block is `repeats` visual tokens."""
    ids = list(pieces[0])
    for piece in pieces[1:]:
        ids += [token] * repeats + piece
    return ids


_LLAMA_PROMPTS = [
    "USER: <image>\nWhat is shown? ASSISTANT:",
    "USER:<image> What  is shown ? ASSISTANT: ",
    "<image><image>\n<image>",
    "<s>[INST] <image>\nWhat? [/INST]",
    "Größe 大小 <image>",
]


@pytest.mark.parametrize("prompt", _LLAMA_PROMPTS)
@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": False}, {"add_eos_token": True}])
def test_a_llama_prompt_has_the_ids_of_transformers(
    tmp_path: Path, prompt: str, metaspace: bool, settings: dict[str, bool]
) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    folder = _llama(tmp_path, metaspace, **settings)
    blocks = prompt.count("<image>")
    reference = AutoTokenizer.from_pretrained(folder)
    tokenizer = PromptTokenizer(folder)
    pieces = tokenizer.split(prompt, "<image>", blocks)
    image = reference.convert_tokens_to_ids("<image>")
    assert pieces == tokenizer.split(prompt, image, blocks)
    expanded = prompt.replace("<image>", "<image>" * 5)
    # The processor adds no special tokens to a text that begins with one, so that there is one only.
    processor = LlavaProcessor(CLIPImageProcessor(), reference, chat_template="{{ messages[0].content[0].text }}")
    messages = [{"role": "user", "content": [{"type": "text", "text": expanded}]}]
    expected = processor.apply_chat_template(messages, tokenize=True)[0]
    assert _joined(pieces, image, 5) == expected
    assert expected.count(reference.bos_token_id) == (prompt.startswith("<s>") or settings.get("add_bos_token", True))


def test_a_qwen_prompt_has_the_ids_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|video_pad|>"
        "<|vision_end|>Describe the video.<|im_end|>\n<|im_start|>assistant\n"
    )
    reference = AutoTokenizer.from_pretrained(_qwen(tmp_path))
    pieces = PromptTokenizer(tmp_path).split(prompt, "<|video_pad|>", 1)
    video = reference.convert_tokens_to_ids("<|video_pad|>")
    assert _joined(pieces, video, 7) == reference(prompt.replace("<|video_pad|>", "<|video_pad|>" * 7))["input_ids"]
    assert pieces[0][-1] == reference.convert_tokens_to_ids("<|vision_start|>")


@pytest.mark.parametrize("name", ["mini-a", "mini-a-merged"])
def test_a_pllava_prompt_has_the_same_ids_both_ways(name: str) -> None:
    prompt = "Watch. USER:<image> Describe it. ASSISTANT:"
    before, after = CheckpointTokenizer(DATA / name, 500).split_prompt(prompt)
    assert PromptTokenizer(DATA / name).split(prompt, "<image>", 1) == [before, after]


def test_an_empty_placeholder_is_before_the_whole_prompt(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    text = "Question: What? Answer:"
    expected = AutoTokenizer.from_pretrained(_llama(tmp_path))(text)["input_ids"]
    assert PromptTokenizer(tmp_path).split(text, "", 1) == [[], expected]
    assert PromptTokenizer(tmp_path).split(text, "", 2) == [[], [], expected]


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    prompt = "USER: <image>\nWhat is shown in this image? ASSISTANT:"
    expected = PromptTokenizer(_llama(tmp_path)).split(prompt, "<image>", 1)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=99)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert PromptTokenizer(tmp_path).split(prompt, "<image>", 1) == expected
    assert AutoTokenizer.from_pretrained(tmp_path)(prompt)["input_ids"] == _joined(expected, 3, 1)


@pytest.mark.parametrize("prompt", [*_LLAMA_PROMPTS, "<image>"])
@pytest.mark.parametrize("metaspace", [False, True])
def test_parts_are_encoded_alone_as_in_the_public_llava(tmp_path: Path, prompt: str, metaspace: bool) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(_llama(tmp_path, metaspace))
    # tokenizer_image_token of the public program: the first token of each part is dropped, except the first one.
    parts = [reference(part)["input_ids"] for part in prompt.split("<image>")]
    expected = [[reference.bos_token_id] if i == 0 else [] for i in range(len(parts))]
    for piece, part in zip(expected, parts, strict=True):
        assert part[0] == reference.bos_token_id
        piece += part[1:]
    if prompt.startswith("<s>"):
        expected[0] = expected[0][1:]  # the public program repeats it; here it is there once
    assert PromptTokenizer(tmp_path).split_parts(prompt, "<image>", len(parts) - 1) == expected


def test_special_tokens_after_the_text_come_after_the_last_part(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(_llama(tmp_path, add_eos_token=True))
    first, middle, last = tokenizer.split_parts("one<image>two<image>three", "<image>", 2)
    assert (first[0], last[-1]) == (1, 2)
    assert not {1, 2} & {*first[1:], *middle, *last[:-1]}
    assert tokenizer.split_parts("<image>", "<image>", 1) == [[1], [2]]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="a clone does not contain the golden outputs of LLaVA-Video")
def test_the_ids_of_llava_video_are_those_of_the_public_program() -> None:
    cases = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["cases"]
    tokenizer = PromptTokenizer(GOLDEN / "checkpoint")
    assert len(cases) == 35
    for case in cases:
        before, after = tokenizer.split_parts(case["prompt"], "<image>", 1)
        assert [*before, -200, *after] == case["input_ids"], case["name"]
    assert tokenizer.stop_ids() == [609, 611]


def test_a_wrong_number_of_placeholders_is_a_usage_error(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(_llama(tmp_path))
    for split in (tokenizer.split, tokenizer.split_parts):
        with pytest.raises(UsageError, match="placeholder <image> 1 times, but it must have it 2 times: 'a <image>'"):
            split("a <image>", "<image>", 2)
    with pytest.raises(UsageError, match=r"tokenizer\.json has no token <\|video_pad\|>"):
        tokenizer.split("a <|video_pad|>", "<|video_pad|>", 1)


def test_a_llama_tokenizer_without_its_special_token_is_a_usage_error(tmp_path: Path) -> None:
    _llama(tmp_path)
    config = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<begin>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"has no bos_token '<begin>', but tokenizer_config\.json has add_bos_token"):
        PromptTokenizer(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        PromptTokenizer(tmp_path)


def test_the_stop_ids_of_the_text_model_are_used_too(tmp_path: Path) -> None:
    """As transformers does for checkpoints without a generation_config.json, such as BLIP-2 with OPT."""
    folder = _llama(tmp_path)
    (folder / "config.json").write_text('{"eos_token_id": 7, "text_config": {"eos_token_id": [9, 11]}}')
    assert PromptTokenizer(folder).stop_ids() == [2, 7, 9, 11]
    assert CheckpointTokenizer(folder, 3).stop_ids() == [2, 7]
    (folder / "config.json").write_text('{"text_config": {"eos_token_id": "x"}}')
    with pytest.raises(UsageError, match=r"config\.json: text_config: eos_token_id is 'x'; expected a token id"):
        PromptTokenizer(folder).stop_ids()
