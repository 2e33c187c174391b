"""The fields of a request that say how tokens and frames are chosen. Knows no message and no medium."""

from __future__ import annotations

import argparse
import dataclasses
import secrets

from ...captioning.clips.sampling import FrameSampling
from ...captioning.generation.options import GenerationOptions
from ...captioning.process.errors import UsageError
from ...captioning.run.frame_flags import frame_sampling
from ..settings import RequestLimits, ServedModel
from .errors import RequestError
from .fields import Fields

_MOST_STOPS = 4
_LONGEST_STOP = 1000
_LARGEST_SEED = 2**63 - 1
_HIGHEST_FPS = 1000.0
_LEAST_TEMPERATURE = 1e-6
"""Logits that are divided by less overflow; a smaller temperature is greedy decoding."""
_LEAST_TOP_P = 1e-6
_LEAST_PENALTY = 0.01


def generation_options(fields: Fields, model: ServedModel, limits: RequestLimits) -> GenerationOptions:
    """How the tokens of an answer are chosen: as the server's flags, unless a field says otherwise.

    Raises:
        RequestError: a value out of bounds, or sampling on a server with beam search.
    """
    values: dict[str, object] = {}
    new_tokens = _new_tokens(fields, limits)
    if new_tokens is not None:
        values["max_new_tokens"] = new_tokens
    temperature = fields.number("temperature", 0, 2)
    if temperature is not None:
        temperature = temperature if temperature >= _LEAST_TEMPERATURE else 0.0
        values |= {"temperature": temperature, "do_sample": temperature > 0}
    top_p = fields.number("top_p", _LEAST_TOP_P, 1)
    if top_p is not None:
        values["top_p"] = top_p
    penalty = fields.number("repetition_penalty", _LEAST_PENALTY, 2)
    if penalty is not None:
        values["repetition_penalty"] = penalty
    seed = fields.whole("seed", 0, _LARGEST_SEED)
    values["seed"] = secrets.randbits(32) if seed is None else seed
    if temperature and model.options.num_beams > 1:
        raise fields.error("temperature", "must be 0: this server uses beam search", "unsupported_value")
    options = dataclasses.replace(model.options, **values)  # type: ignore[arg-type]
    return options if options.samples or seed is not None else dataclasses.replace(options, seed=model.options.seed)


def _new_tokens(fields: Fields, limits: RequestLimits) -> int | None:
    given = fields.whole("max_tokens", 1, limits.new_tokens)
    completion = fields.whole("max_completion_tokens", 1, limits.new_tokens)
    if given is not None and completion is not None and given != completion:
        raise fields.error("max_tokens", f"is {given} and max_completion_tokens is {completion}; send one of them")
    return completion if given is None else given


def stop_texts(fields: Fields) -> tuple[str, ...]:
    """The field `stop`: a string or up to 4 strings."""
    value = fields.any("stop")
    texts = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise fields.error("stop", "must be a string or a list of strings", "invalid_type")
    if len(texts) > _MOST_STOPS:
        raise fields.error("stop", f"has {len(texts)} strings, and at most {_MOST_STOPS} are possible")
    if not all(0 < len(text) <= _LONGEST_STOP for text in texts):
        raise fields.error("stop", f"has a string that is empty or longer than {_LONGEST_STOP} characters")
    return tuple(texts)


@dataclasses.dataclass(frozen=True)
class VideoOptions:
    """The field `media_io_kwargs.video`. Both are None if they are absent."""

    num_frames: int | None
    fps: float | None


def video_options(fields: Fields, model: ServedModel) -> VideoOptions:
    """Read `media_io_kwargs`.

    Raises:
        RequestError: other keys than `num_frames` and `fps` of `video`, or values out of bounds.
    """
    media = fields.object("media_io_kwargs")
    video = media.object("video")
    media.object("image").refuse_others()
    media.refuse_others()
    num_frames = video.whole("num_frames", 1, model.sampling.most_frames)
    fps = video.number("fps", 0, _HIGHEST_FPS, above=True)
    video.refuse_others()
    return VideoOptions(num_frames, fps)


def video_sampling(options: VideoOptions, model: ServedModel) -> FrameSampling | None:
    """The sampling that --num_frames or --fps of the commands would choose; None for that of the server.

    With a rate, no more frames are sampled than the server's own sampling could.

    Raises:
        RequestError: both are given.
    """
    if options == VideoOptions(None, None):
        return None
    most_frames = None if options.fps is None else model.sampling.most_frames
    flags = argparse.Namespace(
        num_frames=options.num_frames, fps=options.fps, sampling=None, max_frames=most_frames, short_side=None
    )
    try:
        return frame_sampling(flags, model.sampling, model.rate_sampling)
    except UsageError as error:
        path = "media_io_kwargs.video"
        raise RequestError(f"{path}: {str(error).replace('--', '')}", path, "invalid_value") from None
