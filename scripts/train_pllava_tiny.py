"""Trains pretrained_models/pllava-tiny, or its LoRA adapter, on random clips of `clip_world`.

    python -m scripts.train_pllava_tiny base --work WORK
    python -m scripts.train_pllava_tiny brief --work WORK
    python -m scripts.train_pllava_tiny lora --work WORK

Phases:

- `tower`: trains the vision tower and the projector. They learn to classify what each patch of single frames shows, and
  to predict the centre and the radius of its object.
- `text`: trains the text model; the vision tower and the projector are frozen. Each clip is used twice: with its frames
  in order and in reversed order. An auxiliary task reads the hidden states after half of the layers: for each visual
  token of the last frame it predicts the shape, colour, size and motion of the object there. Through this task the text
  model first learns to compare frames.
- `joint`: trains everything at a low learning rate, with the task of `tower` as a second auxiliary task. The last part
  uses canonical captions only.
- `brief`: trains the text model of `base` further. Half of the batches ask BRIEF_QUESTION, whose answers have the terse
  style; the others ask the default question.
- `lora`: trains an adapter for the terse style; all other weights are frozen.

Times on one CPU core with AVX-512 BF16 that other programs also used: `tower` 1,200 steps of 64 frames in 7 minutes
(shape correct for 99.4 % of the patches); `text` 1,500 steps of 16 clips and their reversals in 13 minutes (97.5 %
exact captions); `joint` 2,000 such steps in 23 minutes (100 %); `lora` 600 such steps in 5 minutes. The model card has
the scores on encoded clips that training did not use.

All random numbers depend only on `--seed` and the step. The state is written to WORK about every two minutes. The same
command continues an interrupted training from that state and gives the same weights as without the interruption.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from pipeline.captioning.captioners.loading import load_weights, meta_model
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from pipeline.captioning.captioners.pllava.modeling import PllavaForConditionalGeneration
from pipeline.captioning.captioners.pllava.processing import FrameProcessor
from pipeline.captioning.captioners.pllava.weight_names import weight_names
from pipeline.captioning.captioners.tokenizer import CheckpointTokenizer
from pipeline.captioning.captioners.weights import CheckpointWeights
from pipeline.captioning.clips.decode import decode
from pipeline.captioning.clips.sampling import FrameSampling
from scripts.clip_world import random_clip, write_clips
from scripts.scenes import Scene
from scripts.tiny_checkpoint import (
    BRIEF_PROMPT,
    DEFAULT_PROMPT,
    PROMPT_WITHOUT_SYSTEM,
    write_folder,
    write_lora,
    write_weights,
)
from scripts.tiny_training_data import AuxiliaryTask, TrainingBatch, last_and_first_frames, random_batch
from scripts.training_phase import train

logger = logging.getLogger(__name__)

TOWER_FRAMES, CLIPS = 64, 16
"""Frames in a batch of `tower`; clips in a batch of the other phases, to which their reversals are added."""
OTHER_CAPTIONS = 0.12
"""Share of captions that are not canonical, in `text` and in `joint` before its last part (`CANONICAL_ONLY`)."""
CANONICAL_ONLY = 0.3
"""Share of the steps of `joint`, at its end, that use canonical captions only."""
SHARE_WITHOUT_SYSTEM = 0.15
"""Share of batches without a system prompt, in `text` and `joint`."""
SHARE_BRIEF = 0.5
"""Share of batches with BRIEF_QUESTION, in `brief`."""
VALIDATION_SEED, VALIDATION_CLIPS = 7, 100
LORA_RANK, LORA_ALPHA = 16, 32


TokenIds = tuple[list[int], list[int]]
"""Token ids of a prompt before and after the visual tokens."""


class Trainer:
    """The model with its tokenizer, prompts and auxiliary tasks. Computes the losses of all phases."""

    def __init__(self, folder: Path, model: PllavaForConditionalGeneration, bfloat16: bool) -> None:
        self.config = model.config
        self.model = model
        for part in (model.vision_tower.vision_model, model.language_model):
            part.config._attn_implementation = "eager"  # has the faster backward pass on CPUs
        self.bfloat16 = bfloat16
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        wrapped = CheckpointTokenizer(folder, self.config.image_token_id)
        self.prompt = wrapped.split_prompt(DEFAULT_PROMPT)
        self.prompt_without_system = wrapped.split_prompt(PROMPT_WITHOUT_SYSTEM)
        self.brief_prompt = wrapped.split_prompt(BRIEF_PROMPT)
        self.end = self.tokenizer.token_to_id("</s>")
        self.processor = FrameProcessor.from_folder(folder, self.config.image_size)
        width = self.config.text["hidden_size"]
        self.patch_task = AuxiliaryTask(width, ("shape", "colour", "size", "background"), geometry=True)
        self.cell_task = AuxiliaryTask(width, ("shape", "colour", "size", "motion"), geometry=False)
        self.all_modules = nn.ModuleDict({"model": model, "patch": self.patch_task, "cell": self.cell_task})

    def tower_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a random batch of single frames."""
        batch = self._random_batch(rng, TOWER_FRAMES, single=True)
        with self._autocast():
            features = self.model.frame_features(self._pixels(batch.pixels))
        return self.patch_task(features, batch.patches)

    def joint_loss(self, rng: np.random.Generator, other_captions: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a random batch of clips and their reversals.

        other_captions: share of captions that are not canonical.
        """
        batch = self._random_batch(rng, CLIPS)
        scenes = [*batch.scenes, *(scene.reversed() for scene in batch.scenes)]
        captions = [self._random_caption(rng, scene, other_captions) for scene in scenes]
        patches: list[torch.Tensor] = []
        hook = self.model.multi_modal_projector.register_forward_hook(lambda *call: patches.append(call[2]))
        with self._autocast():
            visual = self._visual_tokens(batch.pixels)
            hook.remove()
            visual = torch.cat([visual, self._reverse(visual)])
            loss, exact, hidden = self._caption_loss(visual, captions, self._default_prompt(rng))
        # The task reads the output of the lower half of the layers. The upper half can then be used for the sentence.
        steps, rows, columns = self.config.pooling_shape
        middle = hidden[self.config.text["num_hidden_layers"] // 2][:, : visual.shape[1]]
        last = middle.unflatten(1, (steps, rows * columns))[:, -1]
        cell_loss, cell_metrics = self.cell_task(last, last_and_first_frames(batch.cells, scenes, steps))
        canonical = np.array([text == scene.caption() for text, scene in zip(captions, scenes, strict=True)])
        metrics = {"exact": float(exact[canonical].mean()), "caption loss": loss.item()}
        metrics |= {"motion": cell_metrics["motion"]}
        total = 4 * loss + 0.3 * cell_loss
        if patches[0].requires_grad:
            patch_loss, patch_metrics = self.patch_task(patches[0], batch.patches)
            metrics |= {"shape": patch_metrics["shape"], "radius error": patch_metrics["radius error"]}
            total = total + 0.3 * patch_loss
        return total, metrics

    def terse_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a random batch of clips and their reversals, with terse captions."""
        return self._text_loss(rng, self.prompt, Scene.terse_caption)

    def brief_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a random batch of clips and their reversals; one of the two questions is asked."""
        if rng.random() < SHARE_BRIEF:
            loss, metrics = self._text_loss(rng, self.brief_prompt, Scene.terse_caption)
            return loss, {f"brief {key}": value for key, value in metrics.items()}
        return self._text_loss(rng, self._default_prompt(rng), Scene.caption)

    def _text_loss(
        self, rng: np.random.Generator, prompt: TokenIds, true_caption: Callable[[Scene], str]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a random batch of clips and their reversals, without gradients of the vision tower."""
        batch = self._random_batch(rng, CLIPS)
        scenes = [*batch.scenes, *(scene.reversed() for scene in batch.scenes)]
        with self._autocast():
            with torch.no_grad():
                visual = self._visual_tokens(batch.pixels)
            visual = torch.cat([visual, self._reverse(visual)])
            loss, exact, _ = self._caption_loss(visual, [true_caption(scene) for scene in scenes], prompt)
        return loss, {"exact": float(exact.mean()), "caption loss": loss.item()}

    def _default_prompt(self, rng: np.random.Generator) -> TokenIds:
        return self.prompt_without_system if rng.random() < SHARE_WITHOUT_SYSTEM else self.prompt

    def validate(
        self,
        pixels: np.ndarray,
        scenes: Sequence[Scene],
        prompt: TokenIds,
        true_caption: Callable[[Scene], str],
    ) -> dict[str, float]:
        """The share of exact captions, for clips with their frames in order ("exact") and in reversed order.

        Greedy decoding gives the true caption if and only if each true token is the most likely one after the true
        tokens before it. So one forward pass is enough, without generation.
        """
        exact, backwards = [], []
        with torch.no_grad():
            for begin in range(0, len(scenes), 50):
                part = scenes[begin : begin + 50]
                visual = self._visual_tokens(pixels[begin : begin + 50])
                exact.append(self._caption_loss(visual, [true_caption(scene) for scene in part], prompt)[1])
                reversed_captions = [true_caption(scene.reversed()) for scene in part]
                backwards.append(self._caption_loss(self._reverse(visual), reversed_captions, prompt)[1])
        return {"exact": float(np.concatenate(exact).mean()), "reversed": float(np.concatenate(backwards).mean())}

    def validation_clips(self) -> tuple[np.ndarray, list[Scene]]:
        """Clips that training does not use, encoded and decoded, and their scenes.

        The pixels are uint8 (clips, frames, size, size, 3).
        """
        with TemporaryDirectory() as folder:
            clips = [random_clip(VALIDATION_SEED, number) for number in range(VALIDATION_CLIPS)]
            write_clips(Path(folder), clips)
            sampling = FrameSampling("segments", self.config.pooling_shape[0])
            sampled = [decode(str(path), sampling) for path in sorted(Path(folder).glob("*.mp4"))]
        return np.stack([self.processor(clip.images)[list(clip.index)] for clip in sampled]), [
            clip.scene for clip in clips
        ]

    def _random_batch(self, rng: np.random.Generator, clips: int, single: bool = False) -> TrainingBatch:
        frames, cells, _ = self.config.pooling_shape
        return random_batch(rng, clips, frames, self.config.image_size, self.config.patch_grid, cells, single)

    def _pixels(self, pixels: np.ndarray) -> torch.Tensor:
        frames = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:]))
        return self.model.pixel_values(frames, self.processor.mean, self.processor.std)

    def _visual_tokens(self, pixels: np.ndarray) -> torch.Tensor:
        time_, rows, columns = self.config.pooling_shape
        pooled = self.model.pooled_frames(self._pixels(pixels), rows, columns).unflatten(0, pixels.shape[:2])
        return torch.stack([self.model.clip_tokens(clip, range(len(clip)), time_) for clip in pooled])

    def _reverse(self, visual: torch.Tensor) -> torch.Tensor:
        steps, rows, columns = self.config.pooling_shape
        return visual.unflatten(1, (steps, rows * columns)).flip(1).flatten(1, 2)

    def _random_caption(self, rng: np.random.Generator, scene: Scene, other_captions: float) -> str:
        if rng.random() >= other_captions:
            return scene.caption()
        return str(rng.choice([*scene.other_captions(), scene.terse_caption()]))

    def _caption_loss(
        self, visual: torch.Tensor, captions: Sequence[str], prompt: TokenIds
    ) -> tuple[torch.Tensor, np.ndarray, tuple[torch.Tensor, ...]]:
        """Teacher-forced loss of captions.

        visual: visual tokens, (captions, tokens, width). prompt: the same for all captions, so the text model computes
        the keys and values of its text before the visual tokens once.

        Returns:
            The mean loss per token, which captions are exact, and the hidden states of each layer for the tokens after
            the prefix. The visual tokens come first.
        """
        targets = [[*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end] for text in captions]
        length = max(map(len, targets))
        ids = torch.tensor([target + [self.end] * (length - len(target)) for target in targets])
        is_target = torch.arange(length) < torch.tensor(list(map(len, targets)))[:, None]
        text_model, embed = self.model.language_model.model, self.model.language_model.get_input_embeddings()
        before, after_ids = prompt
        cache = DynamicCache()
        text_model(inputs_embeds=embed(torch.tensor([before])), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(targets))
        after = embed(torch.tensor([after_ids])).expand(len(targets), -1, -1)
        inputs = torch.cat([visual, after.to(visual.dtype), embed(ids[:, :-1]).to(visual.dtype)], 1)
        out = text_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)
        logits = self.model.language_model.lm_head(out.last_hidden_state[:, -length:]).float()
        loss = functional.cross_entropy(logits[is_target], ids[is_target])
        exact = ((logits.argmax(-1) == ids) | ~is_target).all(1).numpy()
        return loss, exact, out.hidden_states

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)


def train_base(arguments: argparse.Namespace) -> None:
    """Train pllava-tiny and write its folder."""
    folder: Path = arguments.output
    torch.manual_seed(arguments.seed)
    config = PllavaConfig.from_dict(write_folder(folder))
    trainer = Trainer(folder, PllavaForConditionalGeneration(config), arguments.bfloat16)
    model = trainer.model
    logger.info("%.2f M parameters", sum(parameter.numel() for parameter in model.parameters()) / 1e6)
    tower = nn.ModuleDict(
        {"tower": model.vision_tower, "projector": model.multi_modal_projector, "patch": trainer.patch_task}
    )
    train(
        "tower", arguments.work, tower, arguments.tower_steps, 2e-3, arguments.seed,
        lambda rng, share: trainer.tower_loss(rng),
    )  # fmt: skip
    pixels, scenes = trainer.validation_clips()

    def validate() -> None:
        scores = trainer.validate(pixels, scenes, trainer.prompt, Scene.caption)
        logger.info("encoded clips: %s", ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))

    text = nn.ModuleDict({"text": model.language_model, "cell": trainer.cell_task})
    tower.requires_grad_(False)
    train(
        "text", arguments.work, text, arguments.text_steps, 2e-3, arguments.seed,
        lambda rng, share: trainer.joint_loss(rng, OTHER_CAPTIONS), validate,
    )  # fmt: skip
    tower.requires_grad_(True)
    train(
        "joint", arguments.work, trainer.all_modules, arguments.joint_steps, 2e-4, arguments.seed,
        lambda rng, share: trainer.joint_loss(rng, 0.0 if share > 1 - CANONICAL_ONLY else OTHER_CAPTIONS),
        validate,
    )  # fmt: skip
    write_weights(folder, model.state_dict())


def _loaded_model(base: Path) -> PllavaForConditionalGeneration:
    config = PllavaConfig.from_folder(base)
    weights = CheckpointWeights(base, weight_names(config))
    model: PllavaForConditionalGeneration = load_weights(
        meta_model(PllavaForConditionalGeneration, config), weights, "cpu", torch.float32
    )
    return model


def train_brief(arguments: argparse.Namespace) -> None:
    """Train pllava-tiny to answer BRIEF_QUESTION too, and write its weights."""
    torch.manual_seed(arguments.seed)
    trainer = Trainer(arguments.base, _loaded_model(arguments.base), arguments.bfloat16)
    trainer.model.requires_grad_(False)
    trainer.model.language_model.requires_grad_(True)
    pixels, scenes = trainer.validation_clips()

    def validate() -> None:
        for prompt, style in ((trainer.prompt, Scene.caption), (trainer.brief_prompt, Scene.terse_caption)):
            scores = trainer.validate(pixels, scenes, prompt, style)
            logger.info("encoded clips: %s", ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))

    train(
        "brief", arguments.work, trainer.model.language_model, arguments.brief_steps, 2e-4, arguments.seed,
        lambda rng, share: trainer.brief_loss(rng), validate,
    )  # fmt: skip
    write_weights(arguments.output, trainer.model.state_dict())


def train_lora(arguments: argparse.Namespace) -> None:
    """Train the LoRA adapter and write its folder."""
    base: Path = arguments.base
    torch.manual_seed(arguments.seed)
    model = _loaded_model(base)
    settings = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model.language_model, settings)
    trainer = Trainer(base, model, arguments.bfloat16)
    trained = nn.ParameterList(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    pixels, scenes = trainer.validation_clips()

    def validate() -> None:
        scores = trainer.validate(pixels, scenes, trainer.prompt, Scene.terse_caption)
        logger.info("encoded clips: %s", ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))

    train(
        "lora", arguments.work, trained, arguments.lora_steps, 2e-3, arguments.seed,
        lambda rng, share: trainer.terse_loss(rng), validate,
    )  # fmt: skip
    settings.inference_mode = True
    settings.base_model_name_or_path = "pretrained_models/pllava-tiny"
    write_lora(arguments.output, settings, get_peft_model_state_dict(adapted, save_embedding_layers=False))


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train pllava-tiny or its LoRA adapter.")
    parser.add_argument(
        "what", choices=("base", "brief", "lora"), help="base and brief: pllava-tiny; lora: its adapter"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the states from which an interrupted run continues"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="output folder (default: pretrained_models/pllava-tiny or pretrained_models/pllava-tiny-lora)",
    )
    parser.add_argument(
        "--base", type=Path, default=Path("pretrained_models/pllava-tiny"), help="brief, lora: folder of pllava-tiny"
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--tower_steps", type=int, default=1200, help="default: %(default)s")
    parser.add_argument("--text_steps", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--joint_steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--brief_steps", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--lora_steps", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="autocast to bfloat16")
    arguments = parser.parse_args(None if argv is None else list(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.output is None:
        arguments.output = Path("pretrained_models/pllava-tiny" + ("-lora" if arguments.what == "lora" else ""))
    {"base": train_base, "brief": train_brief, "lora": train_lora}[arguments.what](arguments)


if __name__ == "__main__":
    main()
