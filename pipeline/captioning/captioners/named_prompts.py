"""Our own prompts, which `--prompt NAME` chooses, for captions that text-to-video models are trained with.

Their names are known to users of other captioning tools: `text`: the row's earlier caption is inserted; `3ex`, `2ex`:
three or two examples of good captions; `f1`, `f3`: for one or three frames of a video; `template`: an answer in a given
form. The texts are written for this project.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ..clips.media import IMAGE, VIDEO
from ..clips.sampling import FrameSampling
from ..meta.asks import Asks


@dataclass(frozen=True)
class NamedPrompt:
    """A question with a name.

    medium: IMAGE or VIDEO, which the text speaks of.
    frames: number of frames that the text speaks of; 0 for any number.
    text: `{text}` stands for the row's cell in the column `text`, see `Question`.
    """

    name: str
    medium: str
    frames: int
    text: str


_IMAGE_TASK = (
    "Describe this image so exactly that it could be painted again from your words alone. Begin with the main "
    "subject: its appearance, pose and position. Continue with the other things from front to back, the place, the "
    "light, the colours and the style."
)
_VIDEO_TASK = (
    "Describe this video so exactly that it could be filmed again from your words alone. Begin with the main subject, "
    "its appearance and its position. Continue with everything that happens, in the order of time, with direction "
    "and speed. Then name the place, the light, the movement of the camera and the style."
)
_ONE_FRAME_TASK = (
    "You see one frame of a video. Describe what it shows so exactly that the scene could be filmed again from your "
    "words alone. Begin with the main subject, its appearance and the action that is under way, with its direction. "
    "Continue with the other people and things and where they are, the place, the light, the point of view and the "
    "style."
)
_THREE_FRAMES_TASK = (
    "You see three frames of one video, in the order of time. Describe the video as a whole, so exactly that it could "
    "be filmed again from your words alone. Begin with the main subject and its appearance. Compare the frames to "
    "find what moves, in which direction, and how the camera moves; write this as one course of events, and do not "
    "mention frames. Then name the place, the light and the style."
)
_EARLIER_CAPTION = (
    "An earlier caption may help you; it may also be wrong, incomplete or missing. Keep its names and facts where "
    'they agree with what you see, correct the rest, and do not mention that it exists. The earlier caption: "{text}"'
)
_RULES = (
    "Write one paragraph of plain sentences in the present tense, with at most 120 words. Write only what can be "
    "seen: no guesses about identities, sounds, thoughts or causes, and no praise."
)
_FORM = (
    "Describe this video in the form below, for somebody who has to film it again. Keep the headings and their order, "
    "and replace each bracket with one or two short sentences. Write only what can be seen; where there is nothing "
    "to say, write: none.\n"
    "Subject: [the main people, animals or things, how many, and how they look]\n"
    "Action: [what they do and how they move, in the order of time, with direction and speed]\n"
    "Setting: [the place and what stands in the background]\n"
    "Camera: [shot size, angle, and movement of the camera]\n"
    "Light: [time of day, source and colour of the light]\n"
    "Style: [realistic, animated, black and white, and so on, and the main colours]"
)

_IMAGE_EXAMPLES = (
    "A grey heron stands on one leg at the edge of a shallow pond, its neck bent and its yellow beak pointing to the "
    "left. Reeds with brown heads rise behind it, out of focus. The smooth water in front mirrors the bird and a pale "
    "sky. Soft light comes from the right; greys and greens prevail. Photograph from a low point of view.",
    "A table of unpainted pine, seen from above. In the centre lies a round loaf of dark bread with a cross cut into "
    "its crust. A knife with a red handle rests on a checked cloth to the right of it, and flour is spread towards "
    "the upper edge. Hard light from the left makes long shadows. Sharp, realistic photograph in warm browns.",
    "A flat digital drawing of a small blue tram that climbs a steep street between narrow houses in orange, pink and "
    "white. Two passengers sit at its windows as plain dark shapes. Laundry hangs across the street, and a large "
    "yellow sun stands above the roofs. Thick outlines, few colours, no shading.",
)
_ONE_FRAME_EXAMPLES = (
    "A cyclist in a yellow rain jacket leans into a left bend of a wet mountain road, one knee out, with spray behind "
    "the rear wheel. The road is dark grey with a white line along its edge. Fir trees stand on the slope to the "
    "right, and fog hides the valley on the left. Dull daylight. Realistic, seen from the front at the height of the "
    "handlebars.",
    "Two hands with spread fingers press a lump of white dough flat on a steel table, seen close from the side. The "
    "blue sleeves are rolled up to the elbows, and flour covers the wrists. Metal bowls stand on a shelf behind, out "
    "of focus. Cold light from above, documentary style.",
    "A round orange robot with a single large eye floats through the corridor of a space station towards the viewer, "
    "its short arms stretched forward. Cables hang from the ceiling, and a row of screens glows green on the left "
    "wall. Blue light comes from the far end. Smooth three-dimensional animation.",
)
_THREE_FRAMES_EXAMPLES = (
    "A brown dog with a white chest runs along a sandy beach from right to left, jumps over a low wave, and comes "
    "back with a stick in its mouth, its fur wet. The grey sea fills the upper third; the sand is smooth and dark. "
    "The camera stays in its place and turns to follow the dog. Cloudy daylight, realistic, natural colours.",
    "A woman with short black hair and a green apron sits at a potter's wheel. She presses both thumbs into a ball of "
    "clay, which opens into a bowl, and then draws its wall upwards. The camera moves slowly from her upper body to "
    "her hands. Unglazed pots stand on shelves behind her. Warm lamp light from the left, realistic.",
    "Seen from above, a red cargo ship passes under a long white bridge, from the lower edge of the view to the upper "
    "one. The camera rises and tilts up, so that a harbour with rows of containers comes into view. Two tugboats "
    "follow the ship and leave white trails in the dark blue water. Low sun from the right, realistic aerial view.",
)


def _with_examples(task: str, examples: Sequence[str]) -> str:
    """The task, numbered captions of other images or videos, and the rules."""
    numbered = "\n".join(f"{number}. {example}" for number, example in enumerate(examples, start=1))
    return f"{task}\nThese captions of other scenes show the style and the length:\n{numbered}\n{_RULES}"


def _with_text(prompt: str) -> str:
    """The prompt, and the earlier caption of the row."""
    return f"{prompt}\n{_EARLIER_CAPTION}"


NAMED_PROMPTS = {
    prompt.name: prompt
    for prompt in (
        NamedPrompt("image-text", IMAGE, 0, _with_text(f"{_IMAGE_TASK} {_RULES}")),
        NamedPrompt("image-3ex", IMAGE, 0, _with_examples(_IMAGE_TASK, _IMAGE_EXAMPLES)),
        NamedPrompt("video", VIDEO, 0, f"{_VIDEO_TASK} {_RULES}"),
        NamedPrompt("video-template", VIDEO, 0, _FORM),
        NamedPrompt("video-text", VIDEO, 0, _with_text(f"{_VIDEO_TASK} {_RULES}")),
        NamedPrompt("video-f1-detail-3ex", VIDEO, 1, _with_examples(_ONE_FRAME_TASK, _ONE_FRAME_EXAMPLES)),
        NamedPrompt(
            "video-f1-detail-2ex-text", VIDEO, 1, _with_text(_with_examples(_ONE_FRAME_TASK, _ONE_FRAME_EXAMPLES[:2]))
        ),
        NamedPrompt("video-f3-detail-3ex", VIDEO, 3, _with_examples(_THREE_FRAMES_TASK, _THREE_FRAMES_EXAMPLES)),
        NamedPrompt(
            "video-f3-detail-2ex-text",
            VIDEO,
            3,
            _with_text(_with_examples(_THREE_FRAMES_TASK, _THREE_FRAMES_EXAMPLES[:2])),
        ),
    )
}


def listing() -> str:
    """All named prompts: their names, what they are for, and their texts, indented by four spaces."""
    return "\n\n".join(
        f"{prompt.name} (for {_purpose(prompt)})\n{textwrap.indent(prompt.text, '    ')}"
        for prompt in NAMED_PROMPTS.values()
    )


def _purpose(prompt: NamedPrompt) -> str:
    return f"{_frames(prompt.frames)} of a video" if prompt.frames else f"{prompt.medium}s"


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def frame_warnings(asks: Asks, sampling: FrameSampling) -> list[str]:
    """A warning for each named prompt that is for another number of frames than the run samples."""
    sampled = _frames(sampling.num_frames) if sampling.num_frames else f"frames at a {sampling}"
    prompts = [NAMED_PROMPTS[name] for name in dict.fromkeys(ask.prompt for ask in asks.asks if ask.prompt)]
    return [
        f"the prompt {prompt.name} is for {_purpose(prompt)}, but this run samples {sampled} of each; --num_frames "
        f"{prompt.frames} samples as many as the prompt says"
        for prompt in prompts
        if prompt.frames not in (0, sampling.num_frames)
    ]
