"""Folders of images: listed without opening any, in natural order, one sub-folder a class."""

from __future__ import annotations

import os
import re
from pathlib import Path

import datasets
import pyarrow as pa

from auxtasks.errors import DataError, did_you_mean

__all__ = ["IMAGE_SUFFIXES", "index_folder", "natural_key", "open_folder"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
_SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
_DIGITS = re.compile(r"([0-9]{1,18})")


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that reads numbers as numbers.

    Example:
        >>> sorted(["s10", "s2", "S1", "s1"], key=natural_key)
        ['S1', 's1', 's2', 's10']
    """
    parts = _DIGITS.split(text.casefold())
    # re.split alternates text and digits, so keys never compare a string with a number. The text itself breaks ties.
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text


def index_folder(root: Path) -> tuple[list[str], list[str | None]]:
    """List the images below a folder, without opening any.

    Hidden entries are ignored, and so are files whose suffix is not an image's. The label is the name of the first
    folder below `root`; images that lie in `root` itself have none.

    Args:
        root: the folder.

    Returns:
        Paths relative to `root` with forward slashes, folder by folder in natural order, and their labels.

    Raises:
        DataError: a link leads out of the folder, to another folder inside it, or nowhere; names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ada/10.png", "ada/2.png", "bob/1.jpg", "notes.txt"):
        ...         path = Path(folder) / name
        ...         path.parent.mkdir(exist_ok=True)
        ...         path.touch()
        ...     print(index_folder(Path(folder)))
        ...     print(open_folder(Path(folder), None).features["label"].names)
        (['ada/2.png', 'ada/10.png', 'bob/1.jpg'], ['ada', 'ada', 'bob'])
        ['ada', 'bob']
    """
    files: list[str] = []
    labels: list[str | None] = []
    real_root = root.resolve()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        folders, names = _scan(root, inside, real_root)
        files.extend(f"{inside}{name}" for name in names)
        labels.extend([inside.split("/", 1)[0] or None] * len(names))
        # Reversed, because the list is popped from its end.
        waiting.extend(f"{inside}{name}/" for name in reversed(folders))
    return files, labels


def _scan(root: Path, inside: str, real_root: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of a folder's sub-folders and image files."""
    folders: list[str] = []
    names: list[str] = []
    with os.scandir(root / inside) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                _check_link(Path(entry.path), real_root)
            if entry.is_dir():
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path costs 3 us a file
                if not entry.is_file():
                    raise DataError(f"{entry.path} is a pipe, a socket or a device, and no picture. Remove it.")
                names.append(entry.name)
    return sorted(folders, key=natural_key), sorted(names, key=natural_key)


def _check_link(link: Path, real_root: Path) -> None:
    """Refuse a link that leads out of the folder, or that would list a folder twice or for ever."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{link} is a link that leads nowhere. Remove it, or restore what it names.") from error
    if not target.is_relative_to(real_root):
        raise DataError(f"{link} is a link that leads out of {real_root}, to {target}. Copy the file in its place.")
    if target.is_dir():
        raise DataError(f"{link} is a link to the folder {target}: its images would count twice. Remove the link.")


def _not_text(start: str, files: list[str]) -> str:
    """Name the path whose bytes are no UTF-8, which Python spells with surrogates."""
    path = next(path for path in (start + file for file in files) if not _is_text(path))
    return f"the name {os.fsencode(path)!r} is not UTF-8. Rename it: pictures are kept by their names."


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_folder(root: Path, split: str | None) -> datasets.Dataset:
    """Index a folder of images as a table of paths."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; kind='folder' expects a folder of images.")
    if split is not None:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if split not in names:
            found = ", ".join(names[:10]) or "none"
            raise DataError(f"{root} has no sub-folder {split!r}; found {found}.{did_you_mean(split, names)}")
        root = root / split
    files, labels = index_folder(root)
    if not files:
        raise DataError(f"{root} holds no image; looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    names = sorted({label for label in labels if label is not None}, key=natural_key)
    if names and _SPLIT_FOLDERS.issuperset(name.lower() for name in names):
        raise DataError(f"{root} holds the folders {', '.join(names)}, which look like splits; say which (split=...).")
    start = f"{root.absolute()}{os.sep}"
    try:
        paths = pa.array([start + file for file in files], pa.string())
    except UnicodeEncodeError as error:
        raise DataError(_not_text(start, files)) from error
    features = {"image": datasets.Image(decode=False), "file": datasets.Value("string")}
    arrays = [
        pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), paths], ["bytes", "path"]),
        pa.array(files),
    ]
    if names:
        features["label"] = datasets.ClassLabel(names=names)
        codes = {name: code for code, name in enumerate(names)}
        arrays.append(pa.array([None if label is None else codes[label] for label in labels], pa.int64()))
    table = pa.table(arrays, names=list(features))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(features)))
