"""Which files are opened while a folder of pictures is indexed: Python tells of each that it opens."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auxtasks.data.folders import index_folder
from auxtasks.data.sources import load_source

__all__ = ["opened_below", "opened_while_indexing"]

_watched: dict[str, list[str]] = {}
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watched or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    path = os.fsdecode(arguments[0])
    for folder, opened in _watched.items():
        if path.startswith(folder):
            opened.append(path)


@contextlib.contextmanager
def opened_below(folder: Path) -> Iterator[list[str]]:
    """Yield a list to which every file below a folder is added that this process opens."""
    if not _hooked:  # a hook stays for as long as the process lives
        sys.addaudithook(_hook)
        _hooked.append(True)
    prefix = f"{folder}{os.sep}"
    try:
        yield _watched.setdefault(prefix, [])
    finally:
        del _watched[prefix]


def opened_while_indexing(folder: Path) -> tuple[list[str], tuple[int, int], tuple[float, float]]:
    """Index a folder twice, by `index_folder` and by `load_source`.

    Returns:
        The files below it that were opened, how many pictures each found, and the seconds each took.
    """
    with opened_below(folder) as opened:
        began = time.perf_counter()
        files, _ = index_folder(folder)
        between = time.perf_counter()
        loaded = load_source(folder, columns={"image": "image", "label": "label"})
        ended = time.perf_counter()
    return opened, (len(files), len(loaded)), (between - began, ended - between)
