"""Text files before they are read: that they are text, in UTF-8, and which of their lines is broken."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from auxtasks.errors import DataError

__all__ = ["broken_line", "check_header", "check_text"]

_BLOCK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
# zip, bzip2, xz, zstd, lz4, 7z: how a file begins that `datasets` unpacks.
_PACKED = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"7z\xbc\xaf")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What pandas says of a second line that is longer than the first.
_LONGER = re.compile(r"Expected (\d+) fields in line 2, saw (\d+)")
_SHOWN = 60  # characters of a broken line


def check_text(place: Path) -> None:
    """Refuse a file that is empty or not UTF-8 text, naming the line and the byte.

    Decoded in blocks, some 1 GB/s; lines are counted only once there is something to tell. What is packed in another
    way than gzip is left to the reader, which unpacks it.

    Raises:
        DataError: as said.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "rows.csv"
        ...     _ = path.write_text("text,label")
        ...     check_text(path)
        ...     print(check_header(path, ","))
        ['text', 'label']
    """
    first = _first_bytes(place)
    if not first:
        raise DataError(f"{place} is empty.")
    if first.startswith(_PACKED):
        return
    if first.startswith(b"PAR1"):
        raise DataError(f"{place} is a parquet file, whatever its name says: read it with kind='parquet'.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(place) as file:
        read = 0
        while True:
            block = file.read(_BLOCK_BYTES)
            waiting = len(decoder.getstate()[0])  # the start of a character whose rest is in this block
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                position, byte = read - waiting + error.start, error.object[error.start]
                break
            if b"\0" in block:
                position, byte = read + block.index(0), 0
                break
            if not block:
                return
            read += len(block)
    raise DataError(_not_text(place, position, byte, first))


def _not_text(place: Path, position: int, byte: int, first: bytes) -> str:
    where = f"line {_line_of(place, position)} holds the byte 0x{byte:02x} (byte {position} of the file)"
    if byte == 0:
        return f"{place} is not text: {where}. It is another kind of file, or UTF-16: iconv -f utf-16 -t utf-8."
    encoding = "utf-16" if first.startswith(_UTF16) else "latin1"
    return f"{place} is not UTF-8: {where}. Convert it first, for example by iconv -f {encoding} -t utf-8."


def check_header(place: Path, separator: str) -> list[str]:
    """Return the names of a CSV file's columns.

    A row with more cells than there are columns would shift all of them by one, without an error; a column that is
    there twice would be renamed.

    Raises:
        DataError: two columns of one name, or a first row that is longer than the header.
        pandas.errors.ParserError: these rows cannot be read.
    """
    try:
        top = pd.read_csv(place, sep=separator, header=None, nrows=2, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        if found := _LONGER.search(str(error)):
            raise DataError(
                f"{place}: the header names {found[1]} columns, but the first row has {found[2]} cells. Name all "
                "columns, or put cells that hold a separator between quotes."
            ) from error
        raise
    header = [str(name) for name in top.iloc[0]]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DataError(f"{place} has more than one column {twice[0]!r}. Give each column a name of its own.")
    return [name or f"Unnamed: {place}" for place, name in enumerate(header)]  # as pandas calls it


def broken_line(place: Path) -> str:
    r"""Return which line of a JSON lines file is broken, and how; nothing where each is an object of its own.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text('{"text": "a"}\n{"text":\n')
        >>> broken_line(path)
        'line 2 (\'{"text":\') is no JSON: Expecting value at character 8'
    """
    for number, line in _lines(place):
        shown = repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            return f"line {number} ({shown}) is no JSON: {error.msg} at character {error.pos}"
        except RecursionError:
            return f"line {number} ({shown}) is nested too deeply"
        except ValueError as error:  # a number of thousands of digits
            return f"line {number} ({shown}) cannot be read: {error}"
        if not isinstance(found, dict):
            return f"line {number} ({shown}) holds no object with the columns' names, but {type(found).__name__}"
    return ""


def _lines(place: Path) -> Iterator[tuple[int, str]]:
    """Yield the number of each line that is not blank, from 1, and the line; nothing of a file that is one array."""
    if _first_bytes(place).startswith(_PACKED):
        return
    with _opened(place) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        for number, line in enumerate(text, 1):
            if number == 1 and line.lstrip().startswith("["):
                return
            if line.strip():
                yield number, line.rstrip("\r\n")


def _line_of(place: Path, position: int) -> int:
    """Return the number of the line, from 1, that holds a byte of a file."""
    line = 1
    with _opened(place) as file:
        while position > 0:
            block = file.read(min(_BLOCK_BYTES, position))
            line += block.count(b"\n")
            position -= len(block)
    return line


def _first_bytes(place: Path) -> bytes:
    with place.open("rb") as file:
        return file.read(8)


def _opened(place: Path) -> io.BufferedReader | gzip.GzipFile:
    return gzip.GzipFile(place) if _first_bytes(place).startswith(_GZIP) else place.open("rb")
