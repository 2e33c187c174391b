"""What a family of transformers' models has to provide. Everything else is in `source` and `captioner`.

Until `model_class` is called, a family imports no framework.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ..images.base import ImageTransform
from ..weights import WeightNames

if TYPE_CHECKING:
    import torch


class HubFamily(ABC):
    """One checkpoint's family.

    The prompt of a clip is text around visual blocks. A block is a sequence of visual tokens: those of one frame, or of
    the whole video. `HubPrompt` has the text, `blocks` gives the tokens. A still image (`Clip.is_image`) is a clip of
    one frame, and has one block.

    config: config.json, completed.
    frame_transform: from distinct frames to uint8 arrays; runs in the decoding processes. The device rescales and
        normalises the arrays, with the values of this transform.
    image_transform: the same for still images, with the same normalisation; None if they are frames like others.
    several_transform: the same for one of several still images in a prompt; None if these are prepared as one alone.
    prompts_each_block: whether each block has a prompt and an answer of its own. The prompts of a clip have the same
        text, and its blocks the same length. The caption is the answers, joined.
    needs_generate: whether only transformers' `generate` can run the text model, in whole batches and with its own
        attention. These are models that make their own masks, and encoder-decoder models.
    no_text_questions: why the model can't answer questions about text without an image; empty if it can.
    images_are_frames: whether several images can only be the frames of one clip, see `CaptionerSource`.
    """

    config: Mapping[str, Any]
    frame_transform: ImageTransform
    image_transform: ImageTransform | None = None
    several_transform: ImageTransform | None = None
    prompts_each_block: bool = False
    needs_generate: bool = False
    no_text_questions: str = ""
    images_are_frames: bool = False

    @abstractmethod
    def block_lengths(self, clip: Clip) -> list[int]:
        """Visual tokens in each block of a clip."""

    def prompts(self, clip: Clip) -> int:
        """Number of prompts of a clip."""
        return len(self.block_lengths(clip)) if self.prompts_each_block else 1

    def prompt_lengths(self, clip: Clip) -> list[int]:
        """Visual tokens in each block of one prompt of a clip."""
        lengths = self.block_lengths(clip)
        return lengths[:1] if self.prompts_each_block else lengths

    @abstractmethod
    def weight_names(self) -> WeightNames:
        """The names of weights in published checkpoints and in PEFT adapters."""

    @abstractmethod
    def model_class(self) -> type[Any]:
        """The class of transformers. Imports the framework."""

    def text_model(self, model: Any) -> Any:
        """The part of the model that `generate` of transformers is called on, with embeddings of the whole prompt."""
        return model

    def adapt(self, config: Any) -> None:
        """Change transformers' config before the model is built from it, for example to leave out unused layers."""
        return None

    def dtype_problem(self, dtype_name: str) -> str:
        """Why the model can't compute in a type, one of `backends.DTYPES`; empty if it can."""
        return ""

    def units(self, clip: Clip) -> np.ndarray:
        """What the vision tower processes independently of each other, uint8; the first axis is the unit.

        These are the distinct frames, unless a family says otherwise.
        """
        return clip.frames

    def unit_count(self, clip: Clip) -> int:
        """The length of `units`, from shapes only: each image of the frames (..., height, width, 3) is a unit."""
        return math.prod(clip.frames.shape[:-3])

    @abstractmethod
    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        """Features of units in the width of the text model: (units, tokens, width). units: on the model's device."""

    def image_features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        """The same for units of still images; those of frames, unless a family says otherwise."""
        return self.features(model, units)

    @abstractmethod
    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        """The visual blocks of a clip, each (tokens, width). features: of the clip's units."""

    @abstractmethod
    def unit_bytes(self, itemsize: int) -> int:
        """Bytes of the intermediate values of one unit in tower and projector: the largest set within one layer."""

    def image_unit_bytes(self, itemsize: int) -> int:
        """The same for a unit of a still image; that of a frame, unless a family says otherwise."""
        return self.unit_bytes(itemsize)

    def positions(
        self, pieces: Sequence[Sequence[int]], lengths: Sequence[int], clips: Sequence[Clip]
    ) -> tuple[np.ndarray, int]:
        """Positions of the prompt's tokens, (tokens,) or (3, tokens), and the position of the first generated token.

        pieces: token ids around the blocks of one prompt. lengths: of these blocks.
        clips: of the prompt: one, or several still images.
        """
        total = sum(map(len, pieces)) + sum(lengths)
        return np.arange(total), total

    def text_positions(self, tokens: int) -> np.ndarray:
        """Positions of a prompt without blocks, (tokens,) or (3, tokens); the next one is `tokens`."""
        return np.arange(tokens)


def kept_layers(layers: int, layer: int) -> int:
    """How many of a tower's layers are run to get its `hidden_states[layer]`, where 0 is the input of the first."""
    return layer if layer >= 0 else layers + 1 + layer
