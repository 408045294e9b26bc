"""A corpus of texts opened as a stream: files or a Hub data set, read from start to end and never copied."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import datasets

from auxtasks.data.opening import files_by_split, quiet_unless_terminal
from auxtasks.data.stream_rows import first_row
from auxtasks.errors import ColumnError, DataError, did_you_mean

__all__ = ["StreamKind", "open_stream"]

StreamKind: TypeAlias = Literal["auto", "parquet", "json", "text", "hub"]

_SUFFIXES: Mapping[StreamKind, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "json": (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz"),
    "text": (".txt", ".txt.gz"),
}


def open_stream(
    path: str | os.PathLike[str],
    *,
    kind: StreamKind = "auto",
    column: str = "text",
    split: str | None = None,
    config: str | None = None,
) -> datasets.IterableDataset:
    """Open a corpus that does not fit a disk, or is not worth a copy on it; nothing but its first row is read.

    Args:
        path: a parquet, JSON lines or text file (a text a line; blank ones are left out), a folder with files of one of
            these kinds, or a Hub name, ``"owner/name"``. A file is a shard: several processes need at least as many.
        kind: what `path` is; ``"auto"`` looks.
        column: which column holds the texts.
        split: of a Hub data set, or of a folder, by the names of its files or their folders.
        config: which configuration of a Hub data set.

    Returns:
        A stream with the one column ``text``.

    Raises:
        ColumnError: the column is missing, or holds no strings.
        DataError: the source is not there, holds no rows, cannot be read, or is of a kind that does not stream.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "corpus.txt"
        >>> _ = path.write_text("A cat sleeps.\\n\\nThe dog barks.\\n", encoding="utf-8")
        >>> [row["text"] for row in open_stream(path)]
        ['A cat sleeps.', 'The dog barks.']
    """
    name = os.fspath(path)
    place = Path(name)
    if name.startswith("builtin:"):
        raise DataError(f"{name} does not stream: it fits into memory. Use load_source.")
    if kind == "hub" or (kind == "auto" and _may_be_on_the_hub(place)):
        stream = _open_hub(name, split, config)
    else:
        found, files = _files(place, kind, split)
        # The mark that some editors start a file with is no text.
        encoding = {"encoding": "utf-8-sig"} if found == "text" else {}
        stream = _load(found, str(place), data_files=files, split="train", **encoding)
        stream = stream.filter(_is_filled) if found == "text" else stream
    row = first_row(stream)
    if column not in row:
        raise ColumnError(f"{name} has no column {column!r}; it has {', '.join(row)}.{did_you_mean(column, row)}")
    if not isinstance(row[column], str | None):
        raise ColumnError(f"the column {column!r} of {name} holds {type(row[column]).__name__}; expected strings.")
    stream = stream.select_columns([column])
    return stream if column == "text" else stream.rename_column(column, "text")


def _may_be_on_the_hub(place: Path) -> bool:
    """Whether a path is no file, does not look like one, and has the form of a Hub name.

    Example:
        >>> _may_be_on_the_hub(Path("owner/name-1.5")), _may_be_on_the_hub(Path("texts/gone.txt"))
        (True, False)
    """
    known = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
    looks_like_a_file = place.exists() or place.name.lower().endswith(known)
    return not looks_like_a_file and len(place.parts) == 2 and place.parts[0] not in ("/", "..")


def _files(place: Path, kind: StreamKind, split: str | None) -> tuple[StreamKind, list[str]]:
    """Return what kind of files there is, and their paths in order."""
    if not place.exists():
        raise DataError(f"{str(place)!r} is not there: no such file or folder (looked in {place.absolute().parent}).")
    inside = _of_split(place, split) if place.is_dir() else [place]
    kinds: list[StreamKind] = [kind] if kind != "auto" else list(_SUFFIXES)
    by_kind = {name: [str(path) for path in inside if path.name.lower().endswith(_SUFFIXES[name])] for name in kinds}
    if kind != "auto" and place.is_file():
        by_kind = {kind: [str(place)]}
    found = [name for name, files in by_kind.items() if files]
    if "parquet" in found:
        found = ["parquet"]  # the text files beside it say where it is from
    if len(found) != 1:
        raise DataError(
            f"{place} holds {'files of the kinds ' + ', '.join(found) if found else 'nothing that streams'}; expected "
            "parquet, JSON lines or text files of one kind. Pictures and CSV do not stream: use load_source."
        )
    return found[0], by_kind[found[0]]


def _of_split(place: Path, split: str | None) -> list[Path]:
    """List the files below a folder, of one split where files or folders are named by it."""
    paths = sorted(path for path in place.rglob("[!.]*") if path.is_file())
    if split is None:
        return paths
    splits = files_by_split(paths, place)
    if split not in splits:
        raise DataError(f"{place} has no split {split!r}; it has {', '.join(splits)}.{did_you_mean(split, splits)}")
    return [Path(path) for path in splits[split]]


def _open_hub(name: str, split: str | None, config: str | None) -> datasets.IterableDataset:
    loaded = _load(name, f"{name}, which is no local file or folder,", name=config, split=split)
    if not isinstance(loaded, datasets.IterableDatasetDict):
        return loaded
    if len(loaded) > 1:
        raise DataError(f"{name} has the splits {', '.join(loaded)}; say which one (split=...).")
    return next(iter(loaded.values()))


def _load(what: str, place: str, **arguments: Any) -> Any:
    try:
        with quiet_unless_terminal():
            return datasets.load_dataset(what, streaming=True, **arguments)
    except Exception as error:  # the Hub's libraries, Arrow and pandas raise too many types to name
        raise DataError(f"{place} cannot be opened as a stream: {type(error).__name__}: {error}") from error


def _is_filled(row: Mapping[str, Any]) -> bool:
    return bool(row["text"].strip())
