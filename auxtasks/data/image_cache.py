"""Decoded pictures kept on the disk: written as they come, checked and memory-mapped when they are read."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.lib.format
from numpy.typing import NDArray

from auxtasks.checkpoint import atomic_folder
from auxtasks.data.array_files import map_array
from auxtasks.data.decoding import Pixels
from auxtasks.data.sealed import read_sealed, write_sealed
from auxtasks.data.stored import Decoder, pictures_key
from auxtasks.errors import CheckpointError, DataError

__all__ = ["through_cache"]


def through_cache(make: Decoder, cache: Path, settings: str) -> tuple[Pixels, NDArray[np.int64], tuple[str, ...], str]:
    """Return what is kept for this source and these settings; make and keep it first if it is absent or damaged.

    Example:
        >>> import tempfile
        >>> from auxtasks.data.sources import load_source
        >>> from auxtasks.data.stored import stored_pictures
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> decoder = Decoder(stored_pictures(faces), (4, 4), channels=1, fit="stretch", on_error="raise", threads=1)
        >>> cache = Path(tempfile.mkdtemp())
        >>> for _ in range(2):
        ...     pixels, rows, skipped, _ = through_cache(decoder, cache, "4 x 4, grey")
        >>> pixels.shape, rows.tolist(), len(list(cache.glob("images-*")))
        ((4, 4, 4, 1), [0, 1, 2, 3], 1)
    """
    place = cache / f"images-{pictures_key(make.stored, settings)[:32]}"
    if place.exists():
        try:
            return _read_kept(place, make.shape)
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{place} is damaged ({error}); the pictures are decoded anew.", stacklevel=3)
    with atomic_folder(place) as folder:
        with (folder / "pixels.npy").open("wb") as file:
            sink = _FileSink(file, len(make.stored), make.shape)
            rows, skipped = make.run(sink.write)
            digest = sink.finish()
        np.save(folder / "rows.npy", rows)
        facts = {"pixels_sha256": digest, "rows_sha256": _digest(rows), "skipped": skipped, "rows": len(rows)}
        write_sealed(folder / "manifest.json", facts)
    return _read_kept(place, make.shape)


def _read_kept(place: Path, shape: tuple[int, ...]) -> tuple[Pixels, NDArray[np.int64], tuple[str, ...], str]:
    """Map what was kept, after checking that it is whole and unchanged."""
    manifest = read_sealed(place / "manifest.json")
    pixels: Pixels = map_array(place / "pixels.npy")
    rows: NDArray[np.int64] = np.array(map_array(place / "rows.npy"))
    count = manifest["rows"]
    if pixels.shape != (count, *shape) or pixels.dtype != np.uint8 or rows.shape != (count,):
        raise CheckpointError(f"{pixels.dtype} pixels of shape {pixels.shape} for rows of shape {rows.shape}")
    digest = _digest(pixels)
    if digest != manifest["pixels_sha256"]:
        raise CheckpointError("the pixels are not those that were written")
    if rows.dtype != np.int64 or _digest(rows) != manifest["rows_sha256"]:
        raise CheckpointError("the rows are not those that were written")
    return pixels, rows, tuple(manifest["skipped"]), digest


def _digest(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(array.reshape(-1).data).hexdigest()


class _FileSink:
    """Writes pixels to a .npy file as they come, the number of rows filled in at the end."""

    def __init__(self, file: BinaryIO, rows: int, shape: tuple[int, ...]) -> None:
        self._file = file
        self._shape = shape
        self._filled = 0
        self._digest = hashlib.sha256()
        self._write_header(rows)
        self._start = file.tell()

    def write(self, block: Pixels) -> None:
        contents = block.tobytes()
        self._file.write(contents)
        self._digest.update(contents)
        self._filled += len(block)

    def finish(self) -> str:
        # NumPy pads headers so that the first dimension can change without moving the data.
        self._file.seek(0)
        self._write_header(self._filled)
        if self._file.tell() != self._start:
            raise DataError("the .npy header changed its length; the pixels were not kept.")
        return self._digest.hexdigest()

    def _write_header(self, rows: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._shape)}
        numpy.lib.format.write_array_header_1_0(self._file, header)
