"""The flags of the model: generation and checkpoint. All captioning commands have them.

Knows nothing about the run; the flags of the prompt are in `prompt_flags`, a family's own flags in the commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..generation.options import GenerationOptions
from ..process.arguments import number, positive_int, whole_number
from ..process.errors import UsageError


def add_generation_flags(parser: argparse.ArgumentParser, has_length: bool = True) -> None:
    """Add the flags that `generation_options` reads.

    has_length: with --max_new_tokens, the length of captions. Otherwise the command sets `flags.max_new_tokens`.
    """
    generation = parser.add_argument_group("generation")
    defaults = GenerationOptions()
    if has_length:
        generation.add_argument(
            "--max_new_tokens",
            type=positive_int,
            default=defaults.max_new_tokens,
            help="maximum length of a caption, in tokens; longer captions are cut off",
        )
    generation.add_argument(
        "--num_beams",
        type=positive_int,
        default=defaults.num_beams,
        help="number of beams of the beam search; 1 for no beam search",
    )
    generation.add_argument(
        "--temperature",
        type=number(minimum=0),
        default=defaults.temperature,
        help="sampling temperature; 0 selects greedy decoding, and any value other than 0 and 1 turns sampling on",
    )
    generation.add_argument(
        "--do_sample",
        action="store_true",
        help="sample tokens; without this flag and with --temperature 1, decoding is greedy",
    )
    generation.add_argument(
        "--top_p",
        type=number(minimum=0, maximum=1, above=True),
        default=defaults.top_p,
        help="sample from the smallest set of tokens whose probabilities add up to at least this value",
    )
    generation.add_argument(
        "--seed",
        type=whole_number(0),
        default=defaults.seed,
        help="seed of sampling; each row has its own random numbers, made from the seed and the row's number",
    )
    generation.add_argument(
        "--repetition_penalty",
        type=number(minimum=0, above=True),
        help="a value above 1 makes tokens less likely that were already generated (in most families also those of "
        "the prompt); if not given, the value in the checkpoint's generation_config.json, else no penalty",
    )
    generation.add_argument(
        "--no_repeat_ngram_size",
        type=whole_number(0),
        help="no sequence of this many tokens is generated twice; 0 for no such rule; if not given, the value in the "
        "checkpoint's generation_config.json, else no such rule",
    )


def add_model_flags(parser: argparse.ArgumentParser, checkpoint: Path | None = None) -> argparse._ArgumentGroup:
    """Add the flags of checkpoint and LoRA weights; returns their group, to which a command can add flags of families.

    checkpoint: the default folder; None if the flag is required.
    """
    model = parser.add_argument_group("model")
    model.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        required=checkpoint is None,
        default=checkpoint,
        help="folder of the checkpoint; nothing is downloaded",
    )
    model.add_argument(
        "--use_lora",
        action="store_true",
        help="require LoRA weights, in --weight_dir or in the checkpoint; LoRA weights in the checkpoint are used "
        "without this flag, too",
    )
    model.add_argument(
        "--weight_dir",
        type=Path,
        help="folder of LoRA weights, or of LoRA weights and other trained weights; requires --use_lora",
    )
    model.add_argument(
        "--lora_alpha",
        type=number(minimum=0, above=True),
        help="alpha of the LoRA weights; required if no file stores it, as in the published PLLaVA checkpoints "
        "(pllava-7b: 4)",
    )
    model.add_argument(
        "--pooling_shape",
        type=pooling_shape,
        help="pllava: shape of the visual tokens of a clip, as time-rows-columns; if not given, the shape in the "
        "checkpoint's config, else 16-12-12",
    )
    return model


def check_model_flags(flags: argparse.Namespace) -> None:
    """Check the flags of `add_model_flags` as far as that is possible without the checkpoint's files.

    Raises:
        UsageError: flags that do not go together, or there is no folder of the checkpoint.
    """
    if flags.weight_dir is not None and not flags.use_lora:
        raise UsageError("--weight_dir is only read with --use_lora; give both flags or neither")
    folder = flags.pretrained_model_name_or_path
    if not folder.is_dir():
        raise UsageError(
            f"checkpoint folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}; give "
            "--pretrained_model_name_or_path, or copy the checkpoint there (nothing is downloaded)"
        )


def generation_options(flags: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=flags.max_new_tokens,
        num_beams=flags.num_beams,
        temperature=flags.temperature,
        do_sample=flags.do_sample,
        top_p=flags.top_p,
        seed=flags.seed,
        repetition_penalty=flags.repetition_penalty,
        no_repeat_ngram_size=flags.no_repeat_ngram_size,
    )


def pooling_shape(text: str) -> tuple[int, int, int]:
    """An argparse type: `16-12-12` or `16,12,12`, returned as (time, rows, columns)."""
    parts = text.replace(",", "-").split("-")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers of at least 1, as in 16-12-12")
    time, rows, columns = map(int, parts)
    return time, rows, columns
