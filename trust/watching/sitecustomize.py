"""Writes down every change that a Python process, and each that it starts, makes on the disk.

Python imports a module of this name before anything else, in each process that has its folder on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

# Where the arguments of an event of `sys.addaudithook` name paths, each with the place of its folder's descriptor.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "sqlite3.connect": ((0, None),),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def place_of(path: Any, folder: Any) -> str | None:
    """Return a path from the root on; None of what is no path but an open file."""
    if isinstance(path, int):
        return None
    found = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(found):  # noqa: PTH117 - pathlib is not loaded yet
        found = f"{os.readlink(f'/proc/self/fd/{folder}')}/{found}"  # noqa: PTH115
    return os.path.abspath(found)  # noqa: PTH100


def changed(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return the paths that an event changes."""
    if event == "open":
        path, mode, flags = arguments
        writes = bool((flags or 0) & WRITES) or any(letter in (mode or "") for letter in "wax+")
        places = [place_of(path, None)] if writes else []
    else:
        places = [
            place_of(arguments[path], None if folder is None else arguments[folder])
            for path, folder in CHANGES.get(event, ())
        ]
    return [place for place in places if place is not None]


def watch(log: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return a hook that appends a line to a log for each change, and for each program that is started."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        places = changed(event, arguments)
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
            places = [os.fsdecode(arguments[0] or "")]
        for place in places:
            os.write(handle, json.dumps([event, place]).encode() + b"\n")

    return hook


if "TRUST_WRITES_LOG" in os.environ:
    sys.addaudithook(watch(os.environ["TRUST_WRITES_LOG"]))
