"""The answer store: what is in the file after kills, errors, further runs, and with several processes at once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.captioning.captioners.api import store_file
from pipeline.captioning.captioners.api.answer import NO_CLIP, Answer, AnsweredClip
from pipeline.captioning.captioners.api.store import AnswerStore
from pipeline.captioning.process.errors import RunError

ROOT = Path(__file__).resolve().parents[4]

ADD_FOREVER = """
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from pipeline.captioning.captioners.api.answer import NO_CLIP, Answer
from pipeline.captioning.captioners.api.store import AnswerStore

path, output, prefix, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
store = AnswerStore(path, output)
print("open", flush=True)
if number:  # wait until every process has opened the file
    sys.stdin.readline()
waiting = []
i = 0
while not number or i < number:
    key = f"{prefix}-{i}"
    i += 1
    waiting.append((key, store.add(key, 0, Answer("text of " + key, prompt_tokens=3, completion_tokens=2), NO_CLIP)))
    if len(waiting) == 16:
        key, future = waiting.pop(0)
        future.result()
        print(key, flush=True)
for key, future in waiting:
    future.result()
    print(key, flush=True)
store.end_job()
store.close()
"""


def _child(path: Path, prefix: str, number: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ADD_FOREVER, str(path), str(path.parent / f"{prefix}.csv"), prefix, str(number)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _rows(path: Path, query: str) -> list[tuple]:
    """What a user sees who opens the file with an SQLite tool."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta_answers.sqlite"


@pytest.fixture
def store(path: Path, tmp_path: Path) -> Iterator[AnswerStore]:
    with closing(AnswerStore(path, tmp_path / "out.csv", model="some-model")) as store:
        yield store


def test_an_answer_comes_back_as_it_was_stored(store: AnswerStore) -> None:
    answer = Answer("Ein Häuschen 🏠\nzwei", "length", "no", 1200, 34, False)
    clip = AnsweredClip("a/b.mp4", partial=True, is_image=True)
    store.add("key", 0, answer, clip).result()
    assert store.answers("key") == [(answer, clip)]
    assert store.answers("other") == []


def test_text_that_sqlite_cannot_hold_is_stored_all_the_same(store: AnswerStore) -> None:
    clip = AnsweredClip(os.fsdecode(b"caf\xe9.mp4"))
    store.add("key", 0, Answer("a \ud83d b\0 \ud83d\ude00"), clip).result()
    ((answer, stored_clip),) = store.answers("key")
    assert answer.text == "a \ufffd b \U0001f600"
    assert stored_clip.path == "caf\ufffd.mp4"


def test_the_latest_answer_of_each_attempt_counts_and_none_is_lost(store: AnswerStore, path: Path) -> None:
    for attempt, text in ((0, "first"), (1, "second"), (0, "first again")):
        store.add("key", attempt, Answer(text), NO_CLIP).result()
    assert [answer.text for answer, _ in store.answers("key")] == ["first again", "second"]
    assert [text for (text,) in _rows(path, "SELECT text FROM answers ORDER BY id")] == [
        *("first", "second", "first again")
    ]


def test_a_user_can_read_the_file_during_the_run_and_afterwards(store: AnswerStore, path: Path) -> None:
    store.add("key", 0, Answer("A dog.", prompt_tokens=7, completion_tokens=3), AnsweredClip("a.mp4")).result()
    query = "SELECT key, attempt, model, path, text, finish_reason, prompt_tokens, completion_tokens, job FROM answers"
    expected = [("key", 0, "some-model", "a.mp4", "A dog.", "stop", 7, 3, store.job)]
    assert _rows(path, query) == expected
    store.close()
    assert _rows(path, query) == expected
    assert os.listdir(path.parent) == [path.name], "nothing else is left beside the file"
    assert _rows(path, "SELECT answered_at FROM answers")[0][0].startswith("20")


class TestJobs:
    def _spent(self, path: Path, output: str, pay_again: bool = False, restart: bool = False) -> tuple[int, list[str]]:
        """Tokens of the job, and the texts of the answers to one question that it may use."""
        with closing(AnswerStore(path, path.parent / output, pay_again, restart)) as store:
            return store.spent()[1], [answer.text for answer, _ in store.answers("key")]

    def _run(self, path: Path, output: str, text: str, ends: bool, **options: bool) -> None:
        with closing(AnswerStore(path, path.parent / output, **options)) as store:
            store.add("key", 0, Answer(text, prompt_tokens=10, completion_tokens=1), NO_CLIP).result()
            if ends:
                store.end_job()

    def test_an_interrupted_run_is_continued(self, path: Path) -> None:
        self._run(path, "a.csv", "old", ends=False)
        assert self._spent(path, "a.csv") == (10, ["old"])
        assert self._spent(path, "a.csv", pay_again=True) == (10, ["old"]), "it paid for this answer itself"

    def test_the_output_is_known_by_its_real_path(self, path: Path) -> None:
        self._run(path, "a.csv", "old", ends=False)
        (path.parent / "link").symlink_to(path.parent)
        assert self._spent(path, "link/a.csv") == (10, ["old"])

    def test_a_later_run_uses_the_answers_for_nothing(self, path: Path) -> None:
        self._run(path, "a.csv", "old", ends=True)
        assert self._spent(path, "a.csv") == (0, ["old"])
        assert self._spent(path, "b.csv") == (0, ["old"])

    def test_pay_again_uses_only_answers_of_its_own_job(self, path: Path) -> None:
        self._run(path, "a.csv", "old", ends=True)
        assert self._spent(path, "a.csv", pay_again=True) == (0, [])
        self._run(path, "a.csv", "new", ends=False, pay_again=True)
        assert self._spent(path, "a.csv", pay_again=True) == (10, ["new"])
        assert self._spent(path, "b.csv") == (0, ["new"])
        assert [text for (text,) in _rows(path, "SELECT text FROM answers ORDER BY id")] == ["old", "new"]

    def test_restart_begins_another_job(self, path: Path) -> None:
        self._run(path, "a.csv", "old", ends=False)
        assert self._spent(path, "a.csv", pay_again=True, restart=True) == (0, [])
        jobs = _rows(path, "SELECT output, ended IS NULL FROM jobs ORDER BY id")
        assert jobs == [(str(path.parent / "a.csv"), 0), (str(path.parent / "a.csv"), 1)]

    def test_an_output_whose_name_is_not_utf_8(self, path: Path) -> None:
        output = os.fsdecode(b"caf\xe9.csv")
        self._run(path, output, "old", ends=False)
        assert self._spent(path, output) == (10, ["old"])


class TestWritesThatFail:
    def _lost(self, future: Future[None], store: AnswerStore, caplog: pytest.LogCaptureFixture, reason: str) -> None:
        """The answer, and every later one, is in an error and in the log."""
        with pytest.raises(RunError, match=reason) as caught:
            future.result(timeout=60)
        assert "A dog." in str(caught.value) and "a.mp4" in str(caught.value) and str(store.path) in str(caught.value)
        with pytest.raises(RunError, match=reason):
            store.add("key 2", 0, Answer("A cat."), NO_CLIP)
        with pytest.raises(RunError, match=reason):
            store.write("CREATE TABLE batches (id TEXT)")
        assert '"A dog."' in caplog.text and '"A cat."' in caplog.text
        store.close()

    def test_a_full_disk(self, store: AnswerStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        store.add("key 0", 0, Answer("A bird."), NO_CLIP).result()
        (pages,) = store._writing.execute("PRAGMA page_count").fetchone()
        store._writing.execute(f"PRAGMA max_page_count={pages}")  # SQLite then reports a full disk
        long_text = "A dog. " + "word " * 10_000
        future = store.add("key", 0, Answer(long_text), AnsweredClip("a.mp4"))
        with pytest.raises(RunError, match="full"):
            future.result(timeout=60)
        assert "A dog." in caplog.text
        with pytest.raises(RunError, match="full"):
            store.add("key 2", 0, Answer("A cat."), NO_CLIP)
        assert [answer.text for answer, _ in store.answers("key 0")] == ["A bird."]
        store.close()
        assert _rows(path, "SELECT text FROM answers") == [("A bird.",)]

    def test_a_removed_file(self, store: AnswerStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.unlink()
        future = store.add("key", 0, Answer("A dog."), AnsweredClip("a.mp4"))
        self._lost(future, store, caplog, "No such file")

    def test_a_replaced_file(self, store: AnswerStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.rename(path.with_suffix(".old"))
        path.touch()
        future = store.add("key", 0, Answer("A dog."), AnsweredClip("a.mp4"))
        self._lost(future, store, caplog, "replaced")

    def test_a_lock_that_stays(
        self, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_file, "LOCK_SECONDS", 0.1)
        store = AnswerStore(path, path.parent / "out.csv")
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            self._lost(store.add("key", 0, Answer("A dog."), AnsweredClip("a.mp4")), store, caplog, "locked")


def test_a_write_cannot_be_cancelled(store: AnswerStore, path: Path) -> None:
    future = store.add("key", 0, Answer("A dog."), NO_CLIP)
    assert not future.cancel()
    store.close()
    assert _rows(path, "SELECT text FROM answers") == [("A dog.",)]


def test_close_waits_for_everything(store: AnswerStore, path: Path) -> None:
    futures = [store.add(f"key {i}", 0, Answer("text"), NO_CLIP) for i in range(3000)]
    store.close()
    assert all(future.done() for future in futures)
    assert _rows(path, "SELECT count(*) FROM answers") == [(3000,)]


def test_answers_that_wait_are_committed_together(store: AnswerStore) -> None:
    """256 requests end at a time; a commit for each would be limited by the disk."""
    commits = []
    store._writing.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        futures = [store.add(f"key {i}", 0, Answer("text"), NO_CLIP) for i in range(256)]
        other.rollback()
    for future in futures:
        future.result()
    assert len(commits) <= 2


def test_tables_of_other_modules(store: AnswerStore) -> None:
    store.write("CREATE TABLE IF NOT EXISTS batches (id TEXT, state TEXT)")
    store.write("INSERT INTO batches VALUES (?, ?)", ("b1", "written"))
    store.write("UPDATE batches SET state = ? WHERE id = ?", ("submitted", "b1")).result()
    assert store.read("SELECT * FROM batches WHERE id = ?", ("b1",)) == [("b1", "submitted")]


def test_lookups_from_many_threads_during_writes(store: AnswerStore) -> None:
    problems: list[BaseException] = []

    def look_up(thread: int) -> None:
        try:
            for i in range(200):
                store.add(f"{thread}-{i}", 0, Answer(f"{thread} {i}"), NO_CLIP).result()
                assert store.answers(f"{thread}-{i}")[0][0].text == f"{thread} {i}"
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=look_up, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_killed_process_loses_nothing_that_it_had_stored(path: Path) -> None:
    chance = random.Random(17)
    printed: list[str] = []
    for kill in range(4):
        process = _child(path, f"kill{kill}")
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "open\n"
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(process.stdout,))
        reader.start()
        while not lines:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader.join()
        process.stdout.close()
        process.stdin.close()
        printed += [line.strip() for line in lines if line.endswith("\n")]
        assert lines[0] == f"kill{kill}-0\n"
    with closing(AnswerStore(path, path.parent / "out.csv")) as store:
        assert [key for key in printed if store.answers(key)[0][0].text != f"text of {key}"] == []
    assert _rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("is_local", [True, False])
def test_two_processes_use_one_file(path: Path, is_local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both create it at the same time. On a network file system there is no write-ahead log."""
    if not is_local:
        monkeypatch.setattr(store_file, "_LOCAL_FILE_SYSTEMS", frozenset())
    with closing(AnswerStore(path, path.parent / "third.csv")) as store:
        assert store.read("PRAGMA journal_mode") == [("wal" if is_local else "delete",)]
        processes = [_child(path, name, 300) for name in ("one", "two")] if is_local else [_child(path, "one", 300)]
        outputs = [process.communicate("\n")[0].split() for process in processes]
        store.add("three", 0, Answer("text"), NO_CLIP).result()
        assert all(process.returncode == 0 for process in processes)
        assert [len(output) for output in outputs] == [301] * len(processes)
        assert store.answers("one-299")[0][0].text == "text of one-299"
        assert store.spent() == (1, 0, 0), "tokens of other jobs are not counted"
    assert _rows(path, "SELECT count(*) FROM answers") == [(300 * len(processes) + 1,)]


def test_processes_that_create_the_file_at_the_same_time(path: Path) -> None:
    processes = [_child(path, f"p{i}", 20) for i in range(3)]
    outputs = [process.communicate("\n")[0].split() for process in processes]
    assert [len(output) for output in outputs] == [21] * 3
    assert _rows(path, "SELECT count(*), count(DISTINCT job) FROM answers") == [(60, 3)]
