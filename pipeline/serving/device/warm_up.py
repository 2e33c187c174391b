"""A small question about a grey video: compiles what the first user would wait for, and shows that the device works."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from ...captioning.captioners.base import Captioner, CaptionerSource
from ...captioning.clips.clip import Clip
from ...captioning.clips.frames import distinct_frames
from ...captioning.generation.requests import Request

_FRAMES, _RATE = 30, 10.0
_SIZE = (320, 240)
_TOKENS = 3


def warm_up(captioner: Captioner, source: CaptionerSource) -> None:
    """Ask a question with an engine of one slot.

    Raises:
        Exception: any error of the framework.
    """
    positions = source.sampling.indices(_FRAMES, _RATE)
    distinct, index = distinct_frames(positions)
    frames = source.frame_transform([Image.new("RGB", _SIZE, (128, 128, 128))] * len(distinct))
    seconds = tuple(position / _RATE for position in positions)
    clip = Clip(0, "warm-up", frames, index, False, seconds, _FRAMES / _RATE, (_SIZE[1], _SIZE[0]), _RATE)
    options = replace(source.generation, max_new_tokens=_TOKENS)
    engine = captioner.engine(1)
    for request in captioner.prepare([clip], [[source.asks.texts[0]]]):
        if isinstance(request, Request):
            engine.add(replace(request, options=options))
    while engine.active:
        engine.step()
