"""Generation with transformers' `generate`: one step generates the answers of a whole batch.

For beam search, and for text models that only transformers' own loop can run: those that make their own masks, and
encoder-decoder models. Has the same interface as `engine.SlotEngine`. Knows nothing about videos and tokenizers.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from ..backends import Backend
from .attention import UNMASKED_ATTENTION, makes_own_masks
from .base_engine import BaseEngine
from .batch_processors import RepetitionRules, StepMonitor, StreamSampler
from .engine import EngineStats
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from .text_model import TextModel

logger = logging.getLogger(__name__)


class BatchEngine(BaseEngine):
    """Generates for a batch of up to `slots` requests; see `requests.Engine`. One step ends the whole batch.

    By default an out-of-memory error is the caller's, who makes an engine with fewer slots. This is not possible for
    the prompts of one clip, so an engine can also make its batches smaller.

    Prompts with different lengths, options or stop ids go into different batches, because `generate` takes one length
    and one set of options for a batch. A request must contain its whole prompt. Positions on three axes
    are given to the decoder in place of those that `generate` makes; on one axis they must be 0, 1, 2, ...

    The penalty and the n-gram rule apply to `history_ids` and to new tokens, as in `generate` with and without
    `input_ids`. The prompt of an encoder-decoder model is the input of its encoder; transformers applies the rules to
    new tokens only, so a request without history ids gives the same answer.

    model: a causal or an encoder-decoder model of transformers.
    smaller_batches: after an out-of-memory error of this backend, generate again for half of the batch, and from then
        on in batches of that size. A batch of one request raises the error. None: every batch does.

    Raises:
        ValueError: the model makes its own masks, but was built with the attention function of `attention`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        stats: EngineStats | None = None,
        smaller_batches: Backend | None = None,
    ) -> None:
        text = TextModel.of(model)
        if makes_own_masks(text.config) and text.config._attn_implementation == UNMASKED_ATTENTION:
            raise ValueError(f"{type(model).__name__} makes its own masks; use `attention.set_attention`")
        super().__init__(slots, text.limit)
        self._model, self._decoder = model, text.decoder
        self._batch_size, self._memory_of = slots, smaller_batches
        # An id beyond the logits, which is never generated, in place of the model's own stop id.
        self._no_stop_id = text.vocabulary
        # The ids of an encoder-decoder model begin with the decoder's start token, which is no part of the answer.
        self._start_tokens = int(bool(text.config.is_encoder_decoder))
        self.stats = stats or EngineStats()

    @property
    def waiting(self) -> int:
        return 0

    @property
    def requests_needed(self) -> int:
        return self.free

    def add(self, request: Request) -> None:
        has_axes = request.positions.ndim == 2
        if request.has_prefix or not (has_axes or _counts_from_0(request)):
            raise ValueError(f"request {request.key!r} needs SlotEngine: it has a prefix or its own positions")
        if request.follow_ups:
            raise ValueError(f"request {request.key!r} has follow-ups; use SlotEngine, or a request for each question")
        self._accept(request)

    def step(self) -> list[Event]:
        """Generate for the oldest request and others that can share its batch, as many as fit; all of them end."""
        events = self._pop_rejected()
        if self._waiting:
            events += self._run_oldest_batch()
        self._forget_ended(events)
        return events

    def _run_oldest_batch(self) -> list[Event]:
        key = _batch_key(self._waiting[0])
        same = [request for request in self._waiting if _batch_key(request) == key]
        begin = time.monotonic()
        while True:
            batch = same[: self._batch_size]
            try:
                answers = self._generate(batch)
                break
            except Exception as error:
                if self._memory_of is None or len(batch) == 1 or not self._memory_of.is_out_of_memory(error):
                    raise
            self._halve_batch(self._memory_of, len(batch))  # after the error, which keeps tensors, was deleted
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.decode_tokens += sum(len(ids) for ids, _ in answers)
        self._remove_waiting(batch)
        events: list[Event] = []
        for request, (ids, has_nan) in zip(batch, answers, strict=True):
            if has_nan:
                events.append(End(request.key, [], EndReason.NOT_A_NUMBER, OVERFLOW_MESSAGE, request.question))
                continue
            events += [Token(request.key, token, request.question) for token in ids]
            reason = EndReason.STOP if ids[-1] in request.stop_ids else EndReason.LENGTH
            events.append(End(request.key, ids, reason, question=request.question))
        return events

    def _halve_batch(self, backend: Backend, size: int) -> None:
        backend.release_memory()
        self._batch_size = size // 2
        logger.warning("out of memory with %d prompts in a batch; continuing with %d", size, size // 2)

    def _generate(self, batch: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """For each prompt: new token ids, of the best beam, up to the first stop id; and whether a score was NaN."""
        embeddings = torch.stack([request.embeddings for request in batch])
        options, stop_ids = batch[0].options, sorted(batch[0].stop_ids)
        config = GenerationConfig(
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            do_sample=False,  # `StreamSampler` draws
            eos_token_id=stop_ids or [self._no_stop_id],
            pad_token_id=stop_ids[0] if stop_ids else 0,
            decoder_start_token_id=self._model.generation_config.decoder_start_token_id,
        )
        monitor = StepMonitor(len(batch), self.on_token)
        processors = LogitsProcessorList([monitor])
        if options.penalty != 1 or options.ngram_size:
            processors.append(RepetitionRules(batch, self._upload))
        if options.samples:
            processors.append(StreamSampler(batch, self._upload))
        with torch.no_grad(), self._own_positions(batch):
            generated = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                generation_config=config,
                logits_processor=processors,
                use_model_defaults=False,  # every option of the answer is in the request
            )
        rows = generated.cpu().numpy()[:, self._start_tokens :].tolist()
        answers = [_up_to_stop(ids, batch[0].stop_ids) for ids in rows]
        return [(ids, has_nan) for ids, has_nan in zip(answers, monitor.has_nan(), strict=True)]

    @contextlib.contextmanager
    def _own_positions(self, batch: Sequence[Request]) -> Iterator[None]:
        """Gives the decoder the positions of the requests if they have three axes."""
        if batch[0].positions.ndim == 1:
            yield
            return
        table = self._upload(np.stack([_all_positions(request) for request in batch], 1))

        def replace_positions(module: object, args: Any, kwargs: dict[str, Any]) -> Any:
            columns, rows = kwargs["cache_position"], len(kwargs["inputs_embeds"])
            first = int(columns[0])
            positions = table[..., first : first + len(columns)]
            # The beams of a prompt are adjacent rows.
            return args, {**kwargs, "position_ids": positions.repeat_interleave(rows // len(batch), 1)}

        hook = self._decoder.register_forward_pre_hook(replace_positions, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _upload(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._model.device)


def _batch_key(request: Request) -> tuple[object, ...]:
    return request.length, request.positions.ndim, request.options, request.stop_ids


def _counts_from_0(request: Request) -> bool:
    return np.array_equal(request.positions, np.arange(request.length)) and request.next_position == request.length


def _all_positions(request: Request) -> np.ndarray:
    """Positions of the prompt and of all new tokens: (4, tokens), the column and three axes.

    transformers takes the first of four rows for the mask, and the others for the rotary embedding.
    """
    new = np.arange(request.options.max_new_tokens)
    axes = np.concatenate([request.positions, np.tile(request.next_position + new, (3, 1))], 1)
    return np.concatenate([np.arange(axes.shape[1])[None], axes])


def _up_to_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
