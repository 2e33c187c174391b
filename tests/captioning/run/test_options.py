"""Options that would overwrite the meta table, or that can't be used, are refused. Flags choose the frames."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.process.arguments import CommandParser
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.frame_flags import add_frame_flags, frame_sampling
from pipeline.captioning.run.options import JobOptions, job_options
from pipeline.captioning.run.run_flags import make_parser


def _options(*arguments: str) -> JobOptions:
    return job_options(make_parser("caption", "").parse_args(arguments))


@pytest.mark.parametrize(
    ("meta", "output"),
    [
        ("x.csv", "x.csv"),
        ("x_failures.csv", "x.csv"),  # a run without failures removes this file
        ("x.csv.bak", "x.csv"),
        ("link.csv", "x.csv"),
        ("x.csv", "loop.csv"),
    ],
)
def test_the_meta_table_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: str, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.csv").touch()
    Path("link.csv").symlink_to("x.csv")
    Path("loop.csv").symlink_to("x.csv")
    with pytest.raises(UsageError, match=r"meta file itself|would replace the meta file"):
        _options(meta, "--output", output)


def test_input_and_output_may_have_different_formats(tmp_path: Path) -> None:
    for meta in ("m.csv", "m.csv.gz", "m.parquet", "m.txt"):
        for output in ("o.csv", "o.csv.gz", "o.parquet", "o.pq"):
            assert _options(str(tmp_path / meta), "--output", str(tmp_path / output)).output == tmp_path / output
    assert _options(str(tmp_path / "m.csv.gz")).output == tmp_path / "m_caption.csv.gz"


def test_the_error_names_the_flag_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"meta file .*none/m.csv does not exist"):
        _options(str(tmp_path / "none" / "m.csv"))
    with pytest.raises(UsageError, match=r"folder of --output, .*none, does not exist"):
        _options(str(tmp_path / "m.csv"), "--output", str(tmp_path / "none" / "o.csv"))


def test_a_link_to_itself_is_not_resolved(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    options = _options(str(tmp_path / "loop.csv"))  # reading the table reports the error later
    assert options.output.name == "loop_caption.csv"


SEGMENTS, POINTS = FrameSampling("segments", 4), FrameSampling("points", 3)
PAIRS = FrameSampling("rate", 0, 2.0, 32, multiple=2)
STEPS = FrameSampling("step", 0, 1.0, 64)


def _frame_flags(*arguments: str) -> argparse.Namespace:
    parser = CommandParser()
    add_frame_flags(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("default", "flags", "expected"),
    [
        (SEGMENTS, "", SEGMENTS),
        (PAIRS, "", PAIRS),
        (SEGMENTS, "--num_frames 8", FrameSampling("segments", 8)),
        (SEGMENTS, "--sampling uniform", FrameSampling("uniform", 4)),
        (SEGMENTS, "--sampling points --num_frames 2", FrameSampling("points", 2)),
        (POINTS, "--num_frames 5", FrameSampling("uniform", 5)),
        (POINTS, "--num_frames 2", FrameSampling("points", 2)),
        (SEGMENTS, "--fps 1.5", FrameSampling("rate", 0, 1.5)),
        (SEGMENTS, "--fps 1 --max_frames 16", FrameSampling("rate", 0, 1.0, 16)),
        (SEGMENTS, "--sampling step --fps 1", FrameSampling("step", 0, 1.0)),
        (PAIRS, "--fps 1", FrameSampling("rate", 0, 1.0, 32, 2)),
        (PAIRS, "--max_frames 8", FrameSampling("rate", 0, 2.0, 8, 2)),
        (PAIRS, "--num_frames 5", FrameSampling("uniform", 5, multiple=2)),
        (PAIRS, "--sampling segments --num_frames 5", FrameSampling("segments", 5, multiple=2)),
        (STEPS, "--fps 2", FrameSampling("step", 0, 2.0, 64)),
        (STEPS, "--sampling rate", FrameSampling("rate", 0, 1.0, 64)),
        (POINTS, "--short_side 336", POINTS),
    ],
)
def test_frame_flags_replace_parts_of_the_default(default: FrameSampling, flags: str, expected: FrameSampling) -> None:
    assert frame_sampling(_frame_flags(*flags.split()), default) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", SEGMENTS),
        ("--num_frames 8", FrameSampling("segments", 8)),
        ("--fps 2", FrameSampling("step", 0, 2.0, 64)),
        ("--fps 2 --max_frames 8", FrameSampling("step", 0, 2.0, 8)),
        ("--sampling rate --fps 2", FrameSampling("rate", 0, 2.0, 64)),
    ],
)
def test_a_family_may_have_another_default_for_fps(flags: str, expected: FrameSampling) -> None:
    assert frame_sampling(_frame_flags(*flags.split()), SEGMENTS, STEPS) == expected


@pytest.mark.parametrize(
    ("default", "flags", "message"),
    [
        (SEGMENTS, "--num_frames 8 --fps 2", "--num_frames 8 and --fps 2 both set the number of frames"),
        (SEGMENTS, "--max_frames 8", "--max_frames 8 limits the frames of --fps; give --fps, too"),
        (SEGMENTS, "--sampling uniform --fps 2", "takes --num_frames, so --fps 2 does not go with it"),
        (SEGMENTS, "--sampling uniform --max_frames 9", "takes --num_frames, so --max_frames 9 does not go with it"),
        (SEGMENTS, "--sampling points", "points has points for 1, 2 or 3 frames, not for --num_frames 4"),
        (SEGMENTS, "--sampling rate", "--sampling rate needs --fps"),
        (SEGMENTS, "--sampling step --num_frames 4", "step takes --fps, so --num_frames 4 does not go with it"),
        (PAIRS, "--sampling uniform", "--sampling uniform needs --num_frames"),
        (PAIRS, "--max_frames 1", "--max_frames 1: the model needs at least 2 frames"),
        (PAIRS, "--num_frames 8 --max_frames 4", "--max_frames 4 limits the frames of --fps"),
        (SEGMENTS, "--fps 0", "--fps: 0 is out of bounds"),
        (SEGMENTS, "--fps inf", "--fps: inf is out of bounds"),
        (SEGMENTS, "--num_frames 0", "--num_frames: 0 is less than 1"),
        (SEGMENTS, "--max_frames x --fps 1", "--max_frames: 'x' is not a whole number"),
        (SEGMENTS, "--short_side 0", "--short_side: 0 is less than 1"),
        (SEGMENTS, "--sampling random", "--sampling: invalid choice: 'random'"),
    ],
)
def test_contradictory_frame_flags_are_a_usage_error(default: FrameSampling, flags: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        frame_sampling(_frame_flags(*flags.split()), default)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_frame_flags_have_no_values_of_their_own() -> None:
    assert set(vars(_frame_flags()).values()) == {None}
    assert _frame_flags("--short_side", "336").short_side == 336


@pytest.mark.parametrize(
    ("flags", "columns", "message"),
    [
        (
            "--max_new_tokens 5000",
            1,
            "--max_new_tokens 5000 is more than --pad_length 4096: .*give --pad_length 5000",
        ),
        ("--max_new_tokens 1366", 3, "3 captions of --max_new_tokens 1366 are more than .*; give --pad_length 4098"),
        (
            "--max_new_tokens 1 --pad_length 63",
            1,
            "--pad_length 63 is too small for the failures of 1 .*; give 64",
        ),
        (
            "--max_new_tokens 1 --pad_length 64",
            3,
            r"--pad_length 64 is too small for the failures .*; give \d+ or",
        ),
    ],
)
def test_a_record_must_have_place_for_all_captions_of_a_row(flags: str, columns: int, message: str) -> None:
    parsed = make_parser("caption", "").parse_args(["m.csv", *flags.split()])
    with pytest.raises(UsageError, match=message) as error:
        job_options(parsed, [f"text_{number}" for number in range(columns)])
    parsed.pad_length = int(re.findall(r"give (?:--pad_length )?(\d+)", str(error.value))[0])
    assert job_options(parsed, ["text"] * columns).pad_length == parsed.pad_length, "the value is enough"


def test_the_default_has_place_for_twenty_questions() -> None:
    parsed = make_parser("caption", "").parse_args(["m.csv"])
    assert job_options(parsed, [f"text_question_{number}" for number in range(20)]).pad_length == 4096
