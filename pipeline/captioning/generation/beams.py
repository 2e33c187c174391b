"""Beam search, with transformers' `generate` over a rectangular batch; the engine does all else.

Takes prompts as embeddings and yields token ids; knows no video and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from .options import GenerationOptions


def beam_search(
    model: PreTrainedModel, inputs_embeds: torch.Tensor, options: GenerationOptions, stop_ids: Sequence[int]
) -> list[list[int]]:
    """New token ids of each prompt's best beam, up to and including the first of `stop_ids`.

    inputs_embeds: prompts (batch, length, width), all of one length.
    """
    batch, length, _ = inputs_embeds.shape
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
    )
    with torch.no_grad():
        generated = model.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=torch.ones((batch, length), dtype=torch.int64, device=inputs_embeds.device),
            generation_config=config,
        )
    return [_until_stop(ids, stop_ids) for ids in generated.cpu().numpy().tolist()]


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
