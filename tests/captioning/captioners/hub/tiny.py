"""Tiny random models whose visual tokens are compared with those of transformers' own model.

For variants that `reference_cases` has not: other towers, layers and modes of pooling. A test runs our captioner on a
folder of weights in the published layout.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.clip_prompts import ClipPrompts
from pipeline.captioning.captioners.hub.family import HubFamily
from pipeline.captioning.captioners.hub.prompts import HubPrompt
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.meta.asks import Asks

if TYPE_CHECKING:
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
TRANSFORM = Square(size=(70, 70), mean=MEAN, std=STD)
"""Has the values of the normalisation; the frames of the tests are not made by it."""
BEFORE, BETWEEN, AFTER = [5, 6, 7, 8, 9], [10, 11], [20, 21, 22]
IMAGE, VIDEO = 290, 291
TOLERANCE = 1e-5

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 2048, "model_type": "llama",
}  # fmt: skip
CLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 70,
    "patch_size": 14, "projection_dim": 32, "model_type": "clip_vision_model",
}  # fmt: skip
SIGLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 98,
    "patch_size": 14, "model_type": "siglip_vision_model", "vision_use_head": False,
}  # fmt: skip


@dataclass(frozen=True)
class SizedClip(Clip):
    """A clip that knows the height and width of its frames before the frame transform."""

    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Tiny:
    """A tiny random model, four clips, and the visual inputs of transformers for them.

    model_class: name of its class in transformers.
    config: config.json.
    family: made from the completed config.
    inputs: the visual arguments of transformers' model for a clip.
    features: what transformers puts in the place of a clip's visual tokens, given its model and the inputs.
    placeholder: the id of a visual token.
    has_published_names: whether `write` stores published names of LLaVA, not the model's own.
    """

    name: str
    model_class: str
    config: Mapping[str, Any]
    family: Callable[[Mapping[str, Any]], HubFamily]
    clips: Sequence[Clip]
    inputs: Callable[[HubFamily, Clip], dict[str, Any]]
    features: Callable[[Any, Mapping[str, Any]], Any]
    placeholder: int = VIDEO
    has_published_names: bool = True
    before: Sequence[int] = tuple(BEFORE)
    after: Sequence[int] = tuple(AFTER)

    def made(self) -> tuple[HubFamily, Any]:
        """The family, and transformers' config of the whole model."""
        import transformers

        model_class = getattr(transformers, self.model_class)
        config = model_class.config_class.from_dict(json.loads(json.dumps(self.config)))  # a copy: it is changed
        family = self.family(config.to_dict())
        assert family.model_class() is model_class
        return family, config

    def pieces(self, blocks: int) -> list[list[int]]:
        return [list(self.before), *[list(BETWEEN)] * (blocks - 1), list(self.after)]

    def weights(self) -> dict[str, np.ndarray]:
        """Random weights of the whole model by the model's names; the same on every framework."""
        from pipeline.captioning.captioners.loading import meta_model, weight_shapes

        family, config = self.made()
        shapes = weight_shapes(meta_model(family.model_class(), config))
        return {name: _random(name, shape) for name, shape in shapes.items()}

    def captioner(self, backend: Backend, folder: Path) -> HubCaptioner:
        """Our captioner with the weights of `folder`, as `write` stores them."""
        from pipeline.captioning.captioners.hub.captioner import HubCaptioner, HubSettings
        from pipeline.captioning.captioners.loading import load_weights, meta_model
        from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

        family, config = self.made()
        family.adapt(config)
        for part in (config, config.get_text_config(), config.vision_config):
            part._attn_implementation = UNMASKED_ATTENTION
        names = family.weight_names()
        model = meta_model(family.model_class(), config)
        model = load_weights(model, CheckpointWeights(folder, names), backend.device, backend.dtype)
        prompts = ClipPrompts(
            lambda text: self.pieces(int(text)),
            lambda clip, question, system: _blocks(family, clip),
            self.clips,
            Asks.single(""),
        )
        tokenizer: Any = None  # not used: tests compare token ids
        options = GenerationOptions(max_new_tokens=16)
        settings = HubSettings(
            family, HubPrompt(prompts, ("",), tokenizer, False), options, frozenset(), self.clips[-1]
        )
        return HubCaptioner(settings, model, backend)

    def write(self, folder: Path) -> Path:
        """Write the weights to `folder`, see `has_published_names`."""
        published = _published_name if self.has_published_names else str
        save_file({published(name): array for name, array in self.weights().items()}, folder / "model.safetensors")
        return folder

    def reference(self) -> Any:
        """transformers' model with these weights, on PyTorch."""
        import torch

        family, config = self.made()
        config._attn_implementation = "eager"
        model = family.model_class()(config).eval()
        state = {name: torch.from_numpy(array) for name, array in self.weights().items()}
        assert not model.load_state_dict(state, strict=False).unexpected_keys
        return model


def assert_features(tiny: Tiny, backend: Backend, folder: Path, tolerance: float = TOLERANCE) -> None:
    """The visual tokens of each clip are those of transformers' own model."""
    import torch

    reference, captioner = tiny.reference(), tiny.captioner(backend, tiny.write(folder))
    family, _ = tiny.made()
    if hasattr(reference.model, "vision_tower"):
        layers = len(reference.model.vision_tower.vision_model.encoder.layers)
        assert len(captioner._model.model.vision_tower.vision_model.encoder.layers) == layers - 1 < layers
    with torch.no_grad():
        blocks = captioner._blocks(list(tiny.clips))
        for own, clip in zip(blocks, tiny.clips, strict=True):
            assert [len(block) for block in own] == family.block_lengths(clip)
            expected = tiny.features(reference, tiny.inputs(family, clip))
            np.testing.assert_allclose(torch.cat(own).numpy(), expected.numpy(), atol=tolerance)


def assert_published_names(tiny: Tiny, folder: Path) -> None:
    """transformers stores the model under the names that `write` uses."""
    tiny.reference().save_pretrained(folder)
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "numpy") as stored:
        assert set(stored.keys()) == {_published_name(name) for name in tiny.weights()}


def pixels(frames: np.ndarray) -> Any:
    """Normalised values (…, 3, height, width) of uint8 frames, computed as the image processors do."""
    import torch

    values = (frames.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, -3)))


def sampled(clip: Clip) -> np.ndarray:
    """All sampled frames of a clip in time order."""
    return clip.frames[list(clip.frame_index)]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def square_clips(side: int) -> tuple[Clip, ...]:
    """Clips of two, three, four (all the same) and five frames."""
    indices = ((0, 1), (0, 1, 2), (0, 0, 0, 0), (0, 1, 2, 3, 4))
    return tuple(Clip(row, "", noise(row, max(index) + 1, side, side, 3), index) for row, index in enumerate(indices))


def _published_name(name: str) -> str:
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    inner = name.removeprefix("model.")
    return inner.replace("language_model.", "language_model.model.") if inner.startswith("language_model.") else inner


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    is_gain = len(shape) == 1 and name.endswith(".weight")
    return 1 + np.float32(0.1) * values if is_gain else np.float32(0.15) * values


def _blocks(family: HubFamily, clip: Clip) -> str:
    return str(len(family.block_lengths(clip)))
