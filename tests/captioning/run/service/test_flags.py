"""The flags of a service become its options; usage errors come before anything is sent, and never show a key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.captioning import caption_api
from pipeline.captioning.captioners.api import service as service_module
from pipeline.captioning.captioners.api.errors import ServiceStop
from pipeline.captioning.captioners.api.options import Generation, Limits, Prices, ServiceOptions, Visuals
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.options import job_options
from pipeline.captioning.run.service import flags as service_flags
from pipeline.captioning.workers.launch import Launch

COMMAND = Path(caption_api.__file__)
URL = "http://localhost:8000/v1"
SECRET = "sk-s3cret"
SCHEMA = {
    "type": "object",
    "properties": {"$ref": {"type": "string"}, "people": {"$ref": "#/$defs/people"}},
    "$defs": {"people": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]"}}},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("EMPTY_KEY", "")
    monkeypatch.setenv("BROKEN_KEY", f"{SECRET}\n")
    monkeypatch.setenv("ACCENT_KEY", f"{SECRET}é")
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    (tmp_path / "folder").mkdir()
    for name, content in {
        "schema.json": json.dumps(SCHEMA),
        "list.json": "[1]",
        "broken.json": '{"type": "object"',
        "wrong.json": '{"type": "objct"}',
        "pattern.json": '{"properties": {"a": {"pattern": "["}}}',
        "remote.json": '{"items": {"$ref": "https://example.org/people.json"}}',
        "nowhere.json": '{"items": {"$ref": "#/$defs/people"}}',
        "extra.json": '{"top_k": 5}',
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    return tmp_path


def _options(*flags: str) -> ServiceOptions:
    parsed = caption_api.make_parser().parse_args(["meta.csv", "--base_url", URL, "--model", "m", *flags])
    return service_flags.service_options(parsed, job_options(parsed))


def test_without_flags_the_defaults_are_used() -> None:
    assert _options() == ServiceOptions(URL, Generation("m"), Path("meta_answers.sqlite"))


def test_flags_become_options(folder: Path) -> None:
    given = (
        "--api_key_env MY_KEY --concurrency 64 --requests_per_minute 500 --tokens_per_minute 2e5 --max_tries 3 "
        "--timeout 20 --system Brief. --max_new_tokens 50 --temperature default --top_p 0.9 --seed 7 "
        "--json_schema schema.json --extra_body @extra.json --max_side 512 --jpeg_quality 70 --detail low "
        "--price_in 0.15 --price_out 0.6 --max_cost 9 --answers folder/a.sqlite --pay_again --dry_run"
    )
    options = _options(*given.split())
    assert options == ServiceOptions(
        URL,
        Generation("m", "Brief.", 50, None, 0.9, 7, SCHEMA, {"top_k": 5}),
        Path("folder/a.sqlite"),
        SECRET,
        Visuals(max_side=512, quality=70, detail="low"),
        Limits(64, 500, 2e5, 3, 20),
        Prices(0.15, 0.6, 9),
        pay_again=True,
        dry_run=True,
    )
    assert SECRET not in repr(options)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", FrameSampling("segments", 4)),
        ("--num_frames 3", FrameSampling("segments", 3)),
        ("--fps 1 --max_frames 8", FrameSampling("rate", 0, 1.0, 8)),
    ],
)
def test_the_frames_are_those_of_the_other_commands(flags: str, expected: FrameSampling) -> None:
    parsed = caption_api.make_parser().parse_args(["meta.csv", "--base_url", URL, *flags.split()])
    assert service_flags.service_sampling(parsed) == expected


def test_the_service_samples_the_frames_of_a_video() -> None:
    assert _options("--send", "video").visuals == Visuals(send="video")
    assert _options("--send", "video", "--num_frames", "3").visuals.video_options == {"num_frames": 3}
    assert _options("--send", "video", "--fps", "0.5").visuals.video_options == {"fps": 0.5}


def test_a_batch_is_polled_each_minute() -> None:
    assert (_options("--batch").batch, _options("--batch").poll_seconds) == (True, 60)
    assert _options("--batch", "--dry_run", "--poll_seconds", "5").poll_seconds == 5


def test_no_system_prompt_and_no_slash_at_the_end_of_the_url() -> None:
    assert _options("--system", "").generation.system is None
    assert _options("--base_url", "https://api.example.org/openai/v1/").base_url == "https://api.example.org/openai/v1"


def test_the_answers_are_beside_the_table(folder: Path) -> None:
    (folder / "folder" / "clips.csv.gz").touch()
    parsed = caption_api.make_parser().parse_args(["folder/clips.csv.gz", "--base_url", URL, "--model", "m"])
    assert service_flags.service_options(parsed, job_options(parsed)).answers == Path("folder/clips_answers.sqlite")


def test_a_key_is_read_from_the_usual_variable_if_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options().api_key == ""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert _options().api_key == SECRET


USAGE_ERRORS = [
    ("--base_url localhost:8000/v1", "'localhost:8000/v1' is not an http:// or https:// URL; give the URL up to the"),
    ("--base_url ftp://host/v1", "'ftp://host/v1' is not an http:// or https:// URL"),
    ("--base_url http:///v1", "the URL has no host"),
    ("--base_url http://host:port/v1", "not followed by a port"),
    (f"--base_url https://user:{SECRET}@host/v1", "contains a user or a password; leave them out"),
    (f"--base_url user:{SECRET}@host/v1", "the value is not an http"),
    (f"--base_url https://host/v1?key={SECRET}", "has a query or a fragment"),
    (f"--base_url {URL}/chat/completions/", f"is a full endpoint; leave /chat/completions out: {URL}"),
    (f"--api_key {SECRET}", ": a key is not given on the command line"),
    ("--api_key_env NO_KEY", "the environment variable NO_KEY is not set or is empty; export it"),
    ("--api_key_env EMPTY_KEY", "the environment variable EMPTY_KEY is not set or is empty"),
    (f"--api_key_env {SECRET}", "the environment variable that --api_key_env names is not set"),
    ("--api_key_env BROKEN_KEY", "the key in the environment variable BROKEN_KEY contains white space"),
    ("--api_key_env ACCENT_KEY", "the key in the environment variable ACCENT_KEY contains"),
    ("--model ", "--model: the name is blank"),
    ("--concurrency 0", "--concurrency: 0 is less than 1"),
    ("--requests_per_minute 0", "--requests_per_minute: 0 is out of bounds"),
    ("--tokens_per_minute -5", "--tokens_per_minute: -5 is out of bounds"),
    ("--timeout inf", "--timeout: inf is out of bounds"),
    ("--temperature warm", "--temperature: 'warm' is not a number, nor is it default"),
    ("--max_new_tokens 1000000", "--max_new_tokens: 1000000 is more than 131072"),
    ("--jpeg_quality 96", "--jpeg_quality: 96 is more than 95"),
    ("--json_schema none.json", "none.json can't be read: No such file or directory"),
    ("--json_schema folder", "folder is not a file"),
    ("--json_schema latin.json", "latin.json is not UTF-8 (byte 8)"),
    ("--json_schema broken.json", "broken.json is not JSON: Expecting ',' delimiter"),
    ("--json_schema list.json", "not a JSON object but [1]"),
    ("--json_schema wrong.json", "wrong.json is not a valid JSON schema at $.type: 'objct' is not valid"),
    ("--json_schema pattern.json", "pattern.json is not a valid JSON schema at $.properties.a.pattern: '[' is not a"),
    ("--json_schema remote.json", "'https://example.org/people.json' leads out of the file; define the part under"),
    ("--json_schema nowhere.json", "the reference '#/$defs/people' leads nowhere"),
    ("--extra_body top_k=5", "--extra_body: the value is not JSON"),
    ("--extra_body [5]", "not a JSON object but [5]"),
    ('--extra_body {"top_k":NaN}', "NaN is no number of JSON"),
    ('--extra_body {"stream":true}', "the field 'stream' is set by the command itself"),
    ('--extra_body {"messages":[]}', "the field 'messages' is set by the command itself"),
    ("--extra_body @none.json", "none.json can't be read"),
    ("--price_in 1", "--price_in is given without --price_out; give both"),
    ("--price_out 1", "--price_out is given without --price_in; give both"),
    ("--max_cost 5", "--max_cost 5 needs the prices"),
    ("--price_in 1 --price_out 1 --max_cost 0", "--max_cost: 0 is out of bounds"),
    ("--price_in 0 --price_out 0 --max_cost 1", "--max_cost 1 has no effect if both prices are 0"),
    ("--fps 1 --num_frames 3", "--num_frames 3 and --fps 1 both set the number of frames; give one"),
    ("--send video --fps 1 --num_frames 3", "--num_frames 3 and --fps 1 both set the number of frames; give one"),
    ("--send video --max_side 512", "--max_side 512 has no effect with --send video"),
    ("--send video --detail low", "--detail low has no effect with --send video"),
    ("--send video --jpeg_quality 80", "--jpeg_quality 80 has no effect with --send video"),
    ("--send video --sampling uniform", "--sampling uniform has no effect with --send video"),
    ("--send video --max_frames 8", "--max_frames 8 has no effect with --send video"),
    ("--send video --short_side 336", "--short_side 336 has no effect with --send video"),
    ("--batch --concurrency 8", "--concurrency 8 has no effect with --batch: the service sets the pace"),
    ("--batch --tokens_per_minute 8", "--tokens_per_minute 8 has no effect with --batch"),
    ("--poll_seconds 5", "--poll_seconds 5 has an effect only with --batch"),
    ("--answers none/a.sqlite", "folder of --answers, none, does not exist"),
    ("--answers folder", "--answers folder is not a file; give --answers another file"),
    ("--answers meta.csv", "--answers meta.csv is the meta table"),
    ("--answers ./meta_caption.csv", "is the output of the run"),
    ("--answers meta_caption_report.json", "is a file that belongs to the output"),
]


@pytest.mark.parametrize(("flags", "message"), USAGE_ERRORS, ids=[flags for flags, _ in USAGE_ERRORS])
def test_usage_errors_name_flag_value_and_fix(flags: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        _options(*flags.split(" "))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


class FakeService:
    """Lists models. listed: their ids, or the error of the service."""

    listed: list[str] | ServiceStop
    closed = 0

    def __init__(self, base_url: str, api_key: str, timeout: float, connections: int) -> None:
        assert (base_url, api_key) == (URL, SECRET) and timeout <= 30 and connections == 1

    async def models(self) -> list[str]:
        if isinstance(self.listed, ServiceStop):
            raise self.listed
        return self.listed

    async def close(self) -> None:
        FakeService.closed += 1


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], f"--model is not given, and {URL} lists no model; give --model NAME"),
        (["a", "b"], f"{URL} lists 2 models (a, b); give one"),
        ([f"m{n}" for n in range(99)], "lists 99 models (m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, …)"),
        (ServiceStop("connection refused"), "the service can't be asked for its models: connection refused"),
        (["only/one"], ""),
    ],
)
def test_without_model_the_only_one_of_the_service_is_used(
    listed: list[str] | ServiceStop, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "Service", FakeService)
    monkeypatch.setattr(FakeService, "listed", listed, raising=False)
    monkeypatch.setattr(FakeService, "closed", 0)
    parsed = caption_api.make_parser().parse_args(["meta.csv", "--base_url", URL, "--api_key_env", "MY_KEY"])
    if message:
        with pytest.raises(UsageError) as caught:
            service_flags.service_options(parsed, job_options(parsed))
        assert message in str(caught.value)
    else:
        assert service_flags.service_options(parsed, job_options(parsed)).generation.model == "only/one"
    assert FakeService.closed == 1


def test_a_launcher_is_refused() -> None:
    service_flags.check_launch(Launch())
    with pytest.raises(UsageError, match=r"started by msrun, but it is one process; .*datautil --shard"):
        service_flags.check_launch(Launch("msrun", world_size=8))


def test_many_long_answers_need_no_other_flag() -> None:
    parsed = caption_api.make_parser().parse_args(["meta.csv", "--base_url", URL, "--max_new_tokens", "131072"])
    assert job_options(parsed, [f"text_{number}" for number in range(100)]).batch_size == 1


NO_IMPORTS = """
import runpy, sys
command = sys.argv.pop(1)
heavy = ("torch", "mindspore", "transformers", "tokenizers", "openai", "jsonschema", "av", "decord")
try:
    runpy.run_path(command, run_name="__main__")
finally:
    found = [name for name in heavy if name in sys.modules]
    if found:
        raise SystemExit(f"imported: {found}")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "--requests_per_minute", ""),
        (["meta.csv"], 2, "", "caption_api.py: the following arguments are required: --base_url (see --help)\n"),
        (
            ["meta.csv", "--base_url", URL, "--model", "m", "--max_cost", "1"],
            2,
            "",
            "caption_api.py: --max_cost 1 needs the prices; give --price_in and --price_out, too\n",
        ),
    ],
    ids=["help", "parser", "options"],
)
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str], code: int, out: str, err: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(COMMAND.parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", NO_IMPORTS, str(COMMAND), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (code, err)
    assert out in done.stdout
