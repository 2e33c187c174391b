"""All families from the command's flags to token ids: the answers are those of transformers' `generate` on PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.backends import Backend
from tests.golden import token_ids
from tests.tiny_families import Family

from . import reference_cases as cases

_WITH_BEAMS = [name for name, case in cases.CASES.items() if case.beams]


def _source(families: dict[str, Family], name: str, folder: Path, *flags: str) -> tuple[Any, dict[str, Any]]:
    """What caption.py makes of a checkpoint, and its recorded answers."""
    expected = cases.recorded()[name]
    written = families[cases.checkpoint_of(name)].folder
    assert cases.digest(written) == expected["digest"], "the checkpoint has changed: run record.py again"
    checkpoint = folder / name
    if not checkpoint.exists():
        cases.checkpoint(written, name, checkpoint, expected["stop ids"])
    return cases.source(checkpoint, name, *flags), expected


@pytest.mark.model
@pytest.mark.parametrize("name", cases.CASES)
def test_greedy_answers(families: dict[str, Family], backend: Backend, name: str, tmp_path: Path) -> None:
    """Eight clips of mixed sizes and lengths on three slots; some answers end early, so that slots are refilled."""
    source, expected = _source(families, name, tmp_path)
    source.check_weights()
    assert token_ids(source.load(backend), cases.clips(source), cases.SLOTS) == expected["greedy"]


@pytest.mark.model
@pytest.mark.parametrize("name", cases.CASES)
def test_still_images_among_videos(families: dict[str, Family], backend: Backend, name: str, tmp_path: Path) -> None:
    """Images of six sizes and videos take turns. Each image has one block, and the tokens of transformers' `generate`
    with the image processor and the placeholder of images.
    """
    source, expected = _source(families, name, tmp_path)
    images, videos = cases.image_clips(source), cases.clips(source)[:3]
    assert len(images) == len(expected["images"]) and all(
        len(source.prompts.pieces(image, "?")) == 2 for image in images
    )
    mixed = [images[0], videos[0], images[1], videos[1], images[2], *images[3:5], videos[2], images[5]]
    found = token_ids(source.load(backend), mixed, cases.SLOTS)
    by_row = dict(zip([clip.row for clip in mixed], found, strict=True))
    assert [by_row[image.row] for image in images] == expected["images"]
    assert [by_row[video.row] for video in videos] == expected["greedy"][:3]


@pytest.mark.model
@pytest.mark.parametrize("name", _WITH_BEAMS)
def test_beams(families: dict[str, Family], backend: Backend, name: str, tmp_path: Path) -> None:
    flags = f"--num_beams={cases.BEAMS}", f"--max_new_tokens={cases.BEAM_TOKENS}"
    source, expected = _source(families, name, tmp_path, *flags)
    clips = [cases.clips(source)[row] for row in cases.BEAM_ROWS]
    found = token_ids(source.load(backend), clips, cases.SLOTS)
    assert found == expected["beams"]
    assert found != [expected["greedy"][row][: cases.BEAM_TOKENS] for row in cases.BEAM_ROWS], "beams have no effect"


@pytest.mark.parametrize("name", _WITH_BEAMS)
def test_samples_depend_on_seed_and_row_only(
    families: dict[str, Family], backend: Backend, name: str, tmp_path: Path
) -> None:
    flags = "--do_sample", "--max_new_tokens=5", "--seed=1"
    source, expected = _source(families, name, tmp_path, *flags)
    clips = cases.clips(source)[:4]
    captioner = source.load(backend)
    together = token_ids(captioner, clips, slots=4)
    assert token_ids(captioner, clips[::-1], slots=2) == together[::-1]
    assert token_ids(captioner, clips[1:2]) == together[1:2]
    other = _source(families, name, tmp_path, *flags[:2], "--seed=2")[0].load(backend)
    assert token_ids(other, clips, slots=4) != together != [ids[:5] for ids in expected["greedy"][:4]]


@pytest.mark.parametrize(("name", "counts"), [("qwen2_vl", True), ("blip2_opt", True), ("blip2_t5", False)])
def test_the_penalty_covers_the_text_of_the_prompt_except_that_of_an_encoder(
    families: dict[str, Family], backend: Backend, name: str, counts: bool, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    source, _ = _source(families, name, tmp_path)
    request = source.load(backend).prepare(cases.clips(source)[:1])[0]
    tokenizer = Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
    assert (cases.QUESTION in tokenizer.decode(list(request.history_ids))) == counts
    assert counts or request.history_ids == ()


@pytest.mark.model
def test_a_stop_token_that_is_not_special_is_no_text(
    families: dict[str, Family], backend: Backend, tmp_path: Path
) -> None:
    from pipeline.captioning.generation.requests import End, EndReason

    source, expected = _source(families, "llava", tmp_path)
    captioner, stop = source.load(backend), expected["stop ids"][0]
    words = [id_ for id_ in expected["greedy"][0] if id_ != stop][:4]
    text = captioner.caption(End(0, words, EndReason.LENGTH)).text
    assert captioner.caption(End(0, [*words, stop], EndReason.STOP)).text == text
    assert captioner.caption(End(0, [stop, *words], EndReason.LENGTH)).text != text
