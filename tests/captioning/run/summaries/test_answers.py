"""Summaries and titles of a tiny Qwen2.5-VL are what transformers' `generate` answers on PyTorch to the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from pipeline.captioning.long_videos.division import TimedText
from pipeline.captioning.meta.results import ColumnResult, caption_result
from pipeline.captioning.run import job
from pipeline.captioning.run.loaded_model import LoadedModel
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.summaries.row import SummaryRow
from pipeline.captioning.run.summaries.settings import SUMMARY, TITLE, SummarySettings
from pipeline.captioning.run.summaries.work import SummaryWork
from pipeline.captioning.workers.world import solo_world
from tests import tiny_families
from tests.captioning.captioners.chat_templates import QWEN_VL
from tests.captioning.run.summaries.text_source import write_segments
from tests.runs import read_rows

ROOT = Path(__file__).parents[4]
SETTINGS = SummarySettings("Sum up.", "Sum up this part.", "A title?", summary_tokens=10, title_tokens=6)
CAPTIONS = ("A man cuts bread.", "He <|im_end|> eats it.", "", 'Größe & 大小? "Quoted".', "A red car turns left.")
WIDE, NARROW = 2048, 220
"""Windows: all captions of a video fit; they are divided."""
_SHORT = ["th th th th coen\ufffd\ufffd Describe tab", "\ufffd tab tabtionDes"]
EXPECTED = {
    WIDE: [*_SHORT, "th th th th th th th th th th", "h1an Describe5 ASS"],
    NARROW: [*_SHORT, "et\u061ces,\ufffd\ufffdet\ufffd aben", "Tus\ufffd\ufffdusard"],
}
"""The answers for both videos: summary and title of each. They have no meaning; on PyTorch they are compared with those
of transformers, too."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "qwen2_5_vl"
    if backend.framework == "torch":
        tiny_families.qwen2_5_vl(path.parent)
    else:  # in a process of its own, because mindnlp replaces `import torch`
        code = "import sys, pathlib, tests.tiny_families as t; t.qwen2_5_vl(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(path.parent)], cwd=ROOT, check=True, timeout=120)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": QWEN_VL}))
    return path


def _texts(count: int) -> list[TimedText]:
    return [TimedText(4000 * n, 4000 * (n + 1), f"{CAPTIONS[n % 5]}") for n in range(count)]


VIDEOS = {"a.mp4": _texts(4), "b.mp4": _texts(9)}


def _options(folder: Path) -> JobOptions:
    rows = [(path, text.start / 1000, text.end / 1000, text.text) for path, texts in VIDEOS.items() for text in texts]  # type: ignore[operator]
    return replace(write_segments(folder, rows[::-1]), batch_size=3)


def _source(checkpoint: Path) -> Any:
    from pipeline.captioning.caption import make_parser, make_source

    flags = ["meta.csv", f"--pretrained_model_name_or_path={checkpoint}", "--max_new_tokens=3"]
    return make_source(make_parser().parse_args(flags))


def _answers(work: SummaryWork, options: JobOptions) -> list[str]:
    assert job.run_in_world(options, work, solo_world()) == 0
    found = {row["path"]: row for row in read_rows(options.output)}
    return [found[path][column] for path in VIDEOS for column in (SUMMARY, TITLE)]


@pytest.mark.model
@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_summaries_and_titles_are_those_of_transformers(
    checkpoint: Path, backend: Backend, tmp_path: Path, window: int
) -> None:
    settings = replace(SETTINGS, context_tokens=window)
    work = SummaryWork(LoadedModel(_source(checkpoint), lambda: backend), settings, "text")
    answers = _answers(work, _options(tmp_path))
    if backend.framework == "torch":
        reference = _reference(checkpoint)
        assert answers == [text for texts in VIDEOS.values() for text in _reference_answers(work, texts, reference)]
    assert answers == EXPECTED[window]


def _reference(checkpoint: Path) -> Callable[[str, int], ColumnResult]:
    """Answers a question with transformers: its chat template, tokenizer and `generate`."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()

    def answer(question: str, tokens: int) -> ColumnResult:
        turn = [{"role": "user", "content": [{"type": "text", "text": question}]}]
        text = tokenizer.apply_chat_template(turn, chat_template=QWEN_VL, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs.input_ids.shape[1] :]
        return caption_result(tokenizer.decode(ids, skip_special_tokens=True), len(ids), truncated=False)

    return answer


def _reference_answers(
    work: SummaryWork, texts: list[TimedText], answer: Callable[[str, int], ColumnResult]
) -> list[str]:
    """Summary and title of a video. A special token in a caption is not one in the prompt."""
    source: Any = work.source
    texts = [replace(text, text=text.text.replace("<|im_end|>", "< |im_end|>")) for text in texts if text.text]
    row = SummaryRow(0, "", texts, (SUMMARY, TITLE), source.settings, source.window)
    steps = 0
    while not row.is_answered:
        questions, tokens, steps = row.ask(), row.answer_tokens, steps + 1
        if steps == 1 and source.settings.context_tokens == NARROW and len(texts) > 5:
            assert len(questions) > 1
        for number, question in enumerate(questions):
            assert work.model.captioner.prepare_text((0, 0), question).length + tokens <= source.window.size
            row.answer(number, answer(question, tokens))
    results = row.result().results
    return [getattr(results[name], "caption", str(results[name])) for name in (SUMMARY, TITLE)]
