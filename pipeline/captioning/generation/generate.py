"""Batched decoding with transformers' `generate`: greedy, sampling and beams over a rectangular batch.

Takes prompts as embeddings and yields token ids; knows no video and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .options import GenerationOptions
from .sampling import RowSampler


class _SampleByRow(LogitsProcessor):
    """Turns a greedy search into sampling: the token drawn is left the only likely one."""

    def __init__(self, sampler: RowSampler) -> None:
        self._sampler = sampler

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = self._sampler.draw(scores.float().cpu().numpy())
        ids = torch.from_numpy(drawn).to(scores.device)
        only = torch.nn.functional.one_hot(ids, scores.shape[-1])
        return only.to(scores.dtype)


def generate(
    model: PreTrainedModel,
    inputs_embeds: torch.Tensor,
    rows: Sequence[int],
    options: GenerationOptions,
    stop_ids: Sequence[int],
    pad_id: int,
) -> list[list[int]]:
    """New token ids of each prompt, up to and including the first of `stop_ids`.

    inputs_embeds: prompts (batch, length, width), all of one length.
    rows: index in the meta table of each prompt; fixes what is sampled.
    """
    batch, length, _ = inputs_embeds.shape
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        do_sample=False,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
    )
    processors = LogitsProcessorList()
    if options.samples:
        processors.append(_SampleByRow(RowSampler(rows, options.seed, options.temperature, options.top_p)))
    arguments: dict[str, Any] = {
        "inputs_embeds": inputs_embeds,
        "attention_mask": torch.ones((batch, length), dtype=torch.int64, device=inputs_embeds.device),
        "generation_config": config,
        "logits_processor": processors,
    }
    with torch.no_grad():
        generated = model.generate(**arguments)
    return [_until_stop(ids, stop_ids) for ids in generated.cpu().numpy().tolist()]


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
