"""Asks a server about clips: decodes them here, in processes that can be killed, and gives the answers as they arrive.

Knows nothing about flags and about what is printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from ..captioning.captioners.api.answer import Answer
from ..captioning.captioners.api.errors import RequestFailed
from ..captioning.captioners.api.outcomes import outcome_of
from ..captioning.clips.clip import Clip, ClipTask, LoadFailure
from ..captioning.clips.killable import DecoderLimits
from ..captioning.clips.loader import ClipLoader, default_decode_workers
from ..captioning.clips.sampling import FrameSampling
from ..captioning.meta.results import CaptionResult, Failure
from ..captioning.process.errors import RunError
from .connection import Connection
from .content import Sending

PREFETCH_BYTES = 256 * 2**20
"""Of clips that wait for their request."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ClipAnswer:
    """What became of a clip.

    row: of its task. path: of the clip. result: a caption or a failure. answer: None if there is none.
    seconds: the times of the sampled frames, see `Clip.seconds`; empty if they were not sampled here.
    """

    row: int
    path: str
    result: CaptionResult | Failure
    answer: Answer | None = None
    seconds: tuple[float, ...] = ()


async def clip_answers(
    tasks: Iterable[ClipTask],
    sampling: FrameSampling,
    sending: Sending,
    question: str | None,
    connection: Connection,
    concurrency: int,
    limits: DecoderLimits,
) -> AsyncGenerator[ClipAnswer, None]:
    """The answer to a question about each clip, in the order in which they arrive. Close it (`aclosing`).

    sampling: which frames are sampled. question: None for the default of the server.
    concurrency: most requests in flight. limits: of each decoding process.

    Raises:
        ServiceStop: no request can succeed any more. The requests in flight are waited for, and what they give comes
            first.
        StartError: no decoding process can be started. As above.
    """
    problem: RunError | None = None
    asking: set[asyncio.Task[ClipAnswer]] = set()
    loading: asyncio.Task[Clip | LoadFailure | None] | None = None
    preparation, workers = sending.preparation(sampling), default_decode_workers(1)
    with ClipLoader(tasks, preparation, limits, concurrency, workers, prefetch_bytes=PREFETCH_BYTES) as loader:
        try:
            while True:
                if not (problem or loading or loader.has_ended) and len(asking) < concurrency:
                    loading = asyncio.create_task(asyncio.to_thread(loader.next_clip, _POLL_SECONDS))
                if loading is None and not asking:
                    if problem is not None:
                        raise problem
                    return
                waited: set[asyncio.Task[ClipAnswer] | asyncio.Task[Clip | LoadFailure | None]] = {*asking}
                done, _ = await asyncio.wait(waited | ({loading} if loading else set()), return_when="FIRST_COMPLETED")
                if loading in done:
                    ended, loading = loading, None
                    try:
                        clip = ended.result()
                    except RunError as error:
                        clip, problem = None, problem or error
                    if isinstance(clip, Clip) and problem is None:
                        asking.add(asyncio.create_task(_ask(clip, sending, question, connection)))
                    elif isinstance(clip, LoadFailure):
                        yield ClipAnswer(clip.row, clip.path, Failure(clip.stage, clip.messages))
                for task in [task for task in asking if task in done]:
                    asking.discard(task)
                    try:
                        answer = task.result()
                    except RunError as error:
                        problem = problem or error
                    else:
                        yield answer
        finally:
            for open_task in asking:
                open_task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def _ask(clip: Clip, sending: Sending, question: str | None, connection: Connection) -> ClipAnswer:
    message = await asyncio.to_thread(sending.message, clip, question)  # encodes megabytes
    try:
        answer = await connection.ask(message.content, message.fields)
    except RequestFailed as error:
        return ClipAnswer(clip.row, clip.path, Failure(error.stage, (str(error),)), None, clip.seconds)
    return ClipAnswer(clip.row, clip.path, outcome_of(answer, None).result, answer, clip.seconds)
