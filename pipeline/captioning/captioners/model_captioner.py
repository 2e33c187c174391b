"""A captioner with a model: prompts and visual tokens to requests, generated tokens to captions, and slots by memory.

Knows nothing about checkpoints and vision towers: a family's captioner provides the visual tokens.
"""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..backends import Backend
from ..clips.clip import Clip
from ..generation import capacity
from ..generation.attention import makes_own_masks
from ..generation.engine import EngineSettings, EngineStats, SlotEngine
from ..generation.joined import JoinedEnd, JoinedEngine
from ..generation.options import GenerationOptions
from ..generation.requests import End, EndReason, Engine, FollowUp, Request
from ..generation.text_model import TextModel
from ..generation.whole_batch import BatchEngine
from ..meta.names import column_list
from ..process.errors import UsageError
from .base import Caption, Captioner, Refused
from .captioner_settings import CaptionerSettings
from .joining import interleaved, joined_answers, text_length
from .prompts import NO_IMAGES
from .question_groups import QuestionPrompt, grouped, shared_text

_CHARACTERS_PER_TOKEN = 8
"""More than in ordinary text of any language."""


class ModelCaptioner(Captioner):
    """A captioner with a model.

    generating: the part of the model whose `generate` transformers calls with embeddings of a whole prompt.
    """

    def __init__(self, settings: CaptionerSettings, generating: Any, backend: Backend) -> None:
        self._common, self._generating, self._backend = settings, generating, backend
        self._text = TextModel.of(generating)
        self._stats = EngineStats()
        self._vision_seconds = 0.0
        self._planned_tokens = settings.generation.max_new_tokens  # see `EngineSettings`
        self._in_batches = settings.generation.num_beams > 1 or settings.needs_generate
        has_prefix = settings.shares_prefix and not self._in_batches
        self._prefix = settings.prompts.shared_prefix if has_prefix else ()
        self._units_together = capacity.frames_together(backend, settings.unit_bytes)
        prefill_clips = backend.prefill_tokens // max(1, self._longest_prompt - len(self._prefix))
        self.clips_together = max(1, min(prefill_clips, self._units_together // max(1, settings.units)))

    @abstractmethod
    def _blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        """The visual blocks of each clip, each (tokens, width). The vision stage, on chunks of `_units_together`."""

    @abstractmethod
    def _prompt_lengths(self, clip: Clip) -> list[int]:
        """Visual tokens in each block of one prompt of a clip."""

    def _prompt(self, number: int, pieces: Sequence[Sequence[int]], clips: Sequence[Clip]) -> QuestionPrompt:
        """The prompt of a question about a clip, or about several still images.

        Positions count all tokens unless a family says otherwise.
        """
        length = text_length(pieces) + sum(sum(self._prompt_lengths(clip)) for clip in clips)
        return QuestionPrompt(number, pieces, np.arange(length), length)

    def _text_positions(self, tokens: int) -> np.ndarray:
        """Positions of a prompt without visual tokens, (tokens,) unless a family has three axes."""
        return np.arange(tokens)

    def _text_history(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a prompt without visual tokens that the repetition rules cover."""
        return ()

    def engine(self, slots: int) -> Engine:
        if self._common.prompts_each_block:
            # With one clip in flight, only smaller batches of its prompts take less memory.
            prompts = slots * self._common.prompts_each_block
            return JoinedEngine(self._engine(prompts, smaller_batches=slots == 1), slots)
        return self._engine(slots)

    def _engine(self, slots: int, smaller_batches: bool = False) -> Engine:
        if self._in_batches:
            return BatchEngine(self._generating, slots, self._stats, self._backend if smaller_batches else None)
        settings = EngineSettings(slots, self._backend.check_every, self._backend.prefill_tokens, self._planned_tokens)
        with torch.no_grad():
            prefix = self._embed(self._prefix)[None] if self._prefix else None
        return SlotEngine(self._text, self._backend, settings, prefix, self._stats)

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        asked = [self._common.prompts.asks.texts] * len(clips) if questions is None else questions
        refused: list[Request | Refused] = []
        shown: list[tuple[Clip, list[QuestionPrompt]]] = []
        for clip, texts, system in zip(clips, asked, systems or [None] * len(clips), strict=True):
            made = [self._prompt_or_refused(number, text, clip, system) for number, text in enumerate(texts)]
            refused += [one for one in made if isinstance(one, Refused)]
            prompts = [one for one in made if isinstance(one, QuestionPrompt)]
            if prompts:
                shown.append((clip, prompts))
        return [*refused, *self._requests(shown)]

    def _requests(self, shown: Sequence[tuple[Clip, list[QuestionPrompt]]]) -> list[Request]:
        """The requests about clips, with the prompts of their questions."""
        if not shown:
            return []
        requests = []
        with torch.no_grad():
            for (clip, prompts), blocks in zip(shown, self._timed_blocks([clip for clip, _ in shown]), strict=True):
                groups = [[prompt] for prompt in prompts] if self._in_batches else grouped(prompts)
                own = self._blocks_of_prompts(clip, blocks)
                requests += [self._request(clip.row, own, group) for group in groups]
        return requests

    def _prompt_or_refused(
        self, number: int, question: str, clip: Clip, system: str | None
    ) -> QuestionPrompt | Refused:
        too_long = self._too_long_text(question, system)
        if too_long:
            return Refused(clip.row, number, too_long, is_too_long=True)
        try:
            pieces = self._common.prompts.pieces(clip, question, system)
        except UsageError as error:  # the flags were checked, so a cell of the table or a request is the cause
            columns = self._common.prompts.asks.cell_columns
            fix = f"; change the row's cell in {column_list(columns)}" if columns else ""
            return Refused(clip.row, number, f"{error}{fix}")
        too_long = self._text.limit.prompt_problem(text_length(pieces) + sum(self._prompt_lengths(clip)))
        if too_long:
            return Refused(clip.row, number, too_long, is_too_long=True)
        return self._prompt(number, pieces, [clip])

    def _too_long_text(self, *texts: str | None) -> str | None:
        """The message if the first characters of a part of a prompt are too many tokens for the model.

        It spares the work with texts of any length, such as their rendering and several tokenizations.
        """
        limit = self._text.limit
        if limit.tokens is None:
            return None
        most = _CHARACTERS_PER_TOKEN * limit.tokens
        long = [text[:most] for text in texts if text and len(text) > most]
        problems = (limit.prompt_problem(self._common.tokenizer.count(text), is_part=True) for text in long)
        return next(filter(None, problems), None)

    def prepare_images(
        self, row: int, images: Sequence[Clip], question: str, system: str | None = None
    ) -> Request | Refused:
        if not self._common.prompts.has_images:
            raise UsageError(NO_IMAGES)
        too_long = self._too_long_text(question, system)
        if too_long:
            return Refused(row, 0, too_long, is_too_long=True)
        try:
            pieces = self._common.prompts.image_pieces(len(images), question, system)
        except UsageError as error:
            return Refused(row, 0, str(error))
        visual = sum(sum(self._prompt_lengths(image)) for image in images)
        too_long = self._text.limit.prompt_problem(text_length(pieces) + visual)
        if too_long:
            return Refused(row, 0, too_long, is_too_long=True)
        with torch.no_grad():
            seen = zip(images, self._timed_blocks(images), strict=True)
            blocks = [block for image, own in seen for block in self._blocks_of_prompts(image, own)[0]]
            return self._request(row, [blocks], [self._prompt(0, pieces, images)])

    def _timed_blocks(self, clips: Sequence[Clip]) -> list[list[torch.Tensor]]:
        begin = time.monotonic()
        blocks = self._blocks(clips)
        self._backend.synchronize()
        self._vision_seconds += time.monotonic() - begin
        return blocks

    def _request(self, row: int, blocks: Sequence[Sequence[torch.Tensor]], group: Sequence[QuestionPrompt]) -> Request:
        """The request of questions that follow each other in a slot.

        blocks: the visual blocks of each prompt of a question.
        """
        first, *others = group
        pieces = first.pieces
        skipped = self._prefix_in(pieces[0])
        texts = [self._embed(piece) for piece in (pieces[0][skipped:], *pieces[1:])]
        prompts = [interleaved(texts, own) for own in blocks]
        own_text = shared_text(group)
        shared = first.positions.shape[-1] - len(pieces[-1]) + own_text
        return Request(
            key=(row, first.number),
            embeddings=torch.stack(prompts) if self._common.prompts_each_block else prompts[0],
            positions=first.positions[..., skipped:],
            next_position=first.next_position,
            options=self._common.generation,
            stop_ids=self._common.stop_ids,
            has_prefix=skipped > 0,
            history_ids=first.history_ids,
            stream=row,
            question=first.number,
            shared=shared - skipped if others else 0,
            follow_ups=tuple(
                FollowUp(
                    prompt.number,
                    self._embed(prompt.pieces[-1][own_text:]),
                    prompt.positions[..., shared:],
                    prompt.next_position,
                    prompt.history_ids,
                )
                for prompt in others
            ),
        )

    def prepare_text(
        self, key: tuple[int, int], question: str, options: GenerationOptions | None = None, system: str = ""
    ) -> Request | Refused:
        too_long = self._too_long_text(question, system)
        if not too_long:
            ids = self._common.text_prompts(system).token_ids(question)
            too_long = self._text.limit.prompt_problem(len(ids))
        if too_long:
            return Refused(*key, too_long, is_too_long=True)
        return self._text_request(key, ids, options or self._common.generation)

    def _text_request(self, key: tuple[int, int], ids: Sequence[int], options: GenerationOptions) -> Request:
        # A prefill computes at least one token.
        skipped = self._prefix_in(ids) if len(ids) > len(self._prefix) else 0
        with torch.no_grad():
            embeddings = self._embed(ids[skipped:])
        return Request(
            key=key,
            embeddings=embeddings[None] if self._common.prompts_each_block else embeddings,
            positions=self._text_positions(len(ids))[..., skipped:],
            next_position=len(ids),
            options=options,
            stop_ids=self._common.stop_ids,
            has_prefix=skipped > 0,
            history_ids=self._text_history(ids),
            stream=key[0],
            question=key[1],
        )

    def _prefix_in(self, ids: Sequence[int]) -> int:
        """The number of tokens of the shared prefix if a prompt begins with it, else 0."""
        length = len(self._prefix)
        return length if tuple(ids[:length]) == tuple(self._prefix) else 0

    def _blocks_of_prompts(self, clip: Clip, blocks: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """The blocks of each prompt of one question."""
        prompts = [[block] for block in blocks] if self._common.prompts_each_block else [list(blocks)]
        lengths = self._prompt_lengths(clip)
        for own in prompts:
            assert [len(block) for block in own] == lengths, "visual blocks must have the length that was promised"
        return prompts

    def _embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Embeddings of text tokens, (tokens, width)."""
        embedding = self._generating.get_input_embeddings()
        ids = torch.tensor(list(token_ids), dtype=torch.int64, device=embedding.weight.device)
        return embedding(ids)

    def prompt_tokens(self, request: Request) -> int:
        prompt = request.length + (len(self._prefix) if request.has_prefix else 0)
        return prompt * (len(request.embeddings) if self._common.prompts_each_block else 1)

    def caption(self, end: End) -> Caption:
        answers = [part.ids for part in end.parts] if isinstance(end, JoinedEnd) else [end.ids]
        text = joined_answers([self._text_of(ids) for ids in answers])
        return Caption(text, len(end.ids), end.reason is EndReason.LENGTH)

    def _text_of(self, ids: Sequence[int]) -> str:
        # Not every tokenizer marks its stop tokens as special, so they could become text.
        is_stopped = len(ids) > 0 and ids[-1] in self._common.stop_ids
        return self._common.tokenizer.decode(ids[:-1] if is_stopped else ids)

    @property
    def _longest_prompt(self) -> int:
        """Tokens in the longest of the questions about the longest clip."""
        longest = self._common.longest
        return self._common.prompts.most_tokens(longest) + sum(self._prompt_lengths(longest))

    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        common, config, itemsize = self._common, self._text.config, self._backend.dtype.itemsize
        # Clips and texts may be in flight together: the cache has room for the longest prompt and the longest answer.
        length = max(self._longest_prompt, text_tokens)
        options = dataclasses.replace(
            common.generation, max_new_tokens=max(common.generation.max_new_tokens, answer_tokens)
        )
        self._planned_tokens = options.max_new_tokens
        units = min(self._units_together, self.clips_together * max(1, common.units))
        prompt = capacity.slot_memory(config, length, options, itemsize)
        work = units * common.unit_bytes
        if self._in_batches:  # all prompts of a batch are prefilled together
            eager_length = length if makes_own_masks(config) else 0
            prompt += capacity.prefill_memory(config, length, itemsize, eager_length)
        else:
            work += capacity.prefill_memory(config, max(self._backend.prefill_tokens, length), itemsize)
        estimate = capacity.MemoryEstimate(slot=prompt * max(1, common.prompts_each_block), work=work)

        def rehearse(clips: int) -> None:
            self._rehearse(clips, text_tokens, options)

        return capacity.max_slots(self._backend, estimate, options.num_beams, self.clips_together, rehearse)

    def stages(self) -> Mapping[str, float]:
        return {"vision_seconds": self._vision_seconds, **dataclasses.asdict(self._stats)}

    def _rehearse(self, clips: int, text_tokens: int = 0, text_options: GenerationOptions | None = None) -> None:
        """Run the vision stage, a prefill and the first decoding steps for `clips` clips without content.

        If further questions follow in a slot, their text is prefilled too.

        text_tokens, text_options: as many prompts of this number of tokens, without a clip, are run after the clips.
        """
        stats, vision_seconds = self._stats, self._vision_seconds
        self._stats = EngineStats()
        longest = self._common.longest
        prepared = self.prepare([dataclasses.replace(longest, row=row) for row in range(clips)])
        requests = [one for one in prepared if isinstance(one, Request)]
        options = text_options or self._common.generation
        rows = range(clips if text_tokens else 0)
        texts = [self._text_request((clips + row, 0), [0] * text_tokens, options) for row in rows]
        no_token = frozenset({self._text.vocabulary})  # an id beyond the logits: captions reach their full length
        # A prefill, and decoding steps. The slots of the clips have room for the texts that wait for them.
        self._run_two_steps(clips, requests if self._in_batches else [*requests, *texts], no_token)
        if texts:
            self._run_two_steps(clips, texts, no_token)
        if any(request.follow_ups for request in requests):
            # Every answer ends with its first token, so that the next question follows.
            self._run_two_steps(clips, requests, frozenset(range(self._text.vocabulary)))
        self._stats, self._vision_seconds = stats, vision_seconds

    def _run_two_steps(self, slots: int, requests: Sequence[Request], stop_ids: frozenset[int]) -> None:
        engine = self.engine(slots)
        for request in requests:
            engine.add(dataclasses.replace(request, stop_ids=stop_ids))
        for _ in range(2):
            engine.step()
