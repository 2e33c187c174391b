"""Chat templates are found where checkpoints store them, and rendered to the text that transformers makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.chat_template import (
    ChatTemplate,
    find_template,
    overridden_template,
    render,
    special_tokens,
)
from pipeline.captioning.process.errors import UsageError
from tests.captioning.captioners.chat_templates import MISTRAL, PUBLISHED
from tests.golden import DATA, SHARED

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def _turn(role: str, *parts: str) -> dict[str, Any]:
    """A turn whose parts "image" and "video" are blocks, and whose other parts are text."""
    content = [{"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


CONVERSATIONS = {
    "image": [_turn("user", "image", "What is it?")],
    "video": [_turn("user", "video", "What moves? ")],
    "images": [_turn("user", "image", "image", "image", " Compare:\n<b>them</b> & 'these'.")],
    "system": [_turn("system", "Be brief."), _turn("user", "image", "What is it?")],
    "turns": [_turn("user", "image", "One?"), _turn("assistant", "Yes."), _turn("user", "Größe, 大小?")],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in _TOKENIZER_FILES:
        shutil.copy(DATA / "mini-a" / name, tmp_path)
    return tmp_path


def _template(text: str) -> ChatTemplate:
    return ChatTemplate(text, Path("folder/chat_template.jinja"))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_text_is_that_of_transformers(folder: Path, name: str, conversation: str) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    (folder / "chat_template.jinja").write_text(PUBLISHED[name])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = LlavaProcessor(CLIPImageProcessor(), tokenizer, chat_template=PUBLISHED[name])
    messages = CONVERSATIONS[conversation]
    found = find_template(folder)
    assert found is not None
    if conversation == "system" and PUBLISHED[name] == MISTRAL:
        with pytest.raises(UsageError, match=r"chat_template\.jinja: the chat template fails: A turn of system is"):
            render(found, messages, special_tokens(folder))
        return
    text = render(found, messages, special_tokens(folder))
    for maker in (tokenizer, processor):
        expected = maker.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == expected
    assert "What" in text or "Compare" in text or "One?" in text


@pytest.mark.parametrize(
    ("name", "conversation", "text"),
    [
        ("llava-1.5", "image", "USER: <image>\nWhat is it? ASSISTANT:"),
        ("llava-1.5", "system", "Be brief. USER: <image>\nWhat is it? ASSISTANT:"),
        ("llava-v1.6-mistral", "turns", "[INST] <image>\nOne? [/INST] Yes.</s>[INST] Größe, 大小? [/INST]"),
        (
            "llava-v1.6-34b",
            "image",
            "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("llava-next-video", "video", "USER: <video>\nWhat moves?  ASSISTANT:"),
        ("llava-onevision", "video", "<|im_start|>user <video>\nWhat moves? <|im_end|><|im_start|>assistant\n"),
        (
            "qwen2.5-vl",
            "video",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            "<|video_pad|><|vision_end|>What moves? <|im_end|>\n<|im_start|>assistant\n",
        ),
        ("janus-pro", "image", "<|User|>: <image_placeholder>\nWhat is it?\n\n<|Assistant|>:"),
        ("internvl3", "video", "<|im_start|>user\n<video>\nWhat moves? <|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_text_is_that_of_the_published_prompts(name: str, conversation: str, text: str) -> None:
    assert render(_template(PUBLISHED[name]), CONVERSATIONS[conversation], {"eos_token": "</s>"}) == text


# Each shows a setting of the environment: without it, the text differs or the template does not compile.
@pytest.mark.parametrize(
    "text",
    [
        "{{ messages | tojson }} {{ messages[0] | tojson(indent=2, sort_keys=True) }}",
        "  {% if true %}\n  a\n  {% endif %}\nb",
        "{% for turn in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ turn.role }}{% endfor %}",
        "{% for turn in messages %}{% if turn.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}{% endfor %}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}\n{% endgeneration %}\n{{ x }}",
        "{{ tools is none }} {{ documents is none }} {{ unknown }} {{ unknown is defined }}",
        "{{ strftime_now('%Y') }}",
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ additional_special_tokens }}",
    ],
)
def test_the_environment_is_that_of_transformers(folder: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [_turn("system", "Ä <b>"), _turn("user", "image", "x"), _turn("user", "y")]
    expected = tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False, add_generation_prompt=True)
    assert render(_template(text), messages, special_tokens(folder)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}", "does not compile: .*endfor.*line 1"),
        ("{{ messages | nofilter }}", "does not compile: No filter named 'nofilter'"),
        ("{{ raise_exception('No\\nway') }}", "fails: No way$"),
        ("{{ messages[0].content + 'x' }}", "fails: can only concatenate list"),
        ("{{ messages.append(1) }}", "fails: .*unsafe|fails: .*not callable|fails: access to attribute"),
        ("{{ ().__class__.__base__ }}{{ ''.__class__.mro() }}", "fails: "),
    ],
)
def test_an_unusable_template_is_a_usage_error_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        render(_template(text), CONVERSATIONS["image"], {})
    assert str(raised.value).startswith("folder/chat_template.jinja: the chat template ")
    assert "\n" not in str(raised.value)


def test_the_first_file_with_a_template_is_used(folder: Path) -> None:
    assert find_template(folder) is None
    written = {}
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        path = folder / name
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**settings, "chat_template": name}))
        written[name] = ChatTemplate(name, path)
        assert find_template(folder) == written[name]
    assert overridden_template(folder) is None
    (folder / "chat_template.jinja").write_text("raw")
    assert find_template(folder) == ChatTemplate("raw", folder / "chat_template.jinja")
    assert overridden_template(folder) == folder / "chat_template.json"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "raw"}))
    assert overridden_template(folder) is None


@pytest.mark.parametrize("kind", ["jinja", "json", "tokenizer", "list"])
def test_transformers_finds_the_same_template(folder: Path, kind: str) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    named = [{"name": "rag", "template": "other"}, {"name": "default", "template": "text of {{ messages[0].role }}"}]
    template = named[1]["template"]
    LlavaProcessor(CLIPImageProcessor(), AutoTokenizer.from_pretrained(folder)).save_pretrained(folder)
    assert not (folder / "chat_template.jinja").exists()
    if kind == "jinja":
        (folder / "chat_template.jinja").write_text(template)
    elif kind == "json":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = named if kind == "list" else template
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    maker = AutoTokenizer if kind in ("tokenizer", "list") else LlavaProcessor
    messages = CONVERSATIONS["image"]
    found = find_template(folder)
    assert found is not None
    expected = maker.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
    assert render(found, messages, special_tokens(folder)) == expected == "text of user"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"chat_template": [{"name": "rag", "template": "x"}]}',
            r"no chat template is named default \(there are: r",
        ),
        ('{"chat_template": ["x"]}', "lack name or template"),
        ('{"chat_template": 7}', "chat_template is int, not text"),
        ("[]", "holds no JSON object"),
        ("{", "can't be read"),
    ],
)
def test_an_unusable_file_is_a_usage_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "chat_template.json").write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        find_template(tmp_path)
    assert "chat_template.json" in str(raised.value)


def test_a_raw_template_that_is_not_text_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"chat_template\.jinja can't be read"):
        find_template(tmp_path)


def test_the_special_tokens_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    def compare() -> dict[str, Any]:
        found = special_tokens(folder)
        assert found == AutoTokenizer.from_pretrained(folder).special_tokens_map
        return found

    assert compare()["bos_token"] == "<s>"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = {"image_token": "<image>"}
    config["additional_special_tokens"] = ["<image>"]
    config["eos_token"] = {"content": "<pad>", "special": True, "__type": "AddedToken"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = compare()
    assert (found["image_token"], found["eos_token"]) == ("<image>", "<pad>")
    # The layout of old versions: special_tokens_map.json has precedence.
    del config["added_tokens_decoder"], config["extra_special_tokens"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert compare()["eos_token"] == "</s>"


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="a clone does not contain the golden checkpoints")
def test_the_special_tokens_of_a_qwen_checkpoint_are_those_of_transformers() -> None:
    from transformers import AutoTokenizer

    folder = SHARED / "golden" / "llava-video-a" / "checkpoint"
    assert special_tokens(folder) == AutoTokenizer.from_pretrained(folder).special_tokens_map


def test_transformers_is_not_imported() -> None:
    program = (
        "import sys; import pipeline.captioning.captioners.family_prompts, pipeline.captioning.captioners.tokenizer; "
        "sys.exit(any(name in sys.modules for name in ('transformers', 'torch', 'mindspore')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
