"""Scores the small PLLaVA: captions unseen encoded clips with the real command and compares with the truth.

    python -m scripts.score_pllava_tiny --seed 1000 --clips 300
    python -m scripts.score_pllava_tiny --seed 1000 --clips 300 --lora pretrained_models/pllava-tiny-lora

Prints the share of exact captions, that of right attributes (an attribute of an object is right if the
caption's object in the same place has it), and how many left and right motions turn round when the same
frames are shown in reversed order. What follows `--` is handed to the command.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.clip_world import BACKGROUNDS, COLOURS, SHAPES, SIZES, VERBS, FilmedClip, Scene, draw_clip, write_clips

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "pipeline/captioning/caption_pllava.py"

logger = logging.getLogger(__name__)

_SHAPE, _COLOUR, _SIZE = "|".join(SHAPES), "|".join(COLOURS), "|".join(SIZES)
_MOTIONS = {verb: motion for motion, verb in VERBS.items()}
_TERSE_MOTIONS = {"grows": "growing", "shrinks": "shrinking"}
_VERBS = "|".join(_MOTIONS)
_OBJECT = re.compile(f"[Aa] (?P<size>{_SIZE}) (?P<colour>{_COLOUR}) (?P<shape>{_SHAPE}) (?P<motion>{_VERBS})")
_TERSE_OBJECT = re.compile(f"(?P<colour>{_COLOUR}) (?P<shape>{_SHAPE}), (?P<motion>[a-z]+)")
_BACKGROUND = re.compile(f"({'|'.join(BACKGROUNDS)}) background")


@dataclass(frozen=True)
class Said:
    """What a caption says. objects: attributes by name, in the caption's order."""

    objects: tuple[dict[str, str], ...]
    background: str | None


def parse(caption: str) -> Said:
    """Read a caption in the canonical or the terse style; what it does not say as it should is left out."""
    objects = []
    for pattern, motions in ((_OBJECT, _MOTIONS), (_TERSE_OBJECT, _TERSE_MOTIONS)):
        for match in pattern.finditer(caption):
            said = match.groupdict()
            objects.append({**said, "motion": motions.get(said["motion"], said["motion"])})
    background = _BACKGROUND.search(caption)
    return Said(tuple(objects), background[1] if background else None)


def score(captions: Sequence[str], scenes: Sequence[Scene], truths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Right and all, of whole captions (`exact`) and by attribute."""
    right: dict[str, list[bool]] = {"exact": [], "count": [], "background": []}
    for caption, scene, truth in zip(captions, scenes, truths, strict=True):
        said = parse(caption)
        right["exact"].append(caption == truth)
        right["count"].append(len(said.objects) == len(scene.objects))
        right["background"].append(said.background == scene.background)
        for place, item in enumerate(scene.objects):
            found = said.objects[place] if place < len(said.objects) else {}
            for name in ("shape", "colour", "size", "motion"):
                if name in parse(truth).objects[place]:
                    right.setdefault(name, []).append(found.get(name) == getattr(item, name))
    return {name: (sum(values), len(values)) for name, values in right.items()}


def score_turns(forwards: Sequence[str], backwards: Sequence[str], scenes: Sequence[Scene]) -> tuple[int, int]:
    """Clips with an object that moves left or right, and those of them whose captions name each such motion
    right, and turned round when the frames are reversed."""
    right = []
    for ahead, back, scene in zip(forwards, backwards, scenes, strict=True):
        moving = [place for place, item in enumerate(scene.objects) if item.motion in ("left", "right")]
        if moving:
            said = [_motion(ahead, place) for place in moving], [_motion(back, place) for place in moving]
            true = [[shown.objects[place].motion for place in moving] for shown in (scene, scene.reversed())]
            right.append(list(said) == true)
    return sum(right), len(right)


def _motion(caption: str, place: int) -> str | None:
    objects = parse(caption).objects
    return objects[place]["motion"] if place < len(objects) else None


def run_command(meta: Path, flags: Sequence[str]) -> list[str]:
    """Caption the clips of a meta table with the command; captions in the order of its rows."""
    output = meta.with_name("out.csv")
    command = [sys.executable, COMMAND, str(meta), "--output", str(output), *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    with output.open(newline="", encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


def caption_clips(folder: Path, clips: Sequence[FilmedClip], flags: Sequence[str]) -> list[str]:
    meta = write_clips(folder, clips)
    logger.info("%d clips in %s", len(clips), folder)
    return run_command(meta, flags)


def main() -> None:
    parser = argparse.ArgumentParser(description="Score the small PLLaVA on unseen clips with the real command.")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--checkpoint", default="pretrained_models/pllava-tiny")
    parser.add_argument("--lora", help="a folder with a LoRA adapter; then the truth is in the terse style")
    parser.add_argument("--bs", type=int, default=16)
    parser.add_argument("--wrong", type=int, default=10, help="how many wrong captions to show")
    parser.add_argument("--work", type=Path, help="keep clips and captions here (default: a temporary folder)")
    parser.add_argument("flags", nargs="*", help="after --: further flags of the command")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags = ["--pretrained_model_name_or_path", arguments.checkpoint, "--bs", str(arguments.bs), *arguments.flags]
    flags += ["--use_lora", "--weight_dir", arguments.lora] if arguments.lora else []
    clips = [draw_clip(arguments.seed, number) for number in range(arguments.clips)]
    scenes = [clip.shown for clip in clips]
    turned = [FilmedClip(clip.scene, clip.format, clip.noise_seed, backwards=True) for clip in clips]
    tell: Callable[[Scene], str] = Scene.terse_caption if arguments.lora else Scene.caption
    with TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        forwards = caption_clips(work / "forwards", clips, flags)
        backwards = caption_clips(work / "backwards", turned, flags)
    truths = [tell(scene) for scene in scenes]
    wrong = [(said, true) for said, true in zip(forwards, truths, strict=True) if said != true]
    for said, true in wrong[: arguments.wrong]:
        print(f"said:  {said}\ntruth: {true}\n")
    figures = score(forwards, scenes, truths) | {"left <-> right": score_turns(forwards, backwards, scenes)}
    print(f"{'what':<16}{'right':>8}{'of':>8}{'%':>8}")
    for name, (right, of) in figures.items():
        print(f"{name:<16}{right:>8}{of:>8}{100 * right / max(of, 1):>8.1f}")


if __name__ == "__main__":
    main()
