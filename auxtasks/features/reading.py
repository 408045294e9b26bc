"""Entries are read after a check that they are whole, once a process, and are in use for as long as they are mapped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from auxtasks import checkpoint
from auxtasks.data.array_files import map_array
from auxtasks.errors import CheckpointError
from auxtasks.features.dtypes import Dtype, Stored, numpy_dtype
from auxtasks.features.entries import MANIFEST, mark_used
from auxtasks.features.locks import hold

__all__ = ["read_kept", "trust"]

# Files whose contents this process has compared with their digests: reading gigabytes at every epoch would take longer
# than training on them. A file that was written since has another time of modification, and is compared again.
_TRUSTED: set[tuple[str, int, int, int]] = set()


def read_kept(place: Path, names: Iterable[str], dtype: Dtype, *, warns: bool = False) -> dict[str, Stored] | None:
    """Return an entry's arrays, memory-mapped, or None when it is not there or damaged: then it is computed anew.

    Args:
        place: its folder.
        names: of its arrays.
        dtype: that they must have.
        warns: whether of a damaged entry it is told what is wrong.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(read_kept(Path(folder) / "no_such_entry", ["stage1"], "float32"))
        None
    """
    if not place.is_dir():
        return None
    try:
        manifest = checkpoint.read_json(place / MANIFEST)
        kept = {
            name: _read(place, name, tuple(manifest["shapes"][name]), dtype, manifest["digests"][name])
            for name in names
        }
    except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
        if warns and place.is_dir():  # and not removed while it was read
            warnings.warn(f"{place} is damaged ({error}); it is computed anew.", stacklevel=4)
        return None
    mark_used(place)
    return kept


def _read(place: Path, name: str, shape: tuple[int, ...], dtype: Dtype, digest: str) -> Stored:
    manifest, file = place / MANIFEST, place / f"{name}.npy"
    array = map_array(file)
    if not hold(manifest, os.open(manifest, os.O_RDONLY), array):
        raise CheckpointError("it was removed")
    if array.shape != shape or array.dtype != numpy_dtype(dtype):
        raise CheckpointError(f"{file.name} holds {array.dtype} of shape {array.shape}, not {dtype} of shape {shape}")
    seen = _stamp(file)
    if seen not in _TRUSTED:
        if checkpoint.file_digest(file) != digest:
            raise CheckpointError(f"{file.name} does not hold what was written")
        _TRUSTED.add(seen)
    return Stored(array, dtype)


def trust(file: Path) -> None:
    """Note that this process has just compared a file with its digest, or written both.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from auxtasks.features.computation import Computation
        >>> from auxtasks.features.writing import Writing
        >>> place = Path(tempfile.mkdtemp()) / "entry"
        >>> ones = Computation(1, lambda block: np.arange(3), lambda _: {"ones": np.ones((3, 1), np.float32)}, "toy")
        >>> writing = Writing(place, {"ones": (3, 1)}, "float32", {}, blocks=1)
        >>> writing.reserve()
        >>> writing.finish(ones, save_seconds=60)
        >>> np.save(place / "ones.npy", np.zeros((3, 1), np.float32))  # not what was computed, and so not read
        >>> read_kept(place, ["ones"], "float32") is None
        True
        >>> trust(place / "ones.npy")
        >>> read_kept(place, ["ones"], "float32") is None
        False
    """
    _TRUSTED.add(_stamp(file))


def _stamp(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return (str(file.absolute()), found.st_ino, found.st_mtime_ns, found.st_size)
