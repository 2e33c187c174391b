"""Rows as questions to a service: their keys, their requests, and the result of a row from those of its questions.

Knows nothing about the network, about pace and about other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...captioners.api.answer import AnsweredClip
from ...captioners.api.frames import jpegs
from ...captioners.api.identity import clip_identity
from ...captioners.api.options import Generation
from ...captioners.api.requests import Content, ServiceRequest, clip_content, request_key
from ...captioners.api.source import ServiceSource
from ...clips.clip import Clip, LoadFailure
from ...meta.results import ColumnResult, Failure, RowResult
from ...workers.leases import RowTask
from ..media_check import medium_problem


class ServiceRows:
    """The rows of a run. Thread-safe.

    source: what is asked, and what is sent of a clip.
    """

    def __init__(self, source: ServiceSource) -> None:
        self._source, self._asks = source, source.asks
        self._generation: Generation = source.options.generation

    def wanted(self, task: RowTask) -> tuple[int, ...]:
        """The numbers of the questions to ask about a row."""
        return task.wanted or tuple(range(len(self._asks.asks)))

    def keys(self, task: RowTask) -> dict[int, str]:
        """The keys of a row's questions, by their numbers. Reads the file, but decodes nothing.

        Raises:
            OSError, ValueError: as `clip_identity`.
        """
        source = self._source
        how = source.options.visuals, source.sampling, source.short_side
        identity = clip_identity(task.path, *how, task.range)
        questions = self._asks.questions(task.cells)
        return {number: request_key(identity, questions[number], self._generation) for number in self.wanted(task)}

    def request(self, clip: Clip, task: RowTask, number: int, key: str) -> ServiceRequest:
        """The request that asks a question about a clip. number: of the question."""
        question, visuals = self._asks.questions(task.cells)[number], self._source.options.visuals

        def content() -> Content:
            if clip.mime_type:
                return clip_content(question, [clip.frames.data], visuals, clip.mime_type)
            return clip_content(question, jpegs(clip.frames), visuals)

        return ServiceRequest(key, content, AnsweredClip(task.path, clip.partial, clip.is_image))

    def refused(self, task: RowTask, is_image: bool) -> dict[int, ColumnResult]:
        """The failures of questions that may not be asked about a clip, by their numbers."""
        has_own_question = self._asks.has_own_question(task.cells)
        failures: dict[int, ColumnResult] = {}
        questions = self._asks.questions(task.cells)
        for number in self.wanted(task):
            problem = None if has_own_question else medium_problem(self._asks.asks[number], is_image)
            if not problem and not questions[number].strip():
                problem = "the question is blank, because its cells are"
            if problem:
                failures[number] = Failure("prompt", (problem,))
        return failures

    def result(self, task: RowTask, results: Mapping[int, ColumnResult], clip: AnsweredClip) -> RowResult:
        """The result of a row from those of all its questions."""
        columns = {self._asks.columns[number]: results[number] for number in self.wanted(task)}
        return RowResult(task.row, columns, partial=clip.partial, is_image=clip.is_image)

    def failed(self, task: RowTask, failure: LoadFailure) -> RowResult:
        """The result of a row whose clip could not be loaded."""
        return RowResult.failed(task.row, self._columns(task), failure.stage, failure.messages)

    def unreadable(self, task: RowTask) -> RowResult:
        """The result of a row whose clip was loaded, but whose file can't be read for its keys."""
        return self.failed(task, LoadFailure(task.row, task.path, "path", ("the file can't be read any more",)))

    def _columns(self, task: RowTask) -> Sequence[str]:
        return [self._asks.columns[number] for number in self.wanted(task)]
