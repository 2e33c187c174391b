"""Scores pllava-tiny: captions clips that training did not use, with the captioning command, and checks the captions.

    python -m scripts.score_pllava_tiny --seed 1000 --clips 300
    python -m scripts.score_pllava_tiny --seed 1000 --clips 300 --brief
    python -m scripts.score_pllava_tiny --seed 1000 --clips 300 --lora pretrained_models/pllava-tiny-lora

The clips are encoded video files. Prints:

- how many captions are exact;
- how many attributes are correct. An attribute of an object is correct if the object at the same position in the
  caption has it;
- how many clips with motions to the left or right get the correct motions for the frames in their order, and the
  opposite ones for the frames in reversed order.

Arguments after `--` are passed to the captioning command.
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

from scripts.clip_world import RenderedClip, random_clip, write_clips
from scripts.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, VERBS, Scene
from scripts.tiny_checkpoint import BRIEF_QUESTION

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
class ParsedCaption:
    """The content of a caption. objects: attributes by name, in the order of the caption."""

    objects: tuple[dict[str, str], ...]
    background: str | None


def parse(caption: str) -> ParsedCaption:
    """Parse a caption in the canonical or the terse style. Parts that do not follow the style are left out."""
    objects = []
    for pattern, motions in ((_OBJECT, _MOTIONS), (_TERSE_OBJECT, _TERSE_MOTIONS)):
        for match in pattern.finditer(caption):
            attributes = match.groupdict()
            motion = attributes["motion"]
            objects.append({**attributes, "motion": motions.get(motion, motion)})
    background = _BACKGROUND.search(caption)
    return ParsedCaption(tuple(objects), background[1] if background else None)


def score(captions: Sequence[str], scenes: Sequence[Scene], truths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The number that are correct and the number of all, for whole captions ("exact") and for each attribute."""
    correct: dict[str, list[bool]] = {"exact": [], "count": [], "background": []}
    for caption, scene, truth in zip(captions, scenes, truths, strict=True):
        parsed = parse(caption)
        correct["exact"].append(caption == truth)
        correct["count"].append(len(parsed.objects) == len(scene.objects))
        correct["background"].append(parsed.background == scene.background)
        for index, item in enumerate(scene.objects):
            attributes = parsed.objects[index] if index < len(parsed.objects) else {}
            for name in ("shape", "colour", "size", "motion"):
                if name in parse(truth).objects[index]:
                    correct.setdefault(name, []).append(attributes.get(name) == getattr(item, name))
    return {name: (sum(values), len(values)) for name, values in correct.items()}


def score_reversals(forwards: Sequence[str], backwards: Sequence[str], scenes: Sequence[Scene]) -> tuple[int, int]:
    """Check the motions to the left and right in captions of clips (`forwards`) and reversed clips (`backwards`).

    Returns:
        The clips for which both captions have all these motions correct, and all clips with such a motion.
    """
    correct = []
    for forward, backward, scene in zip(forwards, backwards, scenes, strict=True):
        moving = [index for index, item in enumerate(scene.objects) if item.motion in ("left", "right")]
        if moving:
            motions = [[_motion(caption, index) for index in moving] for caption in (forward, backward)]
            truth = [[shown.objects[index].motion for index in moving] for shown in (scene, scene.reversed())]
            correct.append(motions == truth)
    return sum(correct), len(correct)


def _motion(caption: str, index: int) -> str | None:
    objects = parse(caption).objects
    return objects[index]["motion"] if index < len(objects) else None


def run_command(meta: Path, flags: Sequence[str]) -> list[str]:
    """Caption the clips of a meta table with the captioning command. Returns the captions in the order of the rows.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    output = meta.with_name("out.csv")
    command = [sys.executable, COMMAND, str(meta), "--output", str(output), *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    with output.open(newline="", encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


def caption_clips(folder: Path, clips: Sequence[RenderedClip], flags: Sequence[str]) -> list[str]:
    """Write the clips into a folder and caption them. Returns and raises as `run_command`."""
    meta = write_clips(folder, clips)
    logger.info("wrote %d clips to %s", len(clips), folder)
    return run_command(meta, flags)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Score the captions of pllava-tiny for clips that training did not use."
    )
    parser.add_argument("--seed", type=int, default=1000, help="seed of the clips (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=300, help="number of clips (default: %(default)s)")
    parser.add_argument("--checkpoint", default="pretrained_models/pllava-tiny", help="default: %(default)s")
    parser.add_argument("--lora", help="folder of a LoRA adapter; the expected captions are then in the terse style")
    parser.add_argument(
        "--brief", action="store_true", help=f"ask '{BRIEF_QUESTION}'; the expected captions are in the terse style"
    )
    parser.add_argument("--bs", type=int, default=16, help="batch size (default: %(default)s)")
    parser.add_argument("--wrong", type=int, default=10, help="wrong captions to print, at most (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, help="folder for clips and captions, which are kept (default: a temporary folder)"
    )
    parser.add_argument("flags", nargs="*", help="after --: more flags for the captioning command")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags = ["--pretrained_model_name_or_path", arguments.checkpoint, "--bs", str(arguments.bs), *arguments.flags]
    flags += ["--use_lora", "--weight_dir", arguments.lora] if arguments.lora else []
    flags += ["--question", BRIEF_QUESTION] if arguments.brief else []
    clips = [random_clip(arguments.seed, number) for number in range(arguments.clips)]
    scenes = [clip.shown for clip in clips]
    reversed_clips = [RenderedClip(clip.scene, clip.format, clip.noise_seed, backwards=True) for clip in clips]
    true_caption: Callable[[Scene], str] = Scene.terse_caption if arguments.lora or arguments.brief else Scene.caption
    with TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        forwards = caption_clips(work / "forwards", clips, flags)
        backwards = caption_clips(work / "backwards", reversed_clips, flags)
    truths = [true_caption(scene) for scene in scenes]
    wrong = [(caption, truth) for caption, truth in zip(forwards, truths, strict=True) if caption != truth]
    for caption, truth in wrong[: arguments.wrong]:
        print(f"caption: {caption}\ntruth:   {truth}\n")
    scores = score(forwards, scenes, truths) | {"left <-> right": score_reversals(forwards, backwards, scenes)}
    print(f"{'':<16}{'correct':>8}{'of':>8}{'%':>8}")
    for name, (correct, total) in scores.items():
        print(f"{name:<16}{correct:>8}{total:>8}{100 * correct / max(total, 1):>8.1f}")


if __name__ == "__main__":
    main()
