"""Options that would overwrite the meta table, or that can't be used, are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run.options import JobOptions, job_options, make_parser


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
