"""The interfaces between the job and what captions the clips: a model family, or a service.

A family is an entry of `families.FAMILIES`. The families of transformers share the captioner in `hub`, so a new one
needs a subclass of `hub.family.HubFamily`; PLLaVA has subclasses of `Captioner` and `CaptionerSource` of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backends import Backend
from ..clips.clip import Clip
from ..clips.preparation import FramePreparation, FrameTransform
from ..clips.sampling import FrameSampling
from ..generation.options import GenerationOptions
from ..generation.requests import End, Engine, Request
from ..meta.asks import Asks
from ..meta.names import TEXT_COLUMN
from ..process.errors import UsageError
from .prompts import NO_IMAGES, NO_TEXT

if TYPE_CHECKING:
    from .text_prompts import TextPrompts  # imports a tokenizer, which captions through a service do without


@dataclass(frozen=True)
class Caption:
    """The generated text of one clip; see RowResult for `tokens` and `truncated`."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Refused:
    """A question that can't be asked, and why.

    question: its number among the questions of the row.
    is_too_long: whether the prompt alone is too long for the model, as for `EndReason.TOO_LONG`; the message names no
        flags then.
    """

    row: int
    question: int
    message: str
    is_too_long: bool = False


class Captioner(ABC):
    """A loaded model: converts clips to requests for an engine, and generated tokens to captions.

    clips_together: maximum number of clips that one call of `prepare` should get.
    """

    clips_together: int

    @abstractmethod
    def engine(self, slots: int) -> Engine:
        """A new engine that generates up to `slots` captions at the same time."""

    @abstractmethod
    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        """Run the vision stage once for each clip; returns the requests that ask the questions about the clips.

        A question whose prompt is too long for the model is refused before any computation.

        A clip has one request whose follow-ups are its further questions, or several requests if the questions share
        nothing but the visual tokens. The key of a request is (row, number of its first question), and the events of a
        question carry its number among the clip's questions.

        questions: about each clip, at least one; None for those of the source.
        systems: the system prompt of each clip's questions; None for that of the source.
        """

    def prepare_images(
        self, row: int, images: Sequence[Clip], question: str, system: str | None = None
    ) -> Request | Refused:
        """The request that asks a question about several still images together. Its key is (row, 0).

        images: clips of one still image each (`Clip.is_image`), in the order of the prompt, at least two; prepared as
            `ImageRole.ONE_OF_SEVERAL`.
        system: the system prompt; None for that of the source.

        Raises:
            UsageError: the family does not take several images; see `CaptionerSource.images_are_frames`.
        """
        raise UsageError(NO_IMAGES)

    def prepare_text(
        self, key: tuple[int, int], question: str, options: GenerationOptions | None = None, system: str = ""
    ) -> Request | Refused:
        """The request that asks a question about text alone, without a clip; see `CaptionerSource.text_prompts`.

        key: (row, number of the question). The row determines the random stream, as for clips.
        options: replace those of the run. Beam search is possible only if the run's captions have it too.
        system: the system prompt; empty for that of the template. It may contain special tokens only if
            `CaptionerSource.text_prompts` was called with it before.

        Raises:
            UsageError: the model can't answer questions about text, or the system prompt is not usable.
        """
        raise UsageError(NO_TEXT)

    @abstractmethod
    def caption(self, end: End) -> Caption:
        """The caption of a request that has ended without an error."""

    def prompt_tokens(self, request: Request) -> int:
        """Tokens of the prompt of a request that this captioner has prepared, visual tokens included."""
        return request.length

    @abstractmethod
    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        """The number of slots that suits the device and its memory (`--bs auto`).

        text_tokens: tokens of the longest prompt of `prepare_text`; 0 if there are clips only.
        answer_tokens: `max_new_tokens` of these prompts; 0 for that of the run.
        """

    @abstractmethod
    def stages(self) -> Mapping[str, float]:
        """Times and amounts of work of the stages on the device so far; the figures of all workers can be added.

        Times are in seconds and named `<stage>_seconds`, in the order of the stages.
        """


class Source(ABC):
    """What a run needs to know before it begins: what is asked about every row, and what the answers depend on."""

    asks: Asks

    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """Everything that the captions depend on, except the clips, as text. Journals store it."""

    def image_fingerprint(self) -> Mapping[str, str]:
        """Everything that the captions of still images depend on besides `fingerprint`, as text.

        Journals store it if the table names still images. Empty if an image is prepared as a clip of one frame.
        """
        return {}

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines for the log: the settings in use and the reasons for them."""

    def _prompt_entries(self) -> list[str]:
        """The name of the fingerprint's entry for each question. Runs of one constant question have `prompt`."""
        if self.asks.columns == (TEXT_COLUMN,) and not self.asks.cell_columns:
            return ["prompt"]
        return [f"prompt {column}" for column in self.asks.columns]


class ClipSource(Source):
    """A source whose rows are clips.

    sampling: which frames of each clip are sampled.
    short_side: larger frames are scaled before `frame_transform` so that their shorter side has this many pixels; 0 for
        no scaling.
    frame_transform: prepares the frames of a clip, see FrameTransform.
    image_transform: prepares a still image; None if it is a clip of one frame.
    several_transform: prepares one of several still images of a prompt; None if it is prepared as one that is alone.
    """

    sampling: FrameSampling
    short_side: int = 0
    frame_transform: FrameTransform
    image_transform: FrameTransform | None = None
    several_transform: FrameTransform | None = None

    @property
    def preparation(self) -> FramePreparation:
        """How the decoding processes choose and prepare frames."""
        return FramePreparation(
            self.sampling,
            self.frame_transform,
            self.short_side,
            self.image_transform,
            several_transform=self.several_transform,
        )


class CaptionerSource(ClipSource):
    """A captioner before its framework is imported: checked options and checkpoint.

    family: name of the model family and why it was chosen, for the log; empty if there was no choice.
    images_are_frames: several images of a message are the frames of one clip, because the family knows no others; else
        `Captioner.prepare_images` takes them.
    generation: how tokens are chosen, with the penalties of the checkpoint.
    """

    family: str = ""
    images_are_frames: bool = True
    generation: GenerationOptions

    def check_dtype(self, dtype_name: str) -> None:
        """Check that the model can compute in a type, one of `backends.DTYPES`. Every type will do by default.

        Raises:
            UsageError: values would overflow.
        """
        return None

    def text_prompts(self, system: str = "") -> TextPrompts:
        """The prompts of questions about text alone, for a command.

        system: the system prompt, from a flag; empty for that of the template, or none. It may contain special tokens.

        Raises:
            UsageError: the model can't answer questions about text, or the system prompt is not usable.
        """
        raise UsageError(NO_TEXT)

    @abstractmethod
    def check_weights(self) -> None:
        """Compare names and shapes of the checkpoint's weights with the model's; reads no values. Needs the framework.

        Raises:
            UsageError: lists every missing weight, every unexpected weight and every weight with a wrong shape.
        """

    @abstractmethod
    def load(self, backend: Backend) -> Captioner:
        """Load the model to the backend's device."""
