"""One run at a time on a folder; the kernel lets go of the lock when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from auxtasks.errors import CheckpointError

__all__ = ["LOCK", "only_run"]

logger = logging.getLogger("auxtasks")

LOCK = ".lock"  # in the folder, while a run is on it
_held: set[int] = set()


@contextlib.contextmanager
def only_run(folder: Path, *, of: Path | None = None) -> Iterator[None]:
    """Keep every other run off a folder. Its lock file says who is on it, and goes with the block.

    Args:
        folder: is made if it is not there.
        of: the folder to name in messages, where that is another one.

    Raises:
        CheckpointError: another run is on it, and which; the folder cannot be written.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with only_run(place):  # doctest: +ELLIPSIS
        ...     with only_run(place):
        ...         pass
        Traceback (most recent call last):
        auxtasks.errors.CheckpointError: ... is in use by another run: process ... on ..., since ...
    """
    path, made = folder / LOCK, not folder.exists()
    handle = _acquire(path, of or folder)
    _held.add(handle)
    try:
        yield
    finally:
        if handle in _held:  # not in a process that was forked off meanwhile
            _held.discard(handle)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # a run that was refused leaves nothing


def _acquire(path: Path, folder: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CheckpointError(
                f"could not write {path}: {error.strerror or error}. A run needs an output folder that it can write: "
                "make this one writable, or choose another."
            ) from error
        try:
            if _lock(handle, path, folder):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # who held it has ended meanwhile, and removed the file


def _lock(handle: int, path: Path, folder: Path) -> bool:
    """Lock a file, and write into it who does; False if it is no longer the one that stands at the path."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"{folder} is in use by another run: {_who(path)}. Wait for it, stop it, or choose another output folder."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise CheckpointError(f"could not lock {path}: {error.strerror or error}.") from error
        logger.warning("%s takes no locks: a second run on it would not be noticed.", folder)
        return True
    here = os.fstat(handle)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    if (here.st_ino, here.st_dev) != (there.st_ino, there.st_dev):
        return False
    _sign(handle)
    return True


def _sign(handle: int) -> None:
    began = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    signed = {"pid": os.getpid(), "host": socket.gethostname(), "began": began}
    with contextlib.suppress(OSError):  # a full disk: the lock holds, it only says less
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(signed).encode(), 0)


def _who(path: Path) -> str:
    """Return who holds a lock, as far as its file says."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, since {found['began']}"
    except (OSError, ValueError, KeyError, TypeError):  # it was locked this moment, and is not signed yet
        return "one that has just begun"


def _let_go_in_child() -> None:
    """Close the locks in a process that was forked off: it may live on when this one is dead, and no longer runs."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
