"""A client that sends questions in batches until all are answered, in this process or in one that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

from pipeline.captioning.captioners.api.answer import AnsweredClip
from pipeline.captioning.captioners.api.batch.batch_service import BatchService
from pipeline.captioning.captioners.api.batch.batches import Batches
from pipeline.captioning.captioners.api.batch.records import BatchRecords, custom_id, job_of
from pipeline.captioning.captioners.api.batch.request_files import RequestFile, line_of
from pipeline.captioning.captioners.api.service import Service
from pipeline.captioning.captioners.api.store import AnswerStore

POLL_SECONDS = 0.02


def key_of(number: int) -> str:
    return f"{number:040x}"


async def short_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, POLL_SECONDS))


@dataclass
class Client:
    """Sends `questions` questions, in files of `in_file`. folder: of the answer store."""

    folder: Path
    url: str
    questions: int = 5
    in_file: int = 2
    max_open: int = 20
    key: str = "secret-key"
    restart: bool = False
    max_tries: int = 3

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.output = self.folder / "output.csv"
        self.job = job_of(self.output)
        self.requests_folder = self.folder / "requests"
        self.counted: list[str] = []
        self.fetched: list[int] = []  # answers that were counted when a batch was fetched

    def start(self) -> ForkProcess:
        """Run in a process that can be killed. It has the modules of this one, so it starts at once."""
        process = multiprocessing.get_context("fork").Process(target=self.run)
        process.start()
        return process

    def run(self) -> None:
        asyncio.run(self.run_in_loop())

    async def run_in_loop(self) -> None:
        service = Service(self.url, self.key, 60, 4)
        with contextlib.closing(self.store()) as store:
            records = BatchRecords(store, self.job)
            batches = Batches(
                BatchService(service, "model", short_sleep, max_tries=self.max_tries, patience=0.0),
                store,
                records,
                self.requests_folder,
                lambda key, answer: self.counted.append(key),
                self._note_fetched,
                asyncio.sleep,
                POLL_SECONDS,
                self.max_open,
                self.in_file,
                restart=self.restart,
            )
            try:
                await batches.resume()
                for _ in range(20):
                    await self._send_new(store, records, batches)
                    await batches.wait_for_all()
                    if not self._new(store, records):
                        batches.close()
                        return
                raise AssertionError("questions are still without an answer")
            finally:
                await service.close()

    def store(self) -> AnswerStore:
        return AnswerStore(self.folder / "answers.sqlite", self.output)

    def _note_fetched(self) -> None:
        self.fetched.append(len(self.counted))

    async def _send_new(self, store: AnswerStore, records: BatchRecords, batches: Batches) -> None:
        while new := self._new(store, records):
            file = RequestFile(self.requests_folder, self.job)
            for number in new[: batches.max_requests]:
                body = {"messages": [{"role": "user", "content": f"question {number}"}]}
                request = custom_id(key_of(number), 0)
                file.add(request, line_of(request, body), AnsweredClip(f"{number}.mp4", number == 1, number == 2))
            await batches.submit(file)

    def _new(self, store: AnswerStore, records: BatchRecords) -> Sequence[int]:
        def is_new(number: int) -> bool:
            request = custom_id(key_of(number), 0)
            known = store.answers(key_of(number)) or records.batch_of(request) or records.failure(request)
            return not known

        return [number for number in range(self.questions) if is_new(number)]

    def texts(self) -> list[tuple[str, int, str]]:
        """Every stored answer: key, attempt and text, in order."""
        with contextlib.closing(self.store()) as store:
            rows = store.read("SELECT key, attempt, text FROM answers ORDER BY key, attempt")
        return [(key, attempt, text) for key, attempt, text in rows]

    def failures(self) -> dict[int, str]:
        with contextlib.closing(self.store()) as store:
            records = BatchRecords(store, self.job)
            found = {number: records.failure(custom_id(key_of(number), 0)) for number in range(self.questions)}
        return {number: failure.message for number, failure in found.items() if failure is not None}
