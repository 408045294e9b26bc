"""The stored pictures of a data set: read a block at a time, digested, and decoded in order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import datasets
import numpy as np
from numpy.typing import NDArray

from auxtasks.data.decoding import Fit, Pixels, decode, reason
from auxtasks.data.progress import ProgressBar
from auxtasks.errors import ColumnError, DataError, ImageError

__all__ = ["Decoder", "blocks_of", "pictures_key", "stored_pictures"]

_ROWS_AT_A_TIME = 256


def stored_pictures(dataset: datasets.Dataset) -> datasets.Dataset:
    """Return the picture column alone, not decoded.

    Example:
        >>> from auxtasks.data.sources import load_source
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> stored = stored_pictures(faces)
        >>> [(first, len(block)) for first, block in blocks_of(stored)]
        [(0, 4)]
        >>> pictures_key(stored, "32 x 32") == pictures_key(stored, "64 x 64")
        False
    """
    feature = dataset.features.get("image")
    if not isinstance(feature, datasets.Image):
        found = ", ".join(dataset.column_names)
        raise ColumnError(f"expected a column 'image' of pictures, found {found}. Read the source with load_source.")
    if not len(dataset):
        raise DataError("there are no pictures to decode: the data set is empty.")
    return dataset.with_format(None).select_columns(["image"]).cast_column("image", datasets.Image(decode=False))


def blocks_of(stored: datasets.Dataset) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """Yield the first row and the stored pictures of each block of rows."""
    for start in range(0, len(stored), _ROWS_AT_A_TIME):
        yield start, stored[start : start + _ROWS_AT_A_TIME]["image"]


def pictures_key(stored: datasets.Dataset, settings: str) -> str:
    """Digest what the decoded pixels depend on: bytes as they are, files by path, size and time of last change."""
    digest = hashlib.sha256(settings.encode())
    for _, block in blocks_of(stored):
        for item in block:
            contents, path = item.get("bytes"), item.get("path")
            if isinstance(contents, bytes):
                digest.update(b"B%d|" % len(contents))
                digest.update(contents)
            elif isinstance(path, str):
                digest.update(f"P{path}|{_state_of_file(path)}|".encode())
            else:
                digest.update(b"N|")
    return digest.hexdigest()


def _state_of_file(path: str) -> str:
    try:
        state = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
    except OSError:
        return "absent"
    return f"{state.st_size}|{state.st_mtime_ns}"


class Decoder:
    """Decodes a column of stored pictures in order, a block at a time, with a bounded number under way."""

    def __init__(
        self,
        stored: datasets.Dataset,
        size: tuple[int, int],
        channels: int,
        fit: Fit,
        on_error: Literal["raise", "skip"],
        threads: int,
    ) -> None:
        self.stored = stored
        self.shape = (*size, channels)
        self._size, self._channels, self._fit = size, channels, fit
        self._on_error = on_error
        self._threads = threads

    def run(self, write: Callable[[Pixels], None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Decode all, hand each block's (n, H, W, C) pixels to `write`; return the rows kept and the messages."""
        rows: list[int] = []
        skipped: list[str] = []
        with ThreadPoolExecutor(self._threads) as pool, ProgressBar("decoding", len(self.stored)) as progress:
            for start, block in blocks_of(self.stored):
                decoded = list(pool.map(self._one, range(start, start + len(block)), block))
                kept = [(start + place, result) for place, result in enumerate(decoded) if not isinstance(result, str)]
                skipped.extend(result for result in decoded if isinstance(result, str))
                rows.extend(row for row, _ in kept)
                if kept:
                    write(np.stack([pixels for _, pixels in kept]))
                progress.advance(len(block))
        if not rows:
            raise ImageError(f"none of the {len(skipped)} pictures could be decoded. The first: {skipped[0]}")
        return np.array(rows, dtype=np.int64), tuple(skipped)

    def _one(self, row: int, item: Mapping[str, object]) -> Pixels | str:
        try:
            return decode(item, self._size, self._channels, self._fit)
        except Exception as error:  # image plugins raise nearly anything for a damaged file
            name = str(item.get("path") or "no file name")
            message = f"row {row} ({name}): {reason(error)}"
            if self._on_error == "raise":
                advice = "Repair or remove it, or leave such pictures out with on_error='skip'."
                raise ImageError(f"{message} {advice}") from error
            return message
