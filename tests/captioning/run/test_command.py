"""Usage errors of the real command: exit code 2 and one line on standard error, before a framework is imported.

Names and shapes of weights are checked later, because this needs the framework's model.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.captioning.captioners.named_prompts import NAMED_PROMPTS
from tests.captioning.run import forked
from tests.golden import DATA

COMMAND = Path(__file__).parents[3] / "pipeline" / "captioning" / "caption_pllava.py"
CHECKPOINT = ["--pretrained_model_name_or_path", str(DATA / "mini-a-merged")]
UNMERGED = ["--pretrained_model_name_or_path", str(DATA / "mini-a")]


def _run(arguments: list[str], folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The ended command, and its computing time, which depends little on what else the machine does."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, str(COMMAND), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    return done, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin


@pytest.fixture(scope="module")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    with forked.serve(COMMAND) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _fill(tmp_path)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files, for commands that write nothing."""
    return _fill(tmp_path_factory.mktemp("usage"))


def _fill(folder: Path) -> Path:
    """Tables and checkpoints, most of them faulty."""
    (folder / "meta.csv").write_text("path\na.mp4\n")
    (folder / "no_path.csv").write_text("name\na.mp4\n")
    (folder / "empty.csv").touch()
    (folder / "semicolons.csv").write_text("path;note\na.mp4;1\n")
    (folder / "lines.jsonl").write_text('{"path": "a.mp4"}\n')
    (folder / "twice.csv").write_text("path,id,id\na.mp4,1,2\n")
    os.mkfifo(folder / "fifo.csv")
    (folder / "binary.csv").write_bytes(b"path\n\xff\xfe\x00\n")
    for name in ("cut", "no_tokenizer", "wrong_width", "penalty", "list", "missing_shard", "qwen"):
        shutil.copytree(DATA / "mini-a", folder / name)
    shard = folder / "cut" / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    (folder / "no_tokenizer" / "tokenizer.json").unlink()
    (folder / "missing_shard" / "model-00003-of-00003.safetensors").unlink()
    _edit(folder / "wrong_width" / "config.json", lambda config: config["text_config"].update(hidden_size=128))
    _edit(folder / "qwen" / "config.json", lambda config: config["text_config"].update(model_type="qwen2"))
    _edit(folder / "penalty" / "generation_config.json", lambda config: config.update(repetition_penalty=-1))
    (folder / "list" / "config.json").write_text("[]")
    (folder / "only_config").mkdir()
    shutil.copy(DATA / "mini-a" / "config.json", folder / "only_config")
    return folder


def _edit(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


USAGE_ERRORS = [
    ([], "meta_path"),
    (["nowhere.csv", *CHECKPOINT], "nowhere.csv does not exist"),
    (["no_path.csv", *CHECKPOINT], "no 'path' column; its columns: 'name'"),
    (["semicolons.csv", *CHECKPOINT], "separated by semicolons, not by commas"),
    (["lines.jsonl", *CHECKPOINT], "it is JSON; convert it: python -c"),
    (["fifo.csv", *CHECKPOINT], "fifo.csv is not a file"),
    (["/", *CHECKPOINT, "--output", "out.csv"], "/ is not a file"),
    (["twice.csv", *CHECKPOINT, "--output", "out.parquet"], "Parquet can't have 2 columns named 'id'"),
    (["meta.csv", *CHECKPOINT, "--output", "out.json"], "'.json' is none of .csv, .csv.gz, .parquet, .pq"),
    (["meta_failures.csv", *CHECKPOINT, "--output", "meta.csv"], "would replace the meta file"),
    (["empty.csv", *CHECKPOINT], "empty.csv is empty"),
    (["binary.csv", *CHECKPOINT], "can't be read as CSV"),
    (["meta.csv", *CHECKPOINT, "--pooling_shape", "16x12"], "16-12-12"),
    (["meta.csv", *CHECKPOINT, "--pooling_shape", "16-30-30"], "finer than the 24x24 patches"),
    (["meta.csv", *CHECKPOINT, "--max_new_tokens", "5000"], "--pad_length 4096"),
    (["meta.csv", "--max_new_tokens", "2049", "--ask", "a=x", "--ask", "b=y"], "give --pad_length 4098 or more"),
    (["meta.csv", "--prompt", "image-text"], "has no column 'text' (--prompt image-text inserts its cells); its"),
    (["meta.csv", "--question", "{x}"], "'x' (--question inserts its cells; write {{ and }} for braces); its columns"),
    (["meta.csv", *CHECKPOINT, "--max_new_tokens", "3000"], "the model was made for 4096"),
    (["meta.csv", *CHECKPOINT, "--bs", "-2"], "--bs: -2 is less than 1"),
    (["meta.csv", *CHECKPOINT, "--bs", "many"], "--bs: 'many' is not a whole number, nor is it auto"),
    (["meta.csv", *CHECKPOINT, "--seed", "-1"], "--seed: -1 is less than 0"),
    (["meta.csv", *CHECKPOINT, "--num_frames", "0"], "--num_frames: 0 is less than 1"),
    (["meta.csv", *CHECKPOINT, "--temperature", "-1"], "--temperature: -1 is out of bounds"),
    (["meta.csv", *CHECKPOINT, "--top_p", "nan"], "--top_p: nan is out of bounds"),
    (["meta.csv", *CHECKPOINT, "--repetition_penalty", "0"], "--repetition_penalty: 0 is out of bounds"),
    (["meta.csv", *CHECKPOINT, "--no_repeat_ngram_size", "-1"], "--no_repeat_ngram_size: -1 is less than 0"),
    (["meta.csv", *CHECKPOINT, "--decode_timeout", "0"], "--decode_timeout: 0 is out of bounds"),
    (["meta.csv", *CHECKPOINT, "--download_timeout", "0"], "--download_timeout: 0 is out of bounds"),
    (
        ["meta.csv", *CHECKPOINT, "--max_download", "much"],
        "--max_download: 'much' is not a size; write",
    ),
    (["meta.csv", *CHECKPOINT, "--max_download", "0"], "--max_download: 0 is less than one byte"),
    (["meta.csv", *CHECKPOINT, "--no_such_flag"], "--no_such_flag"),
    (["meta.csv", *CHECKPOINT, "--pretrained", "x"], "--pretrained"),
    (["meta.csv", *CHECKPOINT, "--question", "<image> what?"], "--question must not contain <image>"),
    (["meta.csv", *CHECKPOINT, "--ask", "a=x", "--ask", "b=<image>?"], "--ask b must not contain <image>"),
    (["meta.csv", *CHECKPOINT, "--num_beams", "2", "--do_sample"], "does not go with sampling"),
    (["meta.csv", *CHECKPOINT, "--output", "meta.csv"], "the meta file itself"),
    (["meta.csv", *CHECKPOINT, "--output", "nowhere/out.csv"], "does not exist"),
    (["meta.csv", *CHECKPOINT, "--device", "ascend", "--framework", "torch"], "on Ascend use mindspore"),
    (["meta.csv"], "pretrained_models/pllava does not exist"),
    (["meta.csv", "--question", "@nowhere.txt"], "argument --question: the question's file nowhere.txt can't be read"),
    (["meta.csv", "--question", "@binary.csv"], "the question's file binary.csv is not UTF-8 (byte 6)"),
    (["meta.csv", "--prompt", "vide"], "argument --prompt: invalid choice: 'vide' (choose from 'image-text'"),
    (["meta.csv", "--prompt", "video", "--question", "x"], "give one of them, or several with --ask"),
    (["meta.csv", "--ask", "a=x", "--ask", "a=y"], "two questions have the column 'text_a'"),
    (["meta.csv", "--ask", "a=x", "--question", "y"], "--question does not go with --ask"),
    (["meta.csv", "--column", "path"], "captions can't be written to the column 'path'"),
    (["meta.csv", "--pretrained_model_name_or_path", "."], "no config.json"),
    (["meta.csv", "--pretrained_model_name_or_path", "only_config"], "no tokenizer.json"),
    (["meta.csv", "--pretrained_model_name_or_path", "no_tokenizer"], "no tokenizer.json"),
    (["meta.csv", "--pretrained_model_name_or_path", "missing_shard"], "lacks model-00003-of-00003"),
    (["meta.csv", "--pretrained_model_name_or_path", "cut", "--lora_alpha", "2"], "cut short"),
    (["meta.csv", "--pretrained_model_name_or_path", "penalty", "--lora_alpha", "2"], "repetition_penalty -1 is not"),
    (["meta.csv", "--pretrained_model_name_or_path", "list"], "it holds no JSON object"),
    (["meta.csv", "--pretrained_model_name_or_path", "qwen"], "'qwen2'"),
    (["meta.csv", *UNMERGED], "--lora_alpha"),
    (["meta.csv", *CHECKPOINT, "--use_lora"], "--use_lora: no LoRA weights"),
    (["meta.csv", *CHECKPOINT, "--weight_dir", "."], "--weight_dir is only read with --use_lora"),
    (["meta.csv", *CHECKPOINT, "--use_lora", "--weight_dir", "nowhere"], "nowhere does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS, ids=[message for _, message in USAGE_ERRORS])
def test_usage_error(
    shared_folder: Path, tmp_path: Path, fork_server: subprocess.Popen[str], arguments: list[str], message: str
) -> None:
    forked.check_usage_error(fork_server, arguments, message, shared_folder, tmp_path)


@pytest.mark.parametrize("arguments", [[], ["semicolons.csv", *CHECKPOINT], ["meta.csv", *CHECKPOINT, "--bs", "-2"]])
def test_usage_error_of_a_plain_process(folder: Path, arguments: list[str]) -> None:
    """As test_usage_error, without the fork server: one case each of a missing argument, a table and a value."""
    done, _ = _run(arguments, folder)
    assert done.returncode == 2, done.stderr
    assert next(message for case, message in USAGE_ERRORS if case == arguments) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, "one line"


def test_weights_that_do_not_fit_are_a_usage_error(folder: Path) -> None:
    done, _ = _run(["meta.csv", "--pretrained_model_name_or_path", "wrong_width", "--lora_alpha", "2"], folder)
    assert done.returncode == 2, done.stderr
    assert "misshapen: " in done.stderr.strip().splitlines()[-1], "log lines may precede it"
    assert not (folder / "meta_caption.csv.journal").exists(), "the journal would refuse the corrected checkpoint"


def test_usage_error_takes_under_3_seconds_and_imports_no_framework(folder: Path) -> None:
    _, seconds = _run(["meta.csv", *UNMERGED], folder)
    assert seconds < 3
    code = (
        "import sys; sys.argv = ['c', 'meta.csv', *sys.argv[1:]]; import runpy\n"
        "try: runpy.run_path(%r, run_name='__main__')\n"
        "except SystemExit as leaving: print(leaving.code, [m for m in ('torch', 'mindspore') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % str(COMMAND), *UNMERGED], cwd=folder, capture_output=True, text=True
    )
    assert done.stdout.strip() == "2 []"


def test_only_rank_0_prints_a_usage_error(folder: Path) -> None:
    worker = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"}
    for environment, lines in (({"RANK_ID": "0"}, 1), ({"RANK_ID": "1", "DEVICE_ID": "1"}, 0)):
        done, _ = _run(["meta.csv", *UNMERGED], folder, **worker, **environment)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, lines)
    done, _ = _run(["meta.csv", *UNMERGED], folder, MS_ROLE="MS_SCHED", RANK_ID="0")
    assert (done.returncode, done.stderr) == (2, "")


def test_help_explains_every_flag(folder: Path) -> None:
    done, _ = _run(["--help"], folder)
    assert done.returncode == 0
    for flag in ("--pretrained_model_name_or_path", "--pad_length", "--skip_if_existing", "--lora_alpha"):
        assert flag in done.stdout


def test_list_prompts_needs_neither_table_nor_checkpoint_and_is_printed_by_rank_0(tmp_path: Path) -> None:
    done, _ = _run(["--list_prompts"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split(" (for ")[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert names == list(NAMED_PROMPTS)
    for prompt in NAMED_PROMPTS.values():
        assert textwrap.indent(prompt.text, "    ") in done.stdout
    other, _ = _run(["--list_prompts"], tmp_path, MS_ROLE="MS_WORKER", MS_WORKER_NUM="2", RANK_ID="1")
    assert (other.returncode, other.stdout, other.stderr) == (0, "", "")


@pytest.mark.parametrize(("num_frames", "warns"), [("3", False), ("4", True)])
def test_a_prompt_for_another_number_of_frames_is_warned_about(folder: Path, num_frames: str, warns: bool) -> None:
    (folder / "done.csv").write_text("path,text\na.mp4,a caption\n")
    arguments = ["done.csv", *CHECKPOINT, "--skip_if_existing", "--prompt", "video-f3-detail-3ex"]
    done, _ = _run([*arguments, "--num_frames", num_frames], folder)
    assert done.returncode == 0, done.stderr
    assert ("is for 3 frames of a video, but this run samples 4 frames" in done.stderr) == warns


def test_nothing_pending_ends_without_a_framework(folder: Path) -> None:
    (folder / "done.csv").write_text("path,text\na.mp4,a caption\n")
    arguments = ["done.csv", *CHECKPOINT, "--skip_if_existing"]
    done, seconds = _run(arguments, folder)
    assert done.returncode == 0 and seconds < 5
    assert (folder / "done_caption.csv").read_text() == "path,text\na.mp4,a caption\n"
    done, _ = _run(arguments, folder)
    assert done.returncode == 0 and "nothing is left" in done.stderr


def test_outputs_of_every_kind_are_written_and_recognised_by_the_next_run(folder: Path) -> None:
    table = b"\xef\xbb\xbfpath,id,text\r\na.mp4,007,a caption\r\n"
    (folder / "done.csv.gz").write_bytes(gzip.compress(table))
    for name in (None, "out.csv", "out.parquet"):
        arguments = ["done.csv.gz", *CHECKPOINT, "--skip_if_existing", *(["--output", name] if name else [])]
        done, _ = _run(arguments, folder)
        assert done.returncode == 0, done.stderr
        done, _ = _run(arguments, folder)
        assert done.returncode == 0 and "nothing is left" in done.stderr
    assert gzip.decompress((folder / "done_caption.csv.gz").read_bytes()) == table
    assert (folder / "out.csv").read_bytes() == table
    assert pq.read_table(folder / "out.parquet").to_pylist() == [{"path": "a.mp4", "id": "007", "text": "a caption"}]
    done, _ = _run(["out.parquet", *CHECKPOINT, "--skip_if_existing", "--output", "back.csv"], folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "back.csv").read_text() == "path,id,text\na.mp4,007,a caption\n"


def test_a_nul_byte_leaves_no_output(folder: Path) -> None:
    (folder / "nul.csv").write_bytes(b"path,note,text\na.mp4,1,a\nb.mp4,on\0e,b\n")
    done, _ = _run(["nul.csv", *CHECKPOINT, "--skip_if_existing"], folder)
    assert done.returncode == 2 and "row 1 (line 3), column 'note' holds a NUL byte" in done.stderr
    assert not (folder / "nul_caption.csv").exists()
