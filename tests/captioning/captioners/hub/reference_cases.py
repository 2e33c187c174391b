"""The cases of the recorded answers: clips of mixed sizes and lengths, and the flags for each tiny checkpoint.

`record.py` gives them to transformers on PyTorch, `test_answers.py` to our captioner. Knows no expected token.
Importing this module imports no framework.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.captioning.caption import make_parser, make_source
from pipeline.captioning.captioners.hub.source import HubSource
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.frames import SampledFrames
from pipeline.captioning.clips.preparation import ImageRole
from tests.captioning.captioners import chat_templates
from tests.golden import DATA
from tests.tiny_family_configs import CONFIGS, IDS

RECORDED = DATA / "hub-answers.json"
QUESTION = "What moves here?"
NEW_TOKENS = 12
SLOTS = 3
BEAMS, BEAM_TOKENS, BEAM_ROWS = 3, 6, (1, 2, 7)
"""How many beams and new tokens answers with beams have, and which clips are answered so."""
TEXTS = (
    "What is a title for this?",
    "Captions of one video, in order of time:\n0 to 10 s: A man cuts bread.\n10 to 20 s: He eats it.\nSummarise them.",
    "Summarise this: " + " ".join(f"At {second} s a red car turns left, and a dog runs." for second in range(0, 60, 3)),
    'Größe & 大小? "Quoted", <b>bold</b>  two spaces; 12.5 %.',
)
"""Questions about text alone; the third has more tokens than any prompt of the clips."""
_THREE_FRAMES = ("--sampling=uniform", "--num_frames=3")
_ALL_FRAMES = ("--sampling=step", "--fps=4", "--max_frames=10")
_QWEN = (*_ALL_FRAMES, "--min_pixels=3136", "--max_pixels=12544")


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint.

    flags: of caption.py; they sample three frames of each clip, or all of them.
    checkpoint: its name among the tiny checkpoints, if it is not the name of the case.
    template: chat template that is added to the checkpoint; None if its family's published prompt is used.
    beams: whether answers with beams are recorded too.
    penalty: entry of generation_config.json.
    """

    flags: tuple[str, ...]
    template: str | None = None
    beams: bool = False
    penalty: float = 1.0
    checkpoint: str = ""


CASES = {
    "llava": Case(_THREE_FRAMES, chat_templates.VICUNA),
    "llava_next": Case(_THREE_FRAMES, penalty=1.2),
    "llava_next_mistral": Case(_THREE_FRAMES, chat_templates.MISTRAL),
    "llava_next_video": Case(_ALL_FRAMES, chat_templates.VICUNA_VIDEO),
    "llava_onevision": Case(_ALL_FRAMES, chat_templates.ONEVISION, beams=True, penalty=1.3),
    "qwen2_vl": Case(_QWEN, penalty=2.0),
    "qwen2_5_vl": Case(_QWEN, chat_templates.QWEN_VL, beams=True, penalty=1.05),
    "blip2_opt": Case(_THREE_FRAMES, penalty=2.5),
    "blip2_t5": Case(_THREE_FRAMES, penalty=1.3),
    "janus": Case(_THREE_FRAMES, chat_templates.JANUS),
    "internvl": Case(_THREE_FRAMES, chat_templates.INTERNVL, penalty=1.1),
    "internvl_tiles": Case(
        (*_THREE_FRAMES, "--max_tiles=4"), chat_templates.INTERNVL, checkpoint="internvl", penalty=1.3
    ),
}


def checkpoint_of(name: str) -> str:
    """The name of the tiny checkpoint of a case."""
    return CASES[name].checkpoint or name


# Width, height, number of frames and frames per second of each clip. With --fps 4 every frame is sampled. Two frames
# are a whole number of seconds apart, because transformers 4.55 truncates these seconds (Qwen2.5-VL); we do not.
_SHAPES = (
    (160, 96, 4, 2.0),
    (90, 168, 3, 1.0),
    (112, 112, 2, 2.0),
    (20, 30, 1, 1.0),
    (400, 240, 5, 0.5),
    (300, 70, 7, 1.0),
    (58, 200, 9, 2.0),
    (57, 56, 6, 0.5),
)
# Width and height of the still images: landscape, portrait, tiny, square, large, and narrower than any grid of tiles.
_IMAGE_SHAPES = ((200, 120), (70, 180), (9, 7), (56, 56), (640, 460), (12, 300))
_PAIRS = ((0, 1), (4, 2), (3, 5), (1, 0))
"""Numbers of the still images that are in one prompt."""
_SEED = 60


def videos() -> list[SampledFrames]:
    """All frames of the eight clips: coloured rectangles that move over a background with noise."""
    return [_video(row, *shape) for row, shape in enumerate(_SHAPES)]


def images() -> list[Image.Image]:
    """The still images, drawn as the frames of the clips are."""
    return [_video(100 + number, *size, 1, 1.0).images[0] for number, size in enumerate(_IMAGE_SHAPES)]


def image_pairs() -> list[tuple[Image.Image, Image.Image]]:
    """Still images of different sizes that are in one prompt."""
    drawn = images()
    return [(drawn[first], drawn[second]) for first, second in _PAIRS]


@functools.cache
def _video(row: int, width: int, height: int, count: int, rate: float) -> SampledFrames:
    rng = np.random.default_rng(_SEED + row)
    images = []
    for _ in range(count):
        pixels = rng.integers(0, 60, (height, width, 3)) + rng.integers(0, 190, 3)
        for _ in range(3):
            left, top = rng.integers(0, width // 2), rng.integers(0, height // 2)
            pixels[top : top + height // 2, left : left + width // 2] = rng.integers(0, 256, 3)
        images.append(Image.fromarray(pixels.astype(np.uint8)))
    return SampledFrames(tuple(images), tuple(range(count)), rate, count)


def checkpoint(folder: Path, name: str, copy: Path, stop_ids: list[int]) -> Path:
    """A copy of a tiny checkpoint with the chat template, the penalty and the stop ids of its case."""
    shutil.copytree(folder, copy)
    case = CASES[name]
    if case.template is not None:
        (copy / "chat_template.jinja").write_text(case.template, encoding="utf-8")
    path = copy / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    end = IDS["<|im_end|>"] if CONFIGS[checkpoint_of(name)].is_chatml else 2
    settings |= {"eos_token_id": [*stop_ids, end], "repetition_penalty": case.penalty}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return copy


def generation_stop_ids(folder: Path) -> list[int]:
    stop_ids: list[int] = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return stop_ids


def digest(folder: Path) -> str:
    """Changes with config.json and the weights."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def source(folder: Path, name: str, *flags: str) -> HubSource:
    """What caption.py makes of a checkpoint and the flags of its case."""
    arguments = ["meta.csv", f"--pretrained_model_name_or_path={folder}", f"--question={QUESTION}"]
    arguments += [f"--max_new_tokens={NEW_TOKENS}", *CASES[name].flags, *flags]
    made = make_source(make_parser().parse_args(arguments))
    assert isinstance(made, HubSource)
    return made


def clips(made: HubSource, rows: Sequence[int] = range(len(_SHAPES))) -> list[Clip]:
    """The eight clips, or some of them, as the decoding processes give them to the captioner."""
    drawn = videos()
    return [_clip(made, row, drawn[row]) for row in rows]


def _clip(made: HubSource, row: int, video: SampledFrames) -> Clip:
    positions = made.sampling.indices(video.total_frames, video.rate)
    distinct = tuple(video.images[index] for index in dict.fromkeys(positions))
    sampled = dataclasses.replace(video, images=distinct, positions=tuple(positions))
    pixels = made.frame_transform(list(sampled.images))
    return Clip(row, "", pixels, sampled.index, False, sampled.seconds, sampled.duration, sampled.size)


def image_clips(made: HubSource) -> list[Clip]:
    """The still images as the decoding processes give them to the captioner; their rows follow those of the clips."""
    return [_image_clip(made, len(_SHAPES) + number, image) for number, image in enumerate(images())]


def image_pair_clips(made: HubSource) -> list[list[Clip]]:
    """The pairs of still images as the decoding processes give them to the captioner."""
    drawn = enumerate(images())
    clips = [_image_clip(made, number, image, ImageRole.ONE_OF_SEVERAL) for number, image in drawn]
    return [[clips[first], clips[second]] for first, second in _PAIRS]


def _image_clip(made: HubSource, row: int, image: Image.Image, role: ImageRole = ImageRole.ALONE) -> Clip:
    pixels = made.preparation.transform_of_image(role)([image])
    return Clip(row, "", pixels, (0,), seconds=(0.0,), size=(image.height, image.width), is_image=True)


def text_cases() -> list[str]:
    """The cases whose families answer questions about text alone."""
    return [name for name in CASES if not name.startswith("blip2") and checkpoint_of(name) == name]


def pair_cases() -> list[str]:
    """The cases whose families take several images in one prompt."""
    return [name for name in CASES if not name.startswith("blip2")]


def recorded() -> dict[str, Any]:
    """By checkpoint: its `digest`, `stop ids`, and token ids: of each clip `greedy` and, for some, `beams`, of each
    still image `images`, and of each pair of images in one prompt `image pairs`; and of each question about text
    `texts` and, for some, `texts beams`.
    """
    answers: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return answers
