"""The real command against a service that misbehaves: every row has the right caption, or a failure with its reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from scripts import service_runs
from scripts.coded_clips import code_of, coded_image
from scripts.service_runs import OUTPUT, Row
from tests.service_faults import (
    ALWAYS_BAD,
    GOOD,
    LENGTH,
    REFUSAL,
    STAGES,
    TRANSIENT,
    Faults,
    answer_text,
    caption_of,
    expected_caption,
    image_text,
)

pytestmark = pytest.mark.usefixtures("api_forks")

KEY = "sk-a-key-that-nobody-may-see"
ASK = ("--question", "{ask}")
MODEL = ("--model", "fake-vl")
PROMPT_FAULTS = {"500": 0.06, "502": 0.02, "503": 0.02, "408": 0.02, "409": 0.02, "cut_before": 0.03, "cut_body": 0.03}
UNREADABLE = {"invalid_json": 0.03, "html": 0.02, "no_choices": 0.02}
ANSWERS = {
    "empty": 0.05,
    "refusal": 0.05,
    "empty_always": 0.03,
    "refusal_always": 0.03,
    "filter": 0.03,
    "filter_400": 0.03,
    "bad_request": 0.03,
    "length": 0.05,
}
SCHEDULE = {"40": "429_seconds", "90": "429_date", "150": "429", "60": "hang", "120": "hang"}
SCHEMA = {
    "type": "object",
    "properties": {"caption": {"type": "string"}},
    "required": ["caption"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A folder with a table of 300 rows: 60 clips, and five questions about each."""
    folder = tmp_path_factory.mktemp("clips")
    return folder, service_runs.make_table(folder, 300, 60)


def _first_rows(clips: tuple[Path, list[Row]], folder: Path, count: int) -> list[Row]:
    """Write the table of the first rows to `folder`; returns these rows."""
    lines = (clips[0] / "meta.csv").read_text().splitlines(keepends=True)
    folder.mkdir(exist_ok=True)
    (folder / "meta.csv").write_text("".join(lines[: count + 1]))
    return clips[1][:count]


def _expected(row: Row) -> str:
    return expected_caption(row.codes, row.question)


def test_every_row_is_captioned_or_fails_with_its_reason(clips: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """All faults at once, 300 rows; counted on the side of the service. The key is in no file and in no message."""
    config = {
        "transient": PROMPT_FAULTS | UNREADABLE,
        "answers": ANSWERS,
        "usage": {"missing": 0.03, "null": 0.02, "negative": 0.03, "text": 0.03},
        "schedule": SCHEDULE,
        "latency": 0.05,
        "latency_spread": 1.0,
        "limit_headers": True,
        "echoes_key": True,
    }
    rows = _first_rows(clips, tmp_path / "run", 300)
    with service_runs.running_service(tmp_path / "service", **config) as service:
        done = service_runs.caption(service, tmp_path / "run", *MODEL, *ASK, "--timeout", "5", key=KEY)
        log, stats = service.log(), service.stats()
    assert done.exit_code == 0, done.stderr
    table, failed = service_runs.read_table(tmp_path / "run" / OUTPUT), service_runs.failures(tmp_path / "run")
    kinds = [Faults(answers=ANSWERS).kind(_expected(row)) for row in rows]
    assert set(kinds) == {GOOD, *ANSWERS}, "the table has a row for each kind of answer"
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        if kind in ALWAYS_BAD:
            assert failed[number]["stage"] == STAGES[kind], (number, kind, failed[number])
            assert failed[number]["message"].strip() and not table[number]["text"]
        else:
            right = answer_text(LENGTH if kind == LENGTH else GOOD, _expected(row), wants_json=False)
            assert table[number]["text"] == right.strip(), (number, kind, failed.get(number))
    assert failed.keys() == {number for number, kind in enumerate(kinds) if kind in ALWAYS_BAD}
    assert any(REFUSAL in failure["message"] for failure in failed.values() if failure["stage"] == "refused")

    assert log.answered_twice() == 0, "nothing that was answered is asked again"
    assert stats["in_flight"] == 0
    hangs = sum(fault == "hang" for fault in SCHEDULE.values())  # the service notices late that nobody waits any more
    assert stats["max_in_flight"] <= 32 + hangs
    assert set(TRANSIENT) <= log.by_status().keys(), "every fault has occurred"
    report = service_runs.service_report(tmp_path / "run")
    answers = log.answered()
    assert report["requests"] == len(log.requests)
    assert report["answers_paid"] == len(answers)
    assert report["prompt_tokens"] == sum(one["prompt_tokens"] for one in answers)
    assert report["completion_tokens"] == sum(one["completion_tokens"] for one in answers)
    assert report["answers_without_usage"] == sum(not one["has_usage"] for one in answers) > 0
    outcomes = Counter(STAGES.get(kind, "truncated" if kind == LENGTH else "success") for kind in kinds)
    assert report["outcomes"] == outcomes
    _assert_no_key(tmp_path, done)


def _assert_no_key(folder: Path, done: service_runs.Done) -> None:
    """The API key is in no output of the command and in no file under `folder`."""
    assert KEY not in done.stdout + done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sqlite" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_pause_that_the_service_asks_for_stops_all_requests(clips: tuple[Path, list[Row]], tmp_path: Path) -> None:
    rows = _first_rows(clips, tmp_path / "run", 48)
    config = {"schedule": {"10": "429_seconds"}, "retry_after": 3, "latency": 0.25}
    with service_runs.running_service(tmp_path / "service", **config) as service:
        done = service_runs.caption(service, tmp_path / "run", *MODEL, *ASK, "--concurrency", "4")
        log, stats = service.log(), service.stats()
    assert done.exit_code == 0, done.stderr
    assert [row["text"] for row in service_runs.read_table(tmp_path / "run" / OUTPUT)] == list(map(_expected, rows))
    begin = next(one["time"] for one in log.requests if one["status"] == "429_seconds")
    times = [one["time"] - begin for one in log.requests]
    assert [seconds for seconds in times if 2 < seconds < 2.9] == [], "two seconds for requests that were on their way"
    assert sum(seconds >= 2.9 for seconds in times) >= 30, "most of the rows were still to be sent"
    assert stats["max_in_flight"] <= 4


def test_an_answer_that_does_not_fit_the_schema_is_asked_once_more(
    clips: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    answers = {"invalid": 0.3, "invalid_always": 0.2}
    rows = _first_rows(clips, tmp_path / "run", 24)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    flags = (*MODEL, *ASK, "--json_schema", str(tmp_path / "schema.json"))
    with service_runs.running_service(tmp_path / "service", answers=answers) as service:
        done = service_runs.caption(service, tmp_path / "run", *flags)
        log = service.log()
    assert done.exit_code == 0, done.stderr
    kinds = [Faults(answers=answers).kind(_expected(row)) for row in rows]
    assert set(kinds) == {GOOD, *answers}
    table, failed = service_runs.read_table(tmp_path / "run" / OUTPUT), service_runs.failures(tmp_path / "run")
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        if kind == "invalid_always":
            assert failed[number]["stage"] == "invalid" and failed[number]["message"].strip()
        else:
            assert json.loads(table[number]["text"]) == {"caption": _expected(row)}, kind
    assert len(log.requests) == len(rows) + sum(kind != GOOD for kind in kinds)
    assert log.answered_twice() == 0


def test_several_questions_images_and_clips_that_cannot_be_read(clips: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """Also without --model: the service has only one. Frames are scaled to --max_side."""
    source, code = clips[0] / "clips", code_of(77, 1)
    coded_image(code).save(tmp_path / "still.png")
    (tmp_path / "broken.mp4").write_bytes((source / "0.mp4").read_bytes()[:300])
    paths = [str(source / "5.mp4"), "still.png", "broken.mp4", "absent.mp4", str(source / "6.mp4")]
    service_runs.write_table(tmp_path / "meta.csv", [(path, "an ask") for path in paths])
    asks = ("--ask", "long=Describe it: {ask}.", "--ask", "short=In a word?")
    flags = (*asks, "--max_side", "48", "--system", "Be brief.", "--max_failure_rate", "0.9")
    with service_runs.running_service(tmp_path / "service") as service:
        done = service_runs.caption(service, tmp_path, *flags)
        log = service.log()
    assert done.exit_code == 0, done.stderr
    table = service_runs.read_table(tmp_path / OUTPUT)
    shown = {0: Row(5, "").codes, 1: [code], 4: Row(6, "").codes}
    for number, codes in shown.items():
        for column, question in (("text_long", "Describe it: an ask."), ("text_short", "In a word?")):
            images = [image_text((48, 32), one) for one in codes]
            assert table[number][column] == caption_of(images, question, "Be brief."), (number, column)
    failed = service_runs.read_table(tmp_path / service_runs.FAILURES)
    stages = [(int(failure["row"]), failure["column"], failure["stage"]) for failure in failed]
    columns = ("text_long", "text_short")
    assert stages == [(row, column, stage) for row, stage in ((2, "decode"), (3, "path")) for column in columns]
    assert log.by_status() == {"answered": 6} and log.answered_twice() == 0
