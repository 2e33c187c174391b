"""LLaVA-Video in its publishers' layout: tokens, logits and features are those recorded with the public program.

The recorded outputs and the videos are not part of a clone.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.hub.llava_qwen import LlavaQwen, onevision_config
from pipeline.captioning.captioners.hub.prompts import ClipPrompts
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.process.errors import UsageError
from tests.golden import SHARED, VIDEOS, token_ids

if TYPE_CHECKING:
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner

pytestmark = pytest.mark.model

GOLDEN = SHARED / "golden" / "llava-video-a"
CHECKPOINT = GOLDEN / "checkpoint"
VOCABULARY = 612  # tokens of the tokenizer; the stored embeddings have 640 rows
_IMAGE = -200  # the recorded ids have it in the place of the video
_STOP_IDS = frozenset({611, 609})
_HALF = (0.5, 0.5, 0.5)
_PUBLISHED: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 18944, "mm_hidden_size": 1152, "mm_newline_position": "grid",
    "mm_projector_type": "mlp2x_gelu", "mm_spatial_pool_mode": "bilinear", "num_hidden_layers": 28,
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "vocab_size": 152064,
}  # fmt: skip
_ON_MINDSPORE = frozenset(
    f"bikes__nf4__force__{mode}__{newlines}__card"
    for mode, newlines in (
        ("bilinear", "grid"), ("average", "grid"), ("max", "grid"),
        ("bilinear", "frame"), ("bilinear", "one_token"), ("bilinear", "no_token"),
    )
)  # fmt: skip

needs_shared = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="a clone does not contain the recorded outputs of LLaVA-Video"
)


@functools.cache
def _cases() -> dict[str, dict[str, Any]]:
    """The recorded cases by name. Without the recorded outputs there are none."""
    path = GOLDEN / "golden.json"
    return (
        {case["name"]: case for case in json.loads(path.read_text(encoding="utf-8"))["cases"]} if path.exists() else {}
    )


@functools.cache
def _arrays() -> Any:
    return np.load(GOLDEN / "golden.npz")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _config(folder: Path, mode: str, newlines: str) -> dict[str, Any]:
    changes = {"mm_spatial_pool_mode": mode, "mm_newline_position": newlines}
    tower = _json(GOLDEN / "siglip" / "config.json")["vision_config"]
    return onevision_config(_json(folder / "config.json") | changes, VOCABULARY, tower)


def _family(config: dict[str, Any]) -> LlavaQwen:
    return LlavaQwen(config, None, _HALF, _HALF)


@functools.lru_cache(maxsize=1)
def _model(backend: Backend, folder: Path = CHECKPOINT, tower_folder: Path | None = None) -> Any:
    """The model does not depend on pool mode and newline position."""
    from pipeline.captioning.captioners.loading import load_weights, meta_model
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION

    family = _family(_config(folder, "bilinear", "grid"))
    model_class = family.model_class()
    config = model_class.config_class.from_dict(dict(family.config))
    family.adapt(config)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = UNMASKED_ATTENTION
    weights = CheckpointWeights(folder, family.weight_names(), tower_folder=tower_folder)
    return load_weights(meta_model(model_class, config), weights, backend.device, backend.dtype)


def _captioner(case: dict[str, Any], model: Any, backend: Backend, clip: Clip, penalty: float) -> HubCaptioner:
    from pipeline.captioning.captioners.hub.captioner import HubCaptioner, HubSettings

    ids, position = case["input_ids"], case["input_ids"].index(_IMAGE)
    prompts = ClipPrompts(lambda text: [ids[:position], ids[position + 1 :]], lambda clip: "", [clip])
    tokenizer: Any = None  # not used: tests compare token ids
    options = GenerationOptions(max_new_tokens=24, repetition_penalty=penalty)
    family = _family(_config(CHECKPOINT, case["mm_spatial_pool_mode"], case["mm_newline_position"]))
    settings = HubSettings(family, prompts, tokenizer, options, _STOP_IDS, clip, counts_prompt=False)
    return HubCaptioner(settings, model, backend)


@functools.lru_cache(maxsize=1)
def _clip(name: str) -> Clip:
    """The clip of a case; its pixels are checked."""
    case = _cases()[name]
    if case.get("frames_stored") == case["num_frames"]:
        frames = list(_arrays()[case["frames_key"]])
    else:
        decord = pytest.importorskip("decord")
        frames = list(decord.VideoReader(str(VIDEOS / case["video"])).get_batch(case["frame_indices"]).asnumpy())
    assert [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames] == case["frame_sha256"]
    resized = np.stack([_resized(Image.fromarray(frame)) for frame in frames])
    return Clip(0, case["video"], resized, tuple(range(len(resized))))


def _resized(image: Image.Image) -> np.ndarray:
    """The image scaled to 384 x 384, bit-identical to the recorded pixels.

    The outputs were recorded with Pillow 13.0. For upright images they are those of scaling the height first and then
    the width. The pinned Pillow 12.3 does it the other way round, which changes values by up to 5 of 255. So upright
    images are scaled in two steps here; a run with the pinned Pillow does not do this.
    """
    if image.height > image.width:
        image = image.resize((image.width, 384), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC))


def _check(case: dict[str, Any], model: Any, backend: Backend) -> None:
    """Pixels, features, the first logits, and the tokens without a penalty and with the checkpoint's own."""
    import torch

    from pipeline.captioning.captioners.hub.towers import normalised

    clip = _clip(case["name"])
    pixels = normalised(torch.from_numpy(clip.frames), _HALF, _HALF, torch.float32).numpy()
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == case["pixel_values"]["sha256"]
    captioner = _captioner(case, model, backend, clip, 1.0)
    known = captioner._blocks([clip])
    # The vision tower takes most of the time, so it runs only once.
    captioner._blocks = lambda clips: known
    features = known[0][0].numpy()
    assert features.shape == tuple(case["features"]["shape"])
    np.testing.assert_allclose(features.mean(-1), _arrays()[case["features_rowmean_key"]], atol=1e-5)
    np.testing.assert_allclose(features[:8, :8], case["features"]["corner_8x8"], atol=1e-4)
    if "features_key" in case:
        np.testing.assert_allclose(features, _arrays()[case["features_key"]], atol=1e-4)
    assert len(captioner._prefix) == case["image_position"], "all prompts share the text before the video"
    with torch.no_grad():
        embeddings = torch.cat([captioner._embed(captioner._prefix), captioner.prepare([clip])[0].embeddings])
        hidden = captioner._text.decoder(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state
        logits = captioner._text.head(hidden[:, -1])[0]
    assert len(embeddings) == case["lm_input_length"]
    np.testing.assert_allclose(logits.numpy(), _arrays()[case["logits_key"]], atol=1e-4)
    assert token_ids(captioner, [clip]) == [case["greedy_ids"]]
    captioner = _captioner(case, model, backend, clip, 1.05)
    captioner._blocks = lambda clips: known
    assert token_ids(captioner, [clip]) == [case["card_ids"]]


@needs_shared
def test_all_recorded_cases_are_tested() -> None:
    assert len(_cases()) == 35
    assert set(_cases()) > _ON_MINDSPORE


@needs_shared
@pytest.mark.parametrize("name", sorted(_cases()))
def test_recorded_outputs(name: str, backend: Backend) -> None:
    if backend.framework == "mindspore" and name not in _ON_MINDSPORE:
        pytest.skip("MindSpore is slower: one case of each pool mode and newline position")
    _check(_cases()[name], _model(backend), backend)


@needs_shared
def test_the_tower_in_a_folder_of_its_own(backend: Backend) -> None:
    names = LlavaQwen(_config(CHECKPOINT, "bilinear", "grid"), None, (), ()).weight_names()
    with_tower = CheckpointWeights(CHECKPOINT, names)
    # The folder of the tower has other values: those of the checkpoint win, if it has them.
    for folder in (CHECKPOINT, GOLDEN / "checkpoint-no-tower"):
        weights = CheckpointWeights(folder, names, tower_folder=GOLDEN / "siglip")
        for name, parameter in _model(backend).named_parameters():
            stored = weights.read(name)
            assert stored.shape == tuple(parameter.shape), name
            np.testing.assert_array_equal(stored, with_tower.read(name), err_msg=name)
    assert weights.read("lm_head.weight").shape == (VOCABULARY, 64)


@needs_shared
def test_a_checkpoint_without_its_tower(backend: Backend) -> None:
    from pipeline.captioning.captioners.loading import weight_shapes

    names = LlavaQwen(_config(CHECKPOINT, "bilinear", "grid"), None, (), ()).weight_names()
    with pytest.raises(UsageError, match=r"missing: model\.vision_tower\.vision_model\."):
        CheckpointWeights(GOLDEN / "checkpoint-no-tower", names).check(weight_shapes(_model(backend)))


# Tokens for frames of 27 x 27 patches: tokens of one frame, of three, and places of the newlines of the first.
@pytest.mark.parametrize(
    ("mode", "newlines", "one", "three", "places"),
    [
        ("bilinear", "grid", 210, 630, [14, 29, 44]),
        ("bilinear", "frame", 197, 591, [196, 393, 590]),
        ("bilinear", "one_token", 197, 589, [588]),
        ("bilinear", "no_token", 196, 588, []),
        ("average", "grid", 182, 546, [13, 27, 41]),
        ("max", "frame", 170, 510, [169, 339, 509]),
        ("max", "one_token", 170, 508, [507]),
    ],
)
def test_places_of_newlines(
    mode: str, newlines: str, one: int, three: int, places: list[int], backend: Backend
) -> None:
    import torch

    config = onevision_config(_PUBLISHED | {"mm_spatial_pool_mode": mode, "mm_newline_position": newlines}, 100)
    family = _family(config)
    clips = [Clip(0, "", np.zeros((1, 1, 1, 3), np.uint8), index) for index in ((0,), (1, 0, 1))]
    assert [family.block_lengths(clip) for clip in clips] == [[one], [three]]
    side = 14 if mode == "bilinear" else 13
    features = torch.arange(2 * side**2, dtype=torch.float32).reshape(2, side**2, 1) + 1
    model = SimpleNamespace(model=SimpleNamespace(image_newline=torch.zeros(1)))
    (block,) = family.blocks(model, features, clips[1])
    values = block[:, 0].numpy()
    assert len(values) == three
    assert np.flatnonzero(values == 0)[:3].tolist() == places
    first, second = np.split(features[..., 0].numpy().reshape(-1), 2)
    np.testing.assert_array_equal(values[values != 0], np.concatenate([second, first, second]))


def test_the_published_tower() -> None:
    config = onevision_config(_PUBLISHED, 151647)
    assert config["text_config"]["vocab_size"] == 151647
    names = LlavaQwen(config, None, (), ()).weight_names()
    layer = "model.vision_tower.vision_tower.vision_model.encoder.layers.{}.mlp.fc1.weight"
    assert [names.is_unused(names.model_name(layer.format(number))) for number in (25, 26)] == [False, True]
    assert names.is_unused(names.model_name("vision_model.head.probe")), "of the tower's own folder"
    assert names.is_unused(names.model_name("text_model.embeddings.token_embedding.weight"))
    assert names.model_name("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight") == (
        "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mm_vision_tower": "openai/clip-vit-large-patch14-336"},
            "openai/clip-vit-large-patch14-336 is not known",
        ),
        ({"mm_hidden_size": 1024}, "mm_hidden_size is 1024, but the vision tower has 1152"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported"),
        ({"add_faster_video": True}, "add_faster_video is not supported"),
        (
            {"mm_spatial_pool_mode": "nearest"},
            "pool_mode 'nearest' is not supported; bilinear, average, max are",
        ),
        (
            {"mm_newline_position": "x"},
            "position 'x' is not supported; grid, frame, one_token, no_token are",
        ),
    ],
)
def test_usage_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _family(onevision_config(_PUBLISHED | changes, 100))
