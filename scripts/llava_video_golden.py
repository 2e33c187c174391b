"""Compares the captioner of LLaVA-Video with the recorded outputs of the public program, case by case.

    python -m scripts.llava_video_golden FOLDER [--framework mindspore] [--videos FOLDER] [--no_tower] [CASE ...]

FOLDER has the recorded outputs, see its README; the videos are in ../../videos beside it unless --videos is given. For
each case, the flags of `caption.py` choose frames, prompt and penalty; the clips of cases with the same flags are in
flight together. Compared are: indices, hashes and times of the frames, the prompt, its token ids, the pixels, the
visual tokens, the first logits (of prompts up to 4,000 tokens), and the generated tokens without a repetition penalty
and with that of the checkpoint. Prints a line for each case. Exit code 1: a case differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.captioning import backends, caption
from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.source import HubSource
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.generation.requests import End, Request

if TYPE_CHECKING:
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner

Case = dict[str, Any]
SLOTS = 3
_VIDEO = -200  # the recorded token ids have it in the place of the video
_LONG_PROMPT = 4000


@dataclass(frozen=True)
class Recording:
    """The recorded outputs.

    folder: with golden.json, golden.npz and the checkpoints. cases: by name.
    """

    folder: Path
    videos: Path
    cases: Mapping[str, Case]
    arrays: Any

    @classmethod
    def load(cls, folder: Path, videos: Path | None = None) -> Recording:
        cases = json.loads((folder / "golden.json").read_text(encoding="utf-8"))["cases"]
        by_name = {case["name"]: case for case in cases}
        return cls(folder, videos or folder.parents[1] / "videos", by_name, np.load(folder / "golden.npz"))


@dataclass
class Outcome:
    """The comparison of one case. differences: what differs; empty if nothing does. logits: largest difference."""

    name: str
    logits: float | None = None
    differences: list[str] = field(default_factory=list)

    def compare(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.differences.append(f"{what}: {_short(found)}, recorded {_short(expected)}")

    def compare_arrays(self, what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
        """Returns the largest absolute difference."""
        if found.shape != expected.shape:
            self.differences.append(f"{what}: shape {found.shape}, recorded {expected.shape}")
            return float("inf")
        largest = float(np.abs(found - expected).max())
        if not largest <= tolerance:
            self.differences.append(f"{what}: differ by {largest:.1e}")
        return largest


def groups(cases: Iterable[Case]) -> list[list[Case]]:
    """The cases, those with the same checkpoint and the same flags together."""
    by_flags: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        by_flags.setdefault((*config_changes(case).values(), *_flags(case)), []).append(case)
    return list(by_flags.values())


def config_changes(case: Case) -> dict[str, Any]:
    """The entries of config.json that a case was recorded with."""
    changes = {key: case[key] for key in ("mm_spatial_pool_mode", "mm_newline_position")}
    return changes | {"add_time_instruction": case["prompt_style"] == "card"}


def _flags(case: Case) -> list[str]:
    """Flags of `caption.py`: question and frames."""
    question = case["question"]
    if case["prompt_style"] == "demo-time":  # the demo writes the times at the start of the question
        question = case["prompt"].partition("<image>\n")[2].partition("<|im_end|>")[0]
    frames = ["--num_frames", str(case["max_frames_num"])]
    if not case["force_sample"]:
        frames = ["--fps", str(case["fps_argument"]), "--max_frames", str(case["max_frames_num"])]
    return ["--question", question, *frames]


def checkpoint(parent: Path, published: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of a checkpoint with other entries in config.json; its other files are links."""
    folder = parent / "-".join([published.name, *map(str, changes.values())])
    if not folder.exists():
        folder.mkdir()
        for file in published.iterdir():
            if file.name != "config.json":
                (folder / file.name).symlink_to(file.resolve())
        config = json.loads((published / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | dict(changes)), encoding="utf-8")
    return folder


def make_source(folder: Path, tower: Path, case: Case) -> HubSource:
    """The source that `caption.py` makes for a case."""
    arguments = ["meta.csv", "--pretrained_model_name_or_path", str(folder), "--vision_tower", str(tower)]
    flags = caption.make_parser().parse_args([*arguments, "--max_new_tokens", "24", *_flags(case)])
    source = caption.make_source(flags)
    assert isinstance(source, HubSource)
    return source


def compare(
    recording: Recording, group: Sequence[Case], backend: Backend, work: Path, layout: str = "checkpoint"
) -> list[Outcome]:
    """Compare cases with the same flags.

    work: a folder for copies of the checkpoint. layout: the name of the checkpoint.
    """
    folder = checkpoint(work, recording.folder / layout, config_changes(group[0]))
    source = make_source(folder, recording.folder / "siglip", group[0])
    captioner: HubCaptioner = source.load(backend)
    outcomes, requests = [Outcome(case["name"]) for case in group], []
    for row, (case, outcome) in enumerate(zip(group, outcomes, strict=True)):
        clip = _clip(source, recording.videos / case["video"], row, case, outcome)
        _compare_prompt(source, clip, case, outcome)
        (request,) = captioner.prepare([clip])
        assert isinstance(request, Request)
        _compare_features(source, request, clip, recording.arrays, case, outcome)
        if case["lm_input_length"] <= _LONG_PROMPT:
            logits = _first_logits(captioner, source, request)
            outcome.logits = outcome.compare_arrays("logits", logits, recording.arrays[case["logits_key"]], 1e-4)
        requests += [(request, "card_ids"), (_without_penalty(request), "greedy_ids")]
    for (row, kind), ids in _generated(captioner, requests).items():
        outcomes[row].compare(kind, ids, group[row][kind])
    return outcomes


def _clip(source: HubSource, video: Path, row: int, case: Case, outcome: Outcome) -> Clip:
    """The clip of a video, as the decoding processes make it; compares its frames."""
    sampled = decode(str(video), source.sampling, ["decord"])
    outcome.compare("frames", list(sampled.positions), case["frame_indices"])
    hashes = [_sha256(np.asarray(sampled.images[i])) for i in sampled.index]
    outcome.compare("frame hashes", hashes, case["frame_sha256"])
    outcome.compare("duration", sampled.duration, case["video_time"])
    about = sampled.seconds, sampled.duration, sampled.size, sampled.rate
    clip = Clip(row, str(video), source.frame_transform(sampled.images), sampled.index, sampled.partial, *about)
    transform = source.frame_transform
    assert isinstance(transform, Square)
    pixels = transform.normalized(clip.frames)[list(clip.frame_index)].transpose(0, 3, 1, 2)
    outcome.compare("pixels", _sha256(pixels), case["pixel_values"]["sha256"])
    return clip


def _compare_prompt(source: HubSource, clip: Clip, case: Case, outcome: Outcome) -> None:
    (question,) = source.asks.texts
    outcome.compare("prompt", source.prompts.text(clip, question), case["prompt"])
    before, after = source.prompts.pieces(clip, question)
    outcome.compare("token ids", [*before, _VIDEO, *after], case["input_ids"])
    outcome.compare("shared prefix", list(source.prompts.shared_prefix), before)


def _compare_features(
    source: HubSource, request: Request, clip: Clip, arrays: Any, case: Case, outcome: Outcome
) -> None:
    """Compare the visual tokens, which are the first embeddings behind the shared prefix."""
    text = len(source.prompts.pieces(clip, *source.asks.texts)[1])
    features = request.embeddings[: len(request.embeddings) - text].numpy()
    outcome.compare("visual tokens", list(features.shape), case["features"]["shape"])
    if not outcome.differences:
        outcome.compare_arrays("features", features.mean(-1), arrays[case["features_rowmean_key"]], 1e-5)
        corner = np.array(case["features"]["corner_8x8"], np.float32)
        outcome.compare_arrays("features", features[:8, :8], corner, 1e-4)
        if "features_key" in case:
            outcome.compare_arrays("features", features, arrays[case["features_key"]], 1e-4)


def _first_logits(captioner: HubCaptioner, source: HubSource, request: Request) -> np.ndarray:
    import torch

    with torch.no_grad():
        prefix = captioner._embed(source.prompts.shared_prefix)
        embeddings = torch.cat([prefix, request.embeddings])[None]
        hidden = captioner._text.decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        logits: np.ndarray = captioner._text.head(hidden[:, -1])[0].numpy()
    return logits


def _without_penalty(request: Request) -> Request:
    return dataclasses.replace(request, options=dataclasses.replace(request.options, repetition_penalty=1.0))


def _generated(captioner: HubCaptioner, requests: Sequence[tuple[Request, str]]) -> dict[tuple[int, str], list[int]]:
    """Token ids of each request, by its row and its kind. SLOTS of them are in flight together."""
    engine = captioner.engine(SLOTS)
    waiting = [dataclasses.replace(request, key=(request.stream, kind)) for request, kind in requests]
    ids: dict[Any, list[int]] = {}
    while waiting or engine.active:
        while waiting and engine.free:
            engine.add(waiting.pop(0))
        ids |= {event.key: event.ids for event in engine.step() if isinstance(event, End)}
    return ids


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _lines(outcomes: Iterable[Outcome], recording: Recording) -> Iterator[str]:
    for outcome in outcomes:
        case = recording.cases[outcome.name]
        logits = "" if outcome.logits is None else f", logits within {outcome.logits:.1e}"
        about = f"{case['num_frames']} frames, {case['lm_input_length']} tokens{logits}"
        yield f"{'DIFFERS' if outcome.differences else 'equal'}  {outcome.name}: {about}"
        yield from (f"    {difference}" for difference in outcome.differences)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare LLaVA-Video with the recorded outputs.")
    parser.add_argument("folder", type=Path, help="folder of the recorded outputs")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases; if not given, all")
    parser.add_argument("--framework", choices=backends.FRAMEWORKS, default="torch")
    parser.add_argument("--videos", type=Path, help="folder of the videos; if not given, ../../videos beside FOLDER")
    parser.add_argument("--no_tower", action="store_true", help="use the checkpoint without weights of its tower")
    flags = parser.parse_args(arguments)
    recording = Recording.load(flags.folder, flags.videos)
    backend = backends.Choice(flags.framework, "cpu", 0, "comparison").activate(None)
    layout = "checkpoint-no-tower" if flags.no_tower else "checkpoint"
    chosen = [recording.cases[name] for name in flags.cases or recording.cases]
    begin, equal = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as work:
        for group in groups(chosen):
            outcomes = compare(recording, group, backend, Path(work), layout)
            equal += sum(not outcome.differences for outcome in outcomes)
            for line in _lines(outcomes, recording):
                print(line, flush=True)
    print(f"{flags.framework}, {layout}: {equal} of {len(chosen)} cases equal, {time.monotonic() - begin:.0f} s")
    return 0 if equal == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
