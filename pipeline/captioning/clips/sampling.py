"""Choose which frames of a clip the model sees. Knows nothing about files and decoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..process.errors import UsageError

POINTS = {1: (0.5,), 2: (0.25, 0.75), 3: (0.1, 0.5, 0.9)}
"""Rule `points`: for each number of frames, the points of the clip, as shares of its frames."""
MIN_RATE_FRAMES = 4
"""Rule `rate`: minimum number of frames, if the clip has as many; from qwen-vl-utils."""
MAX_FRAMES = 768
"""Rules `rate` and `step`: maximum number of frames if `max_frames` is 0; from qwen-vl-utils."""
_LARGEST_STEP = 1e9  # more than the frames of any video; rate / fps may be infinite


def frame_indices(total_frames: int, num_frames: int) -> list[int]:
    """Indices of `num_frames` frames, spread over a clip of `total_frames`. An index may occur several times.

    The k-th index is int(s / 2) + round_half_even(s * k) with s = (total_frames - 1) / num_frames, as in
    the public PLLaVA (`ChatPllava.get_index`); for 390 frames and 4: [48, 145, 242, 340].

    Raises:
        ValueError: the clip has no frames.
    """
    if total_frames < 1:
        raise ValueError("the video has no frames")
    segment = (total_frames - 1) / num_frames
    # Python's round() rounds half to even, as numpy does in the public code.
    return [int(segment / 2) + round(segment * k) for k in range(num_frames)]


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a clip are sampled. Picklable; `str` gives a short text, which `parse` reads.

    rule:
        `segments`: one frame in each of `num_frames` equal segments, see `frame_indices` (PLLaVA).
        `uniform`: `num_frames` frames from the first to the last, numpy.linspace truncated to integers (LLaVA-Video).
        `points`: `num_frames` frames at POINTS; the index is int(point * frames) (LLaVA in Open-Sora).
        `rate`: `fps` frames per second, spread from the first to the last (qwen-vl-utils, `smart_nframes`).
            Their number is duration * fps, at least MIN_RATE_FRAMES rounded up to a multiple of `multiple`, at most
            `max_frames` and the number of frames of the clip, then rounded down to a multiple of `multiple`.
        `step`: every n-th frame from the first, n = round_half_even(frame rate / fps), at least 1; if these are more
            than `max_frames`, `max_frames` frames of the rule `uniform` (the loader of LLaVA-Video, which fails for
            n = 0).
    num_frames: number of frames, for the rules `segments`, `uniform` and `points`; 0 for the others.
    fps: frames per second, for the rules `rate` and `step`; 0 for the others.
    max_frames: maximum number of frames, for the rules `rate` and `step`; 0 for MAX_FRAMES.
    multiple: the number of sampled frames is a multiple of this. If needed, the last frame is repeated.

    Raises:
        UsageError: values that do not go together.
    """

    rule: str
    num_frames: int
    fps: float = 0.0
    max_frames: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise UsageError(f"--sampling {self.rule} {problem}")

    def _problem(self) -> str:
        if self.rule in COUNT_RULES:
            if self.fps or self.max_frames:
                given = f"--fps {self.fps:g}" if self.fps else f"--max_frames {self.max_frames}"
                return f"takes --num_frames, so {given} does not go with it; use --sampling {_or(RATE_RULES)}"
            if self.num_frames < 1:
                return "needs --num_frames, for example --num_frames 3"
            if self.rule == "points" and self.num_frames not in POINTS:
                given = f"--num_frames {self.num_frames}"
                return f"has points for {_or(POINTS)} frames, not for {given}; use --sampling uniform"
            return ""
        if self.rule not in RATE_RULES:
            return f"is not a rule; use {_or(SAMPLING_RULES)}"
        if self.num_frames:
            given = f"--num_frames {self.num_frames}"
            return f"takes --fps, so {given} does not go with it; use --sampling {_or(COUNT_RULES)}"
        if not 0 < self.fps < math.inf:
            return "needs --fps, for example --fps 1"
        if self.max_frames and self.max_frames < self.multiple:
            return f"with --max_frames {self.max_frames}: the model needs at least {self.multiple} frames"
        return ""

    @property
    def most_frames(self) -> int:
        """Maximum number of frames that are sampled from a clip."""
        if self.rule in RATE_RULES:
            return _floor(self.max_frames or MAX_FRAMES, self.multiple)
        return _ceil(self.num_frames, self.multiple)

    def indices(self, total_frames: int, rate: float) -> list[int]:
        """Indices of the sampled frames in a clip of `total_frames`, ascending. An index may occur several times.

        rate: frames of the clip per second. Only the rules `rate` and `step` read it. A clip of one frame needs none.

        Raises:
            ValueError: the clip has no frames; or the rule needs the rate, and it is not a positive number.
        """
        if total_frames < 1:
            raise ValueError("the video has no frames")
        if self.rule in RATE_RULES and total_frames == 1:
            chosen = [0]
        elif self.rule in RATE_RULES and not 0 < rate < math.inf:
            raise ValueError(f"the frame rate is unknown, so the sampling rule {self.rule} can't be used")
        else:
            chosen = _RULES[self.rule](self, total_frames, rate)
        return chosen + [chosen[-1]] * (-len(chosen) % self.multiple)

    def frame_step(self, rate: float) -> int:
        """Rule `step`: every n-th frame is sampled from a video with `rate` frames per second, unless it is too long.

        Raises:
            ValueError: the rule is another one.
        """
        if self.rule != "step":
            raise ValueError(f"the sampling rule {self.rule} has no step")
        return max(1, round(min(rate / self.fps, _LARGEST_STEP)))

    def __str__(self) -> str:
        if self.rule == "segments" and self.multiple == 1:
            return str(self.num_frames)  # journals of PLLaVA contain only the number
        amount = f"{self.fps!r} fps" if self.rule in RATE_RULES else str(self.num_frames)
        limit = f" max {self.max_frames}" if self.max_frames else ""
        multiple = f" multiple {self.multiple}" if self.multiple > 1 else ""
        return f"{self.rule} {amount}{limit}{multiple}"

    @staticmethod
    def parse(text: str) -> FrameSampling:
        """The sampling that `str` describes as `text`.

        Raises:
            ValueError: the text was not made by `str`.
        """
        words = text.split() if " " in text else ["segments", text]
        try:
            rule, amount, *rest = words
            is_rate = rule in RATE_RULES
            options = rest[1:] if is_rate else rest
            named = dict(zip(options[::2], map(int, options[1::2]), strict=True))
            sampling = FrameSampling(
                rule,
                0 if is_rate else int(amount),
                float(amount) if is_rate else 0.0,
                named.get("max", 0),
                named.get("multiple", 1),
            )
        except UsageError as error:
            raise ValueError(f"{text!r} is not a sampling of frames: {error}") from error
        if str(sampling) != text:
            raise ValueError(f"{text!r} is not a sampling of frames")
        return sampling


def _segments(sampling: FrameSampling, total_frames: int, rate: float) -> list[int]:
    return frame_indices(total_frames, sampling.num_frames)


def _uniform(sampling: FrameSampling, total_frames: int, rate: float) -> list[int]:
    return _truncated_linspace(total_frames, sampling.num_frames)


def _points(sampling: FrameSampling, total_frames: int, rate: float) -> list[int]:
    return [min(int(point * total_frames), total_frames - 1) for point in POINTS[sampling.num_frames]]


def _rate(sampling: FrameSampling, total_frames: int, rate: float) -> list[int]:
    wanted = max(total_frames / rate * sampling.fps, _ceil(MIN_RATE_FRAMES, sampling.multiple))
    count = _floor(min(wanted, sampling.most_frames, total_frames), sampling.multiple)
    return _rounded_linspace(total_frames, max(count, 1))  # the public code refuses a clip that gives no frame here


def _step(sampling: FrameSampling, total_frames: int, rate: float) -> list[int]:
    chosen = range(0, total_frames, sampling.frame_step(rate))
    if len(chosen) > sampling.most_frames:
        return _truncated_linspace(total_frames, sampling.most_frames)
    return list(chosen)


_RULES: dict[str, Callable[[FrameSampling, int, float], list[int]]] = {
    "segments": _segments,
    "uniform": _uniform,
    "points": _points,
    "rate": _rate,
    "step": _step,
}
SAMPLING_RULES = tuple(_RULES)
RATE_RULES = ("rate", "step")
COUNT_RULES = tuple(rule for rule in SAMPLING_RULES if rule not in RATE_RULES)


def _truncated_linspace(total_frames: int, count: int) -> list[int]:
    indices: list[int] = np.linspace(0, total_frames - 1, count, dtype=int).tolist()
    return indices


def _rounded_linspace(total_frames: int, count: int) -> list[int]:
    """`torch.linspace(0, total_frames - 1, count).round()`, which the public code calls, with its rounding errors.

    torch computes in float32, the second half of the values from the end, and each value is rounded to float32 once.
    """
    if count == 1:
        return [0]
    last = np.float32(total_frames - 1)
    step = float(last / np.float32(count - 1))
    number = np.arange(count)
    values = np.where(number < count // 2, step * number, float(last) - step * (count - 1 - number))
    indices: list[int] = values.astype(np.float32).round().astype(int).tolist()
    return indices


def _floor(number: float, multiple: int) -> int:
    return math.floor(number / multiple) * multiple


def _ceil(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


def _or(choices: Iterable[object]) -> str:
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}"
