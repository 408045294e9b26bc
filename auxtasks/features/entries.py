"""What a folder of kept outputs holds: entries that are whole, unfinished or left over, when each was used, and room.

An entry is a folder ``KEY/`` with an array a file and ``manifest.json``, which says what it is and whose time of
modification is when it was last used. While it is computed it is ``.KEY.unfinished/``, and ``.KEY.lock`` is held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from auxtasks import checkpoint
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features.locks import seize, try_exclusive

__all__ = [
    "Entry",
    "could_hold",
    "entries",
    "lock_of",
    "make_room",
    "mark_used",
    "remove",
    "remove_folder",
    "too_large",
    "unfinished_of",
]

MANIFEST = "manifest.json"
PROGRESS = "progress.json"

_KEY = re.compile(r"[0-9a-f]{32}")
_HIDDEN = re.compile(r"\.[^.]+(\.unfinished)?(\.removed-\d+-\d+)?")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Outputs that are kept.

    Attributes:
        key: the hash under which they are kept.
        place: their folder.
        state: ``"unfinished"`` goes on when it is asked for again; ``"left over"`` is what a removal that was
            interrupted left.
        bytes: that it takes, or has reserved.
        used: seconds since 1970 when it was last read or written.
        about: what it is, as its manifest says; nothing where that cannot be read.
    """

    key: str
    place: Path
    state: Literal["whole", "unfinished", "left over"]
    bytes: int
    used: float
    about: Mapping[str, Any]


def unfinished_of(place: Path) -> Path:
    """Return where an entry is while it is computed."""
    return place.with_name(f".{place.name}.unfinished")


def lock_of(place: Path) -> Path:
    """Return the lock that who computes an entry holds."""
    return place.with_name(f".{place.name}.lock")


def entries(folder: Path) -> list[Entry]:
    """Return what a folder holds, the least recently used first.

    Example:
        >>> entries(Path("not there"))
        []
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for place in folder.iterdir():
            # Another process may remove it while it is looked at.
            with contextlib.suppress(FileNotFoundError):
                if place.is_dir() and _is_ours(place):
                    found.append(_entry(place))
    return sorted(found, key=lambda entry: (entry.used, entry.key))


def _is_ours(place: Path) -> bool:
    """Whether a folder is an entry: what somebody else keeps beside them is neither counted nor removed."""
    if place.name.startswith("."):
        return "." in place.name[1:] and _HIDDEN.fullmatch(place.name) is not None
    if _KEY.fullmatch(place.name):
        return True
    names = {path.name for path in place.iterdir()}
    return MANIFEST in names and all(name == MANIFEST or name.endswith(".npy") for name in names)


def _entry(place: Path) -> Entry:
    key = place.name.lstrip(".").partition(".")[0]
    hidden = place.name.startswith(".")
    is_unfinished = hidden and place.name.endswith(".unfinished")
    record = place / (PROGRESS if hidden else MANIFEST)
    about: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):
        found = checkpoint.read_object(record).get("about")
        about = found if isinstance(found, dict) else {}
    return Entry(
        key=key,
        place=place,
        state="unfinished" if is_unfinished else "left over" if hidden else "whole",
        bytes=sum(_size(path) for path in place.iterdir()),
        used=(record if record.is_file() else place).stat().st_mtime,
        about=about,
    )


def _size(file: Path) -> int:
    """Return a file's bytes; 0 if it went meanwhile, as do those that progress is written to before it is renamed."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def mark_used(place: Path) -> None:
    """Write down that an entry was used now."""
    with contextlib.suppress(OSError):  # a folder that others share may not be ours to write
        os.utime(place / MANIFEST)


def remove(entry: Entry) -> bool:
    """Remove an entry, if no process reads or computes it; says whether it is gone.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "0123456789abcdef0123456789abcdef"
        ...     place.mkdir()
        ...     print([remove(entry) for entry in entries(Path(folder))], entries(Path(folder)))
        [True] []
    """
    if entry.state == "left over":
        shutil.rmtree(entry.place, ignore_errors=True)
        return True
    if entry.state == "unfinished":
        with try_exclusive(lock_of(entry.place.with_name(entry.key))) as is_free:
            return is_free and remove_folder(entry.place)
    with seize(entry.place / MANIFEST) as is_free:
        return is_free and remove_folder(entry.place)


def remove_folder(place: Path) -> bool:
    """Rename and remove a folder, so that nobody finds one that is half gone; says whether it is gone."""
    aside = place.with_name(f".{place.name.lstrip('.')}.removed-{os.getpid()}-{time.monotonic_ns()}")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def make_room(folder: Path, needed: int, limit: int, what: str, *, spare: Collection[str] = ()) -> None:
    """Remove the least recently used entries until there is room, none that is in use.

    Args:
        folder: of the entries.
        needed: bytes.
        limit: bytes that all entries may take together.
        what: needs the room, for messages.
        spare: keys that stay.

    Raises:
        DataError: there would be too little room all the same, and then nothing is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_room(Path(folder), needed=1000, limit=10_000, what="outputs of stage1")  # an empty folder has room
        ...     place = Path(folder) / "0123456789abcdef0123456789abcdef"
        ...     print(unfinished_of(place).name == f".{place.name}.unfinished", lock_of(place).parent == Path(folder))
        ...     place.mkdir()
        ...     mark_used(place)
        ...     print(len(entries(Path(folder))), could_hold(Path(folder), 1000), remove_folder(place))
        True True
        1 True True
    """
    held = entries(folder)
    evictable = [entry for entry in held if entry.key not in spare and _is_free(entry)]
    total = sum(entry.bytes for entry in held)
    free = shutil.disk_usage(_existing_parent(folder)).free
    gain = sum(entry.bytes for entry in evictable)
    allowed = max(0, min(limit - (total - gain), free + gain))
    if needed > allowed:
        raise DataError(too_large(what, needed, allowed))
    for entry in evictable:
        if total + needed <= limit and needed <= free:
            return
        if remove(entry):
            total -= entry.bytes
            free += entry.bytes


def could_hold(folder: Path, needed: int) -> bool:
    """Whether the disk would have so many bytes, were all entries of a folder removed."""
    free = shutil.disk_usage(_existing_parent(folder)).free
    return needed <= free + sum(entry.bytes for entry in entries(folder))


def too_large(what: str, needed: int, allowed: int) -> str:
    """Return the message that something does not fit.

    Example:
        >>> too_large("outputs of stage1", needed=3_000_000_000, allowed=1_000_000_000).partition(";")[0]
        'outputs of stage1 would take 3,000 MB'
    """
    return (
        f"{what} would take {needed / 1e6:,.0f} MB; {allowed / 1e6:,.0f} MB are allowed or free. Ask for fewer "
        'layers or items, pool layers ("mean" instead of "flatten"), keep them in half the bytes '
        '(dtype="bfloat16"), free the disk, or raise the limit.'
    )


def _is_free(entry: Entry) -> bool:
    """Whether no process reads or computes an entry now."""
    if entry.state == "left over":
        return True
    if entry.state == "unfinished":
        with try_exclusive(lock_of(entry.place.with_name(entry.key))) as is_free:
            return is_free
    with seize(entry.place / MANIFEST) as is_free:
        return is_free


def _existing_parent(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing_parent(folder.absolute().parent)
