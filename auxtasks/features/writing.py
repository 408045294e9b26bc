"""Writing an entry so that it is there as a whole or not at all, and goes on where an interrupted process left it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from auxtasks import checkpoint
from auxtasks.data.array_files import Mapped, map_array
from auxtasks.data.progress import ProgressBar
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features.computation import Computation
from auxtasks.features.dtypes import Dtype, encode, numpy_dtype
from auxtasks.features.entries import MANIFEST, PROGRESS, remove_folder, unfinished_of
from auxtasks.features.reading import trust

__all__ = ["Writing"]

ENTRY_SCHEMA = 2

_Arrays: TypeAlias = dict[str, Mapped]
_Digests: TypeAlias = "dict[str, hashlib._Hash]"


class Writing:
    """An entry that is being computed by the process that holds its lock.

    Args:
        place: the entry's folder, once it is whole; another one that is there, which is damaged, is replaced.
        shapes: of its arrays, by name.
        dtype: in what numbers they are kept.
        about: what they are.
        blocks: of the computation.

    Example:
        >>> import tempfile
        >>> from auxtasks.features.reading import read_kept
        >>> place = Path(tempfile.mkdtemp()) / "entry"
        >>> doubled = Computation(
        ...     blocks=2,
        ...     rows=lambda block: np.arange(3) + 3 * block,
        ...     values=lambda block: {"double": np.full((3, 1), 2.0 * block, np.float32)},
        ...     what="toy",
        ... )
        >>> writing = Writing(place, {"double": (6, 1)}, "float32", {"of": "a toy"}, blocks=doubled.blocks)
        >>> writing.reserve()
        >>> writing.finish(doubled, save_seconds=60)
        >>> read_kept(place, ["double"], "float32")["double"].whole().ravel().tolist()
        [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        place: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: Dtype,
        about: Mapping[str, object],
        *,
        blocks: int,
    ) -> None:
        self._place = place
        self._unfinished = unfinished_of(place)
        self._shapes = shapes
        self._dtype: Dtype = dtype
        self._about = about
        self._blocks = blocks
        self._progress = self._read_progress()

    @property
    def is_begun(self) -> bool:
        """Whether an interrupted process left a part of it, with all the room that the whole takes."""
        return self._progress is not None

    def _read_progress(self) -> Mapping[str, Any] | None:
        if not self._unfinished.is_dir():
            return None
        try:
            progress: Mapping[str, Any] = checkpoint.read_json(self._unfinished / PROGRESS)
            if self._goes_on_from(progress, self._open()):
                return progress
        except (CheckpointError, OSError, ValueError, KeyError, TypeError):
            pass  # interrupted before anything was written down: it begins anew
        remove_folder(self._unfinished)
        return None

    def _goes_on_from(self, progress: Mapping[str, Any], arrays: _Arrays) -> bool:
        """Whether what was written down is about these arrays, and about no more of them than there is."""
        done, digests = progress["done"], progress["digests"]
        return (
            progress["blocks"] == self._blocks
            and type(done) is int
            and 0 <= done <= self._blocks
            and all(isinstance(digests[name], str) for name in self._shapes)
            and all(arrays[name].shape == shape for name, shape in self._shapes.items())
            and all(array.dtype == numpy_dtype(self._dtype) for array in arrays.values())
        )

    def reserve(self) -> None:
        """Take the room on the disk.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        try:
            self._unfinished.mkdir(parents=True)
            for name, shape in self._shapes.items():
                file = self._unfinished / f"{name}.npy"
                array = np.lib.format.open_memmap(file, mode="w+", dtype=numpy_dtype(self._dtype), shape=shape)
                del array
                _allocate(file)
            self._write_progress(0, {name: hashlib.sha256() for name in self._shapes})
        except OSError as error:
            remove_folder(self._unfinished)
            raise CheckpointError(f"could not write {self._place}: {error.strerror or error}.") from error

    def finish(self, computation: Computation, save_seconds: float) -> None:
        """Compute what is missing and put the entry in its place.

        Raises:
            CheckpointError: the disk cannot be written.
        """
        arrays = self._open()
        done, digests = self._resume(arrays, computation)
        saved = time.monotonic()
        with ProgressBar(computation.what, computation.blocks) as bar:
            bar.advance(done)
            try:
                while done < computation.blocks:
                    rows = computation.rows(done)
                    raw = {name: encode(values, self._dtype) for name, values in computation.values(done).items()}
                    for name, block in raw.items():
                        arrays[name][rows] = block
                    for name, block in raw.items():
                        digests[name].update(np.ascontiguousarray(block).data)
                    done += 1
                    bar.advance(1)
                    if time.monotonic() - saved >= save_seconds:
                        self._save(done, arrays, digests)
                        saved = time.monotonic()
            except DataError:
                remove_folder(self._unfinished)  # what cannot be computed now cannot be later
                raise
            except BaseException:
                self._save(done, arrays, digests)  # an interruption by the user too
                raise
        self._put_in_place(arrays)

    def _resume(self, arrays: _Arrays, computation: Computation) -> tuple[int, _Digests]:
        """Return how many blocks are there, and the digests of what they hold, after a check."""
        if self._progress is None:
            return 0, {name: hashlib.sha256() for name in arrays}
        done = int(self._progress["done"])
        digests = {name: hashlib.sha256() for name in arrays}
        for block in range(done):
            rows = computation.rows(block)
            for name, array in arrays.items():
                digests[name].update(np.ascontiguousarray(array[rows]).data)
        if all(digests[name].hexdigest() == self._progress["digests"][name] for name in arrays):
            return done, digests
        warnings.warn(f"{self._unfinished} is damaged; it is computed anew from the start.", stacklevel=5)
        return 0, {name: hashlib.sha256() for name in arrays}

    def _save(self, done: int, arrays: _Arrays, digests: _Digests) -> None:
        for array in arrays.values():
            array.flush()  # first, or more would be written down than is there
        self._write_progress(done, digests)

    def _write_progress(self, done: int, digests: _Digests) -> None:
        state = {
            "done": done,
            "blocks": self._blocks,
            "digests": {name: digest.hexdigest() for name, digest in digests.items()},
            "about": dict(self._about),
        }
        checkpoint.write_text_atomically(self._unfinished / PROGRESS, json.dumps(state, indent=2) + "\n")

    def _open(self) -> _Arrays:
        return {name: map_array(self._unfinished / f"{name}.npy", "r+") for name in self._shapes}

    def _put_in_place(self, arrays: _Arrays) -> None:
        """Write down what was computed, and rename it all at once."""
        for array in arrays.values():
            array.flush()
        digests = {name: checkpoint.file_digest(self._unfinished / f"{name}.npy") for name in self._shapes}
        manifest = {
            "schema": ENTRY_SCHEMA,
            "about": dict(self._about),
            "dtype": self._dtype,
            "shapes": {name: list(shape) for name, shape in self._shapes.items()},
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "digests": digests,
        }
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        checkpoint.write_text_atomically(self._unfinished / MANIFEST, text)
        (self._unfinished / PROGRESS).unlink()
        if self._place.exists():
            remove_folder(self._place)  # damaged: whoever has mapped it keeps what is mapped
        self._unfinished.rename(self._place)
        for name in self._shapes:
            trust(self._place / f"{name}.npy")


def _allocate(file: Path) -> None:
    """Give a file its blocks: on a disk that becomes full later, a write to mapped memory would end the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
