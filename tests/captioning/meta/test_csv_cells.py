"""CSV tables keep their cells and style. For a file that can't be read, the error names the place and the fix."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.meta.csv_cells import open_bytes, read_csv_cells, read_csv_rows
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError

TABLE = 'path,note\na.mp4,"two\nlines"\nb.mp4,"x\r\ny"\nü.mp4,"z\rz"\n'


def _written(tmp_path: Path, data: bytes, name: str = "out.csv", source: str = "meta.csv") -> bytes:
    (tmp_path / source).write_bytes(data)
    table = MetaTable.read(tmp_path / source)
    table.write(tmp_path / name, {"text": ["c"] * len(table.paths)})
    return (tmp_path / name).read_bytes()


@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8], ids=["plain", "bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("cell", ["1", '"two\nlines"', '"two\r\nlines"', '"two\rlines"', '"a, ""b"""'])
def test_byte_order_mark_and_line_ends_are_kept(tmp_path: Path, bom: bytes, end: str, cell: str) -> None:
    written = _written(tmp_path, bom + f"path,note{end}a.mp4,{cell}{end}".encode())
    expected = bom + f"path,note,text{end}a.mp4,{cell},c{end}".encode()
    # If a cell contains another line end than the table's, readers need quotes around every cell.
    quoted = bom + f'"path","note","text"{end}"a.mp4",{cell},"c"{end}'.encode()
    assert written in (expected, quoted)
    assert (written == quoted) == (written != expected)


def test_all_rows_get_the_line_end_of_the_header(tmp_path: Path) -> None:
    assert _written(tmp_path, b"path\r\na.mp4\nb.mp4\n") == b"path,text\r\na.mp4,c\r\nb.mp4,c\r\n"
    assert _written(tmp_path, b'path,"a\r\nb"\na.mp4,1\n') == b'"path","a\r\nb","text"\n"a.mp4","1","c"\n'


def test_gzip_tables_are_read_and_written(tmp_path: Path) -> None:
    data = gzip.compress(codecs.BOM_UTF8 + TABLE.encode())
    written = _written(tmp_path, data, "out.csv.gz", "meta.csv.gz")
    text = gzip.decompress(written).decode("utf-8-sig")
    assert [row[-1] for row in csv.reader(text.splitlines(keepends=True))] == ["text", "c", "c", "c"]
    assert MetaTable.read(tmp_path / "meta.csv.gz").is_same_but_for(["text"], MetaTable.read(tmp_path / "out.csv.gz"))
    assert written[4:8] == bytes(4) and not written[3], "the gzip header must have neither a time nor a name"
    again = _written(tmp_path, data, "another.csv.gz", "meta.csv.gz")
    assert again == written
    plain = _written(tmp_path, data, "out.csv", "meta.csv.gz")
    assert plain == gzip.decompress(written)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv", b"path,n\na.mp4,1\n\nb.mp4,two \0 words\n", r"row 1 \(line 4\), column 'n' holds a NUL byte; remove"),
        ("m.csv", b'path,n\n"a\nb",1\n\0.mp4,2\n', r"row 1 \(line 4\), column 'path' holds a NUL"),
        ("m.csv", b"path,n\r\n" + b"a,b\r\n" * 10 + b'"x\r\ny",z\0', r"row 10 \(line 12\), column 'n'"),
        ("m.csv", b"path,n\na," + b"x" * 500_000 + b"\nb,\0\n", r"row 1 \(line 3\), column 'n'"),
        ("m.csv", "path,n\na,1\n".encode("utf-16"), "is UTF-16; convert it: iconv"),
        ("m.csv", "path,n\na,1\n".encode("utf-16-le"), "the header holds a NUL byte; is it UTF-16"),
        ("m.csv", "path,n\na,1\nb,für\n".encode("latin-1"), r"line 3 is not UTF-8 \(byte 0xfc\).*iconv"),
        ("m.csv", b'path,n\na,"1\n2"\nb,2,3\n', r"row 1 \(line 4\) has 3 cells, but the header has 2"),
        ("m.csv", b'path,n\na,1\nb,"2\nc,3\nd,4\n', r"a quote opens in row 1 \(line 3\) and is never closed"),
        ("m.csv", b"path;text;n\na;b,c;1\n", "separated by semicolons, not by commas; convert it: python"),
        ("m.csv", b"id\tpath\n1\ta,b\n", "separated by tabs"),
        ("m.csv", b"\xef\xbb\xbfPath|n\n1|a\n", "separated by vertical bars"),
        ("m.csv", b'{"path": "a.mp4", "n": 1}\n', r"it is JSON; convert it: python .*lines=True"),
        ("m.csv", b'[\n {"path": "a.mp4"}]\n', "it is JSON"),
        ("m.csv", gzip.compress(b"path\na\n"), r"compressed with gzip; rename it so that it ends in .csv.gz"),
        ("m.csv", b"PAR1....", "it is Parquet; rename"),
        ("m.csv", b"PK\x03\x04....", "spreadsheet; save it as CSV"),
        ("m.csv.gz", b"path\na\n", "can't be read as gzip"),
        ("m.csv.gz", gzip.compress(TABLE.encode())[:-9], "can't be read as gzip"),
        ("m.csv.gz", gzip.compress(b"path,n\na,\0\n"), r"row 0 \(line 2\), column 'n' holds a NUL"),
        ("m.csv.gz", gzip.compress(b""), "is empty"),
        ("m.csv", b"", "is empty"),
        ("m.csv", b"\n\n", "is empty"),
        ("m.csv", b" path,n\na,1\n", "no 'path' column; its columns: ' path', 'n'; rename ' path' to 'path'"),
        ("m.csv", b"PATH,n\na,1\n", "rename 'PATH' to 'path'"),
        ("m.csv", b"name,text\na,1\n", "no 'path' column; its columns: 'name', 'text'$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_for_an_unreadable_table_names_place_and_fix(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message) as error:
        MetaTable.read(tmp_path / name)
    if "'path' column" not in str(error.value):
        with pytest.raises(UsageError, match=re.escape(str(error.value))):
            list(read_csv_rows(tmp_path / name))


def test_the_conversions_in_messages_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (b"n;path\n007;a,b.mp4\n;c.mp4\n", b"n\tpath\n007\ta,b.mp4\n\tc.mp4\n",
                 b'{"n": "007", "path": "a,b.mp4"}\n{"n": "", "path": "c.mp4"}\n'):  # fmt: skip
        (tmp_path / "m.csv").write_bytes(data)
        with pytest.raises(UsageError) as caught:
            MetaTable.read(Path("m.csv"))
        exec(str(caught.value).split('python -c "')[1].rstrip('"'))
        table = MetaTable.read(Path("converted.csv"))
        assert table.paths == ["a,b.mp4", "c.mp4"] and table.other_cells([0, 1]) == [["007"], [""]]


def test_a_nul_character_in_a_caption_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    MetaTable.read(tmp_path / "m.csv").write(tmp_path / "out.csv", {"text": ["a\0b"]})
    assert MetaTable.read(tmp_path / "out.csv").texts() == ["a\ufffdb"]


def test_unusual_tables_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path,n,n\na.mp4,1\n" + b"b.mp4," + b"x" * 200_000 + b",2\n")
    table = MetaTable.read(tmp_path / "m.csv")
    assert table.other_cells([0, 1]) == [["1", ""], ["x" * 200_000, "2"]]
    assert _written(tmp_path, b"path,n\n") == b"path,n,text\n"
    assert _written(tmp_path, b"path,n\na;b.mp4,{}\n") == b"path,n,text\na;b.mp4,{},c\n"


def test_rows_may_end_with_carriage_returns(tmp_path: Path) -> None:
    """pandas would misread spaces and quotes after them."""
    (tmp_path / "m.csv").write_bytes(b'path,n\r a.mp4,1\r"b.mp4"\r')
    table = MetaTable.read(tmp_path / "m.csv")
    assert (table.paths, table.other_cells([0, 1])) == ([" a.mp4", "b.mp4"], [["1"], [""]])
    for cells, message in ((b"a,1,2\r", "row 0 .* has 3 cells"), (b"\xff,1\r", "is not UTF-8")):
        (tmp_path / "m.csv").write_bytes(b"path,n\r" + cells)
        with pytest.raises(UsageError, match=message):
            MetaTable.read(tmp_path / "m.csv")


CELLS = st.text(st.sampled_from("a,\"'\r\n ;\té日\ufeff\\#NA"), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=5),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.sampled_from(["", "\ufeff"]),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_any_cells_are_kept(rows: list[tuple[str, str]], line_end: str, bom: str, suffix: str) -> None:
    with TemporaryDirectory() as name:
        source, output = Path(name) / "m.csv", Path(name) / f"out{suffix}"
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows([("path", "n"), *rows])
        source.write_bytes((bom + buffer.getvalue()).encode())
        table = MetaTable.read(source)
        table.write(output, {"text": ["" if row else "c" for row in range(len(rows))]})
        with open_bytes(output) as file:
            text = file.read().decode()
        found = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
        assert text.startswith(bom) and text.endswith(line_end)
        assert found == [["path", "n", "text"], *([*row, "" if i else "c"] for i, row in enumerate(rows))]
        assert table.is_same_but_for(["text"], MetaTable.read(output))
        assert list(read_csv_rows(source)) == read_csv_cells(source).to_numpy().tolist()
