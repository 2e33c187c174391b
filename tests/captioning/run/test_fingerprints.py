"""What captions depend on: the same on all hosts, and in the journals that a run resumes."""

from __future__ import annotations

from pathlib import Path

from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run import job
from pipeline.captioning.run.fingerprints import table_fingerprint
from pipeline.captioning.run.model_work import ModelWork
from scripts.thread_ranks import run_ranks
from tests.fakes import CPU, FakeSource
from tests.runs import write_meta


def test_hosts_with_other_questions_are_a_usage_error(tmp_path: Path) -> None:
    """A file of a question, or the checkpoint, may be another one on another host."""
    options = write_meta(tmp_path, ["a.mp4", "b.mp4"])
    settings = [{"prompt": "a", "tokenizer": "t"}, {"prompt": "a", "tokenizer": "t"}, {"prompt": "b", "stop": "s"}]
    sources = [FakeSource(settings=one) for one in settings]
    results = run_ranks(3, lambda world: job.run_in_world(options, ModelWork(sources[world.rank], lambda: CPU), world))
    assert all(isinstance(result, UsageError) for result in results), results
    assert "1 ranks differ from rank 0 in what captions depend on (ranks 2: prompt, stop, tokenizer)" in str(results[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta.csv"]


def test_a_cell_and_its_name_in_braces_are_different_questions(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,a\nx.mp4,cell\n")
    table = MetaTable.read(tmp_path / "m.csv")

    def entries(short: str) -> dict[str, str]:
        asks = Asks((Ask("short", Question(short)), Ask("long", Question("Say {a}"))))
        return table_fingerprint(table, asks, table.cells(asks.cell_columns))

    assert entries("Say {a}") != entries("Say {{a}}")
    assert entries("Say {a}") == entries("Why {a}"), "the text of a question is an entry of the captioner"
