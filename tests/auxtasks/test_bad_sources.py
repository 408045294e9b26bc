"""Files and names that hold no data: what is wrong with each is told, by file, line and what to do."""

import gzip
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auxtasks.data import load_source
from auxtasks.errors import ColumnError, DataError

ROLES = {"text": "text", "label": "label"}
ROW = '{"text": "a", "label": "b"}\n'


def not_utf8_string():
    """A column of strings whose only byte is no UTF-8, as a damaged file holds it."""
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff"))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        # CSV
        ("x.csv", "text,label\na,b\nc,d,e\n", DataError, r"x\.csv cannot be read as csv: .*2 fields in line 3"),
        ("x.csv", "text,label\nq,a,b\nr,c,d\n", DataError, r"header names 2 columns, but the first row has 3"),
        ("x.csv", "text,label\na,b\nc\n", DataError, r"row 1 has no label in the column 'label'.*Fill them in"),
        ("x.csv", 'text,label\n"a,b\nc,d\n', DataError, r"cannot be read as csv: .*EOF inside string"),
        ("x.csv", "text,label,label\na,b,c\n", DataError, r"more than one column 'label'\. Give each column a name"),
        ("x.csv", "text,label\na\0,b\n", DataError, r"not text: line 2 holds the byte 0x00 \(byte 12 of the file\)"),
        ("x.csv", "text,label\n", DataError, r"x\.csv has no rows"),
        ("x.csv", "\n\n\n", DataError, r"x\.csv has no rows"),
        ("x.csv", "", DataError, r"x\.csv is empty"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), DataError, r"not UTF-8: line 1 .*iconv -f utf-16 -t utf-8"),
        ("x.csv", "text,label\n\xe4,b\n".encode("latin-1"), DataError, r"not UTF-8: line 2 holds .*0xe4.*latin1"),
        ("x.csv", "text;label\na;b\n", ColumnError, r"has no column 'text', .*it has 'text;label'"),
        ("x.csv", "txt,label\na,b\n", ColumnError, r"no column 'text'.*it has 'txt' .*Did you mean \"txt\"\?"),
        ("x.csv.gz", gzip.compress(b"text,label\n" + random.Random(0).randbytes(999).hex().encode())[:500], DataError,
         r"cannot be read as csv: Compressed file ended"),
        ("x.csv", b"PK\x03\x04 and then nothing", DataError, r"cannot be read as csv: File is not a zip file"),
        ("x.csv", b"PAR1....PAR1", DataError, r"is a parquet file, .*kind='parquet'"),
        # JSON lines
        ("x.jsonl", ROW * 6 + '{"text": "a", "label"\n' + ROW, DataError,
         r"line 7 \('\{\"text\": \"a\", \"label\"'\) is no JSON: Expecting ':' delimiter at character 21"),
        ("x.jsonl", (ROW * 6)[:-5], DataError, r"line 6 .* is no JSON"),
        ("x.jsonl", ROW + '{"text": "a", "label": NaN}\n', ColumnError, r"'label', .*holds values of several types"),
        ("x.jsonl", ROW + '{"text": 5, "label": "b"}\n', ColumnError, r"'text', .*holds values of several types"),
        ("x.jsonl", "3\n", DataError, r"line 1 \('3'\) holds no object with the columns' names, but int"),
        ("x.jsonl", '{"text": {"a": 1}, "label": "b"}\n', ColumnError, r"holds struct of a; expected strings"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{"txt": "b"}\n', DataError, r"row 1 has no text"),
        ("x.jsonl", '{"text": ' + "[" * 2000 + "]" * 2000 + "}\n", DataError, r"line 1 .* is nested too deeply"),
        ("x.jsonl", ROW.encode("utf-16"), DataError, r"not UTF-8: line 1 .*iconv -f utf-16"),
        ("x.jsonl", '{"text": "a", "text": "c", "label": "b"}\n', DataError, r"/text\) was specified twice"),
        ("x.jsonl", '{"text": "a", "label": null}\n', DataError, r"row 0 has no label in the column 'label'"),
        ("x.jsonl", '{"text": "a", "label": 1' + "0" * 40 + "}\n", ColumnError, r"beyond 64 bits, such as 1e\+40"),
        ("x.jsonl", '{"text": "\\ud800", "label": "b"}\n', DataError, r"surrogate pair in string is invalid"),
        ("x.jsonl", '{"text": "a\0", "label": "b"}\n', DataError, r"not text: line 1 holds the byte 0x00"),
        ("x.jsonl", "\n\n", DataError, r"has no rows"),
        ("x.json", "[]", DataError, r"has no rows"),
        # text
        ("x.txt", "\n \n\n", DataError, r"has no rows"),
        ("x.txt", "a b\n".encode("utf-16-le"), DataError, r"not text: line 1 holds the byte 0x00 .*iconv -f utf-16"),
        ("x.txt", bytes(range(128)) * 9, DataError, r"not text: .*another kind of file"),
        # parquet
        ("x.parquet", b"", DataError, r"x\.parquet cannot be read as parquet: Parquet file size is 0 bytes"),
        ("x.parquet", b"text,label\na,b\n", DataError, r"cannot be read as parquet: Parquet magic bytes not found"),
        # svmlight
        ("x.svm", "1 qid:1 1000000000:1\n0 qid:1 1:2\n", DataError, r"2 rows of 1,000,000,000 features .* 8 GB"),
        ("x.svm", "1 qid:1 1:1\n1 qid:1 3000000000:1\n", DataError, r"line 2 \('1 qid:1 3.*'\): value too large"),
        ("x.svm", "1 qid:1 -4:1\n", DataError, r"line 1 .*Invalid index -4"),
        ("x.svm", "1 qid:9" + "9" * 30 + " 1:1\n", DataError, r"line 1 .*too large"),
        ("x.svm", "1 qid:1 1:1\nhello\n", DataError, r"line 2 \('hello'\)"),
        ("x.svm", "1 qid:1 1:1 1:2\n", DataError, r"line 1 .*sorted and unique"),
        ("x.svm", "# nothing but a comment\n", DataError, r"has no features"),
        # of no known kind
        ("x.xyz", "a", DataError, r"ends in \.xyz; expected a folder or one of \.csv"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_table_is_told_by_what_is_wrong(tmp_path, name, content, error, message):
    place = tmp_path / name
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns = {".svm": {"qid": "qid"}, ".txt": {"text": "text"}}.get(place.suffix, ROLES)
    with pytest.raises(error, match=message) as raised:
        load_source(place, columns=columns, cache_dir=tmp_path / "cache")
    assert str(place) in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}, DataError, r"has no rows"),
        ({"text": [1, 2], "label": ["x", "y"]}, ColumnError, r"declared as text, holds int64; expected strings"),
        ({"text": [b"a"], "label": ["x"]}, ColumnError, r"declared as text, holds binary"),
        ({"text": ["a"], "label": [[1]]}, ColumnError, r"declared as label, holds List"),
        ({"text": ["a", "b"], "label": [float("inf"), 1.0]}, ColumnError, r"beyond 64 bits, such as 1\.0, inf"),
        ({"text": ["a", "b"], "label": [0.5, 1.0]}, ColumnError, r"numbers with a fraction, such as 0\.5"),
        ({"text": ["a", None], "label": ["x", "y"]}, DataError, r"row 1 has no text in the column 'text'"),
        (
            {"text": not_utf8_string(), "label": ["x"]},
            DataError,
            r"the column 'text' is damaged: .*UTF8 sequence at string index 0",
        ),
        ({"txt": ["a"], "label": ["x"]}, ColumnError, r"Did you mean \"txt\"\?"),
    ],
)
def test_a_parquet_file_of_another_schema_is_told(tmp_path, columns, error, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(error, match=message):
        load_source(tmp_path / "x.parquet", columns=ROLES, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_parquet_file_cut_short_is_told(tmp_path, kept):
    pq.write_table(pa.table({"text": ["a"] * 100, "label": ["x"] * 100}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as parquet"):
        load_source(tmp_path / "x.parquet", columns=ROLES, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("", {}, r"the path is empty: expected a file, a folder, a Hub name or builtin:NAME"),
        ("a" * 300 + ".csv", {}, r"is no path that can be read: File name too long"),
        ("a\0b.csv", {}, r"is not there: no such file or folder"),
        (".hidden", {}, r"'\.hidden' is not there"),
        ("../x", {}, r"'\.\./x' is not there"),
        ("owner/../x", {}, r"is not there"),
        ("builtin:digts", {}, r"no built-in data set 'digts'.*Did you mean \"digits\"\?"),
        ("builtin:../x", {}, r"no built-in data set '\.\./x'"),
        ("owner/name.csv", {"kind": "xml"}, r"kind is one of auto, folder, .*; found 'xml'"),
        ("builtin:digits", {"split": "train"}, r"has no splits"),
        ("builtin:digits", {"options": {"splt": "train"}}, r"no option 'splt'.*Did you mean \"split\"\?"),
        ("builtin:digits", {"options": {"split": 3}}, r"split must be str, found 3"),
        ("builtin:digits", {"options": {"split": "tran"}}, r"no split 'tran'.*Did you mean \"train\"\?"),
        ("builtin:drawn_faces", {"options": {"people": 10**9}}, r"at most 10,000,000 photos .*found people=1000000000"),
        ("builtin:drawn_faces", {"options": {"people": 0}}, r"people must be at least 1, found 0"),
        ("builtin:drawn_faces", {"options": {"people": True}}, r"people must be int, found True"),
        ("builtin:drawn_faces", {"options": {"size": 10**6}}, r"of 1024 x 1024 pixels are drawn; .*size=1000000"),
        ("builtin:drawn_faces", {"options": {"first_person": 10**30}}, r"first_person=1000000000000000000000000000000"),
        ("builtin:sentences", {"options": {"packages": "../x"}}, r"no package '\.\./x'"),
        ("builtin:sentences", {"options": {"limit": -1}}, r"limit must be 0, for all, or more, found -1"),
        ("builtin:features", {"options": {"name": "../iris"}}, r"no table '\.\./iris'.*Did you mean \"iris\"\?"),
        ("builtin:severity", {"options": {"split": ""}}, r"no split ''"),
    ],
)
def test_a_name_that_names_no_data_is_told(name, arguments, message):
    with pytest.raises(DataError, match=message):
        load_source(name, columns={"text": "text"}, required=[], **arguments)


@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.jsonl", "x.parquet", "x.svm"])
@pytest.mark.parametrize("what", ["pipe", "device", "link to nothing", "link in a circle", "folder"])
def test_what_is_no_file_is_never_waited_for(tmp_path, name, what):
    place = tmp_path / name
    match what:
        case "pipe":
            os.mkfifo(place)
        case "device":
            place.symlink_to("/dev/zero")
        case "link to nothing":
            place.symlink_to("gone")
        case "link in a circle":
            place.symlink_to(name)
        case "folder":
            place.mkdir()
    expected = {
        "pipe": "is a pipe, a socket or a device, which may never end", "device": "which may never end",
        "link to nothing": "is not there", "link in a circle": "Too many levels of symbolic links",
        "folder": "holds no image",
    }  # fmt: skip
    with pytest.raises(DataError, match=expected[what]):
        load_source(place, columns={"text": "text"}, required=[])


def test_nothing_is_left_of_a_file_that_cannot_be_read(tmp_path):
    Path(tmp_path / "x.jsonl").write_text(ROW * 6 + "{\n")
    with pytest.raises(DataError, match="line 7"):
        load_source(tmp_path / "x.jsonl", columns=ROLES, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    Path(tmp_path / "x.jsonl").write_text(ROW * 6)  # mended: not taken for the broken one
    assert len(load_source(tmp_path / "x.jsonl", columns=ROLES, cache_dir=tmp_path / "cache")) == 6
