"""Trains pretrained_models/pllava-tiny, and the LoRA adapter beside it, on the world of `clip_world`.

One CPU core (AVX-512 BF16) that other work shared, 16 clips and their reversals a step: tower 1,200 steps of
64 frames in 7 minutes (99.4 % of patches' shapes right), text 1,500 in 13 (97.5 % exact captions), joint
2,000 in 23 (100 %); the adapter 600 in 5. The model card has the figures on encoded, unseen clips.

    python -m scripts.train_pllava_tiny base --work WORK
    python -m scripts.train_pllava_tiny lora --work WORK

Phases:

- `tower`: the vision tower and the projector alone learn to name what every patch of single frames shows,
  and where its object's centre is and how large it is.
- `text`: the text model learns to caption, the tower unchanged. Every clip comes a second time with its
  frames reversed. Half way up the text model, the shape, colour, size and motion of the object that a visual
  token of the last frame stands for must be readable: that is where it first learns to compare frames.
- `joint`: all of it together at a low rate, the tower's task beside; at the end canonical captions only.
- `lora`: the finished weights stay as they are; an adapter learns the terse style.

All depends on `--seed` and on the step alone. An interrupted run that is started again goes on from its last
state in WORK, at most two minutes back, and comes to the same weights.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from scripts.clip_world import Scene, draw_clip, write_clips
from scripts.tiny_checkpoint import BARE_PROMPT, DEFAULT_PROMPT, write_folder, write_lora, write_weights
from scripts.tiny_training_data import SideTasks, TrainingBatch, draw_batch, last_and_first_frames

logger = logging.getLogger(__name__)

TOWER_FRAMES, CLIPS = 64, 16
"""Frames of a batch that teaches the tower; clips of a batch of captions, which their reversals double."""
OTHER_CAPTIONS = 0.12
"""Share of captions that are not canonical, until the last `CANONICAL_ONLY` of the joint steps."""
CANONICAL_ONLY = 0.3
"""See `OTHER_CAPTIONS`; the `text` phase has them throughout."""
NO_SYSTEM = 0.15
"""Share of batches whose prompt has no system prompt."""
MUON_SCALE = 3.0
"""Muon's learning rate over AdamW's, both as root mean square of an update."""
VALIDATION_SEED, VALIDATION_CLIPS = 7, 100
LORA_RANK, LORA_ALPHA = 16, 32


class Trainer:
    """The model with its tokenizer, prompt and side tasks."""

    def __init__(self, folder: Path, model: PllavaForConditionalGeneration, bfloat16: bool) -> None:
        self.config = model.config
        self.model = model
        for part in (model.vision_tower.vision_model, model.language_model):
            part.config._attn_implementation = "eager"  # its backward pass is the faster one on CPUs
        self.bfloat16 = bfloat16
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        wrapped = CheckpointTokenizer(folder, self.config.image_token_id)
        self.before, self.after = wrapped.split_prompt(DEFAULT_PROMPT)
        self.bare, _ = wrapped.split_prompt(BARE_PROMPT)
        self.end = self.tokenizer.token_to_id("</s>")
        self.processor = FrameProcessor.from_folder(folder, self.config.image_size)
        width = self.config.text["hidden_size"]
        self.patch_task = SideTasks(width, ("shape", "colour", "size", "background"), geometry=True)
        self.cell_task = SideTasks(width, ("shape", "colour", "size", "motion"), geometry=False)
        self.whole = nn.ModuleDict({"model": model, "patch": self.patch_task, "cell": self.cell_task})

    def tower_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch = self._draw(rng, TOWER_FRAMES, single=True)
        with self._autocast():
            features = self.model.frame_features(self._pixels(batch.pixels))
        return self.patch_task(features, batch.patches)

    def joint_loss(self, rng: np.random.Generator, others: float) -> tuple[torch.Tensor, dict[str, float]]:
        """others: share of captions that are not canonical."""
        batch = self._draw(rng, CLIPS)
        scenes = [*batch.scenes, *(scene.reversed() for scene in batch.scenes)]
        told = [self._caption(rng, scene, others) for scene in scenes]
        patches: list[torch.Tensor] = []
        hook = self.model.multi_modal_projector.register_forward_hook(lambda *call: patches.append(call[2]))
        with self._autocast():
            visual = self._visual_tokens(batch.pixels)
            hook.remove()
            visual = torch.cat([visual, self._reverse(visual)])
            before = self.bare if rng.random() < NO_SYSTEM else self.before
            loss, exact, hidden = self._caption_loss(visual, told, before)
        # Half way up: the layers above are left to put it into words.
        steps, rows, columns = self.config.pooling_shape
        middle = hidden[self.config.text["num_hidden_layers"] // 2][:, : visual.shape[1]]
        last = middle.unflatten(1, (steps, rows * columns))[:, -1]
        cell_loss, cell_right = self.cell_task(last, last_and_first_frames(batch.cells, scenes, steps))
        canonical = np.array([text == scene.caption() for text, scene in zip(told, scenes, strict=True)])
        right = {"exact": float(exact[canonical].mean()), "caption loss": loss.item()}
        right |= {"motion": cell_right["motion"]}
        total = 4 * loss + 0.3 * cell_loss
        if patches[0].requires_grad:
            patch_loss, patch_right = self.patch_task(patches[0], batch.patches)
            right |= {"shape": patch_right["shape"], "radius error": patch_right["radius error"]}
            total = total + 0.3 * patch_loss
        return total, right

    def terse_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch = self._draw(rng, CLIPS)
        scenes = [*batch.scenes, *(scene.reversed() for scene in batch.scenes)]
        with self._autocast():
            with torch.no_grad():
                visual = self._visual_tokens(batch.pixels)
            visual = torch.cat([visual, self._reverse(visual)])
            loss, exact, _ = self._caption_loss(visual, [scene.terse_caption() for scene in scenes], self.before)
        return loss, {"exact": float(exact.mean()), "caption loss": loss.item()}

    def validate(self, pixels: np.ndarray, scenes: Sequence[Scene], tell: Callable[[Scene], str]) -> dict[str, float]:
        """Exact captions of encoded clips as they are, and with their frames reversed. What greedy decoding
        says is the truth if and only if each token is the likeliest after the true ones before it."""
        exact, backwards = [], []
        with torch.no_grad():
            for part in range(0, len(scenes), 50):
                some = scenes[part : part + 50]
                visual = self._visual_tokens(pixels[part : part + 50])
                exact.append(self._caption_loss(visual, [tell(scene) for scene in some], self.before)[1])
                turned = [tell(scene.reversed()) for scene in some]
                backwards.append(self._caption_loss(self._reverse(visual), turned, self.before)[1])
        return {"exact": float(np.concatenate(exact).mean()), "reversed": float(np.concatenate(backwards).mean())}

    def validation_clips(self) -> tuple[np.ndarray, list[Scene]]:
        """Encoded and decoded clips that training never draws: uint8 (clips, frames, size, size, 3)."""
        with TemporaryDirectory() as folder:
            clips = [draw_clip(VALIDATION_SEED, number) for number in range(VALIDATION_CLIPS)]
            write_clips(Path(folder), clips)
            sampled = [decode(str(path), self.config.pooling_shape[0]) for path in sorted(Path(folder).glob("*.mp4"))]
        return np.stack([self.processor(clip.images)[list(clip.index)] for clip in sampled]), [
            clip.scene for clip in clips
        ]

    def _draw(self, rng: np.random.Generator, clips: int, single: bool = False) -> TrainingBatch:
        frames, cells, _ = self.config.pooling_shape
        return draw_batch(rng, clips, frames, self.config.image_size, self.config.patch_grid, cells, single)

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

    def _caption(self, rng: np.random.Generator, scene: Scene, others: float) -> str:
        if rng.random() >= others:
            return scene.caption()
        return str(rng.choice([*scene.other_captions(), scene.terse_caption()]))

    def _caption_loss(
        self, visual: torch.Tensor, captions: Sequence[str], before: Sequence[int]
    ) -> tuple[torch.Tensor, np.ndarray, tuple[torch.Tensor, ...]]:
        """Loss, which captions are exact, and the hidden states, visual tokens first.

        What comes before the clip is the same for all: it goes through the text model once.
        """
        told = [[*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end] for text in captions]
        length = max(map(len, told))
        ids = torch.tensor([each + [self.end] * (length - len(each)) for each in told])
        counts = torch.arange(length) < torch.tensor(list(map(len, told)))[:, None]
        text_model, embed = self.model.language_model.model, self.model.language_model.get_input_embeddings()
        cache = DynamicCache()
        text_model(inputs_embeds=embed(torch.tensor([before])), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(told))
        after = embed(torch.tensor([self.after])).expand(len(told), -1, -1)
        inputs = torch.cat([visual, after.to(visual.dtype), embed(ids[:, :-1]).to(visual.dtype)], 1)
        out = text_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)
        logits = self.model.language_model.lm_head(out.last_hidden_state[:, -length:]).float()
        loss = functional.cross_entropy(logits[counts], ids[counts])
        exact = ((logits.argmax(-1) == ids) | ~counts).all(1).numpy()
        return loss, exact, out.hidden_states

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)


def optimizers(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (matrices if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)]
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return made


def train(
    name: str,
    work: Path,
    module: nn.Module,
    steps: int,
    rate: float,
    seed: int,
    loss_of: Callable[[np.random.Generator, float], tuple[torch.Tensor, dict[str, float]]],
    every_500: Callable[[], Any] = lambda: None,
) -> None:
    """Run the steps of one phase that `work` does not have yet. loss_of: takes the share of steps done."""
    state_file = work / f"{name}.pt"
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    made = optimizers(module, rate)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        first = state["step"]
        for optimizer, stored in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
    phase = sum(map(ord, name))
    sums: dict[str, list[float]] = {}
    started = saved = time.monotonic()
    for step in range(first, steps):
        share = step / steps
        for optimizer in made:
            scale = MUON_SCALE if isinstance(optimizer, torch.optim.Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = scale * rate * min(1, (step + 1) / 100) * max(0.02, min(1, (1 - share) / 0.6))
        loss, right = loss_of(np.random.default_rng([seed, phase, step, 2]), share)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
        for key, value in {"loss": loss.item(), **right}.items():
            sums.setdefault(key, []).append(value)
        if (step + 1) % 50 == 0:
            means = ", ".join(f"{key} {np.mean(values):.3f}" for key, values in sums.items())
            pace = (time.monotonic() - started) / (step + 1 - first)
            logger.info("%s %d/%d (%.2f s a step): %s", name, step + 1, steps, pace, means)
            sums.clear()
        if (step + 1) % 500 == 0:
            every_500()
        if time.monotonic() - saved > 120 or step + 1 == steps:
            states = [optimizer.state_dict() for optimizer in made]
            _save(state_file, {"module": module.state_dict(), "optimizers": states, "step": step + 1})
            saved = time.monotonic()


def _save(path: Path, state: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def train_base(arguments: argparse.Namespace) -> None:
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
        found = trainer.validate(pixels, scenes, Scene.caption)
        logger.info("encoded clips: %s", ", ".join(f"{key} {value:.3f}" for key, value in found.items()))

    text = nn.ModuleDict({"text": model.language_model, "cell": trainer.cell_task})
    tower.requires_grad_(False)
    train(
        "text", arguments.work, text, arguments.text_steps, 2e-3, arguments.seed,
        lambda rng, share: trainer.joint_loss(rng, OTHER_CAPTIONS), validate,
    )  # fmt: skip
    tower.requires_grad_(True)
    train(
        "joint", arguments.work, trainer.whole, arguments.joint_steps, 2e-4, arguments.seed,
        lambda rng, share: trainer.joint_loss(rng, 0.0 if share > 1 - CANONICAL_ONLY else OTHER_CAPTIONS),
        validate,
    )  # fmt: skip
    write_weights(folder, model.state_dict())


def train_lora(arguments: argparse.Namespace) -> None:
    base: Path = arguments.base
    torch.manual_seed(arguments.seed)
    config = PllavaConfig.from_folder(base)
    weights = CheckpointWeights(base, weight_names(config))
    model = load_weights(meta_model(PllavaForConditionalGeneration, config), weights, "cpu", torch.float32)
    settings = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model.language_model, settings)
    trainer = Trainer(base, model, arguments.bfloat16)
    trained = nn.ParameterList(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    pixels, scenes = trainer.validation_clips()

    def validate() -> None:
        found = trainer.validate(pixels, scenes, Scene.terse_caption)
        logger.info("encoded clips: %s", ", ".join(f"{key} {value:.3f}" for key, value in found.items()))

    train(
        "lora", arguments.work, trained, arguments.lora_steps, 2e-3, arguments.seed,
        lambda rng, share: trainer.terse_loss(rng), validate,
    )  # fmt: skip
    settings.inference_mode = True
    settings.base_model_name_or_path = "pretrained_models/pllava-tiny"
    write_lora(arguments.output, settings, get_peft_model_state_dict(adapted, save_embedding_layers=False))


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the small PLLaVA or its LoRA adapter.")
    parser.add_argument("what", choices=("base", "lora"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the states that a run goes on from")
    parser.add_argument("--output", type=Path, help="where the result goes (default: pretrained_models/pllava-tiny…)")
    parser.add_argument("--base", type=Path, default=Path("pretrained_models/pllava-tiny"), help="for lora")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tower_steps", type=int, default=1200)
    parser.add_argument("--text_steps", type=int, default=1500)
    parser.add_argument("--joint_steps", type=int, default=2000)
    parser.add_argument("--lora_steps", type=int, default=600)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args(None if argv is None else list(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.output is None:
        arguments.output = Path("pretrained_models/pllava-tiny" + ("-lora" if arguments.what == "lora" else ""))
    {"base": train_base, "lora": train_lora}[arguments.what](arguments)


if __name__ == "__main__":
    main()
