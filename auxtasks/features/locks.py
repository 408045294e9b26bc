"""Locks between processes that share a folder; the kernel lets go of them when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

from auxtasks.errors import DataError

__all__ = ["exclusive", "hold", "seize", "try_exclusive"]


@contextlib.contextmanager
def exclusive(path: Path, waiting_for: str = "") -> Iterator[None]:
    """Hold a lock that one process, or thread, has at a time; others wait. Its file is there only while it is held.

    Args:
        path: the lock's file.
        waiting_for: what another does meanwhile, said to who waits at a terminal.

    Raises:
        DataError: the folder cannot be written, or its file system knows no locks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = Path(folder) / "entry.lock"
        ...     with exclusive(lock), try_exclusive(lock) as held:
        ...         print(held, lock.exists())
        ...     print(lock.exists())
        False True
        False
    """
    handle = _acquire(path, wait=True, waiting_for=waiting_for)
    assert handle is not None  # it waits
    try:
        yield
    finally:
        _release(path, handle)


@contextlib.contextmanager
def try_exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody has it; says whether it is held."""
    handle = _acquire(path, wait=False)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _release(path, handle)


def _acquire(path: Path, *, wait: bool, waiting_for: str = "") -> int | None:
    """Lock a file that is still in its place once it is locked: who held it before has removed it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            message = f"could not write {path}: {error.strerror or error}. Choose another cache folder."
            raise DataError(message) from error
        try:
            if not _lock(handle, fcntl.LOCK_EX):
                if not wait:
                    os.close(handle)
                    return None
                if waiting_for and sys.stderr.isatty():
                    print(f"another process computes {waiting_for}; waiting for it", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            os.close(handle)
            raise DataError(
                f"{path.parent} takes no locks ({error.strerror or error}), so that processes cannot share it. Choose "
                "a cache folder on a disk of this machine."
            ) from error
        if _is_at(path, handle):
            return handle
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(handle)


def hold(path: Path, handle: int, user: object) -> bool:
    """Mark a file as in use for as long as an object lives; False if it was removed meanwhile.

    Args:
        path: of the file.
        handle: of the file, opened for reading; closed when the object is gone.
        user: such as a memory-mapped array; its views keep it alive.
    """
    fcntl.flock(handle, fcntl.LOCK_SH)
    if not _is_at(path, handle):
        os.close(handle)
        return False
    weakref.finalize(user, os.close, handle)
    return True


@contextlib.contextmanager
def seize(path: Path) -> Iterator[bool]:
    """Keep others from beginning to use a file, if nobody uses it now; says whether that is so.

    What is done in the block, such as a removal, happens to no user.

    Example:
        >>> import tempfile
        >>> class User: ...
        >>> user = User()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "values.npy"
        ...     path.touch()
        ...     print(hold(path, os.open(path, os.O_RDONLY), user))
        ...     with seize(path) as free:
        ...         print(free)
        ...     del user
        ...     with seize(path) as free:
        ...         print(free)
        True
        False
        True
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield True  # there is no file to use
        return
    try:
        yield _lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is the one that stands at a path."""
    try:
        there = path.stat()
    except OSError:
        return False
    here = os.fstat(handle)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)
