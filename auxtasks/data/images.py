"""Pictures decoded once, resized once, and kept as one array of bytes.

Decoding costs a hundred times what reading the result does, and a pretraining run sees each picture many times. So a
source is turned into an `ImageTable` first: all pictures of one size and number of channels, ``uint8``, in memory or
memory-mapped. What happens to each picture is told in `auxtasks.data.decoding`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import datasets
import numpy as np
import PIL
from numpy.typing import NDArray

from auxtasks.checkpoint import spell_bytes
from auxtasks.data.decoding import Fit, Pixels, check_settings
from auxtasks.data.image_cache import through_cache
from auxtasks.data.labels import labels_of
from auxtasks.data.stored import Decoder, stored_pictures
from auxtasks.errors import DataError

__all__ = ["ImageRecord", "ImageTable", "decode_images"]

# Part of every cache key: raise it when the same file would be decoded to other pixels, or kept in another way.
_DECODER_VERSION = 2


class ImageRecord(TypedDict):
    """One row of an `ImageTable`: ``image`` is (H, W, C) uint8, ``label`` is -1 where there is none.

    Example:
        >>> record: ImageRecord = {"image": np.zeros((4, 4, 1), np.uint8), "label": 3}
        >>> record["image"].shape
        (4, 4, 1)
    """

    image: Pixels
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """Pictures of one size, their labels, and where they came from.

    Attributes:
        pixels: (N, H, W, C) uint8, in memory or memory-mapped; read-only when mapped.
        labels: (N,) int64, -1 where unlabelled.
        class_names: the name of each label.
        rows: (N,) int64, the row in the source of each picture.
        skipped: one message for each picture that was left out.
        fingerprint: changes with any pixel, label, name, row or setting, and with nothing else: the same pictures in
            another file, or on another machine, have the same one.

    Example:
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source({"image": [np.zeros((8, 8), np.uint8)] * 3, "label": ["a", "b", "a"]},
        ...                      columns={"image": "image", "label": "label"})
        >>> table = decode_images(source, size=(4, 4), channels=1)
        >>> len(table), table.pixels.shape, table.labels.tolist(), table.subset([2]).rows.tolist()
        (3, (3, 4, 4, 1), [0, 1, 0], [2])
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    skipped: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> ImageRecord:
        """Return one picture, as an array of its own that may be written to, and its label."""
        return {"image": np.array(self.pixels[index]), "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageTable:
        """Return the pictures at `indices`, in that order, with the same class names.

        Neighbouring indices, such as ``range(10, 20)``, share the pixels; others copy them.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} pictures.")
        run = len(chosen) > 0 and bool((np.diff(chosen) == 1).all())
        where = slice(int(chosen[0]), int(chosen[-1]) + 1) if run else chosen
        return dataclasses.replace(
            self,
            pixels=self.pixels[where],
            labels=self.labels[where],
            rows=self.rows[where],
            fingerprint=_digest(b"subset", self.fingerprint.encode(), chosen.tobytes()),
        )


def decode_images(
    dataset: datasets.Dataset,
    *,
    size: tuple[int, int],
    channels: int,
    fit: Fit = "stretch",
    on_error: Literal["raise", "skip"] = "raise",
    cache: Path | None = None,
    workers: int | None = None,
) -> ImageTable:
    """Decode and resize all pictures of a data set, once.

    At most 256 encoded pictures and one decoded picture a worker are held besides the result; with `cache` the result
    is on the disk and memory-mapped.

    Args:
        dataset: has a column ``image`` and perhaps ``label``, as `load_source` returns.
        size: height and width, in pixels.
        channels: 1 for grey, 3 for RGB.
        fit: see `decode_one`.
        on_error: what to do with a picture that cannot be decoded.
        cache: folder in which results are kept, each in a sub-folder named by its source and settings. A result
            that is damaged is made anew.
        workers: threads that decode (Pillow releases the GIL); the number of processors, at most 8, if not given.

    Returns:
        The pictures in the source's order.

    Raises:
        ImageError: a picture cannot be decoded (names its row and file), or with ``on_error="skip"`` none can.
        ColumnError: the data set has no picture column, or its labels are not class labels.
        DataError: a setting is wrong.
    """
    check_settings(size, channels, fit)
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error is 'raise' or 'skip'; found {on_error!r}.")
    stored = stored_pictures(dataset)
    labels, class_names = labels_of(dataset)
    settings = f"{_DECODER_VERSION}|{PIL.__version__}|{size}|{channels}|{fit}"
    threads = workers or min(8, os.cpu_count() or 1)
    make = Decoder(stored, size, channels, fit, on_error, threads)
    if cache is None:
        sink = _MemorySink(len(stored), (*size, channels))
        rows, skipped = make.run(sink.write)
        pixels, digest = sink.finish()
    else:
        pixels, rows, skipped, digest = through_cache(make, Path(cache), settings)
    labels = labels[rows]
    names = "\0".join(class_names).encode()
    public = f"{size}|{channels}|{fit}".encode()
    fingerprint = _digest(public, names, labels.tobytes(), rows.tobytes(), digest.encode())
    return ImageTable(pixels, labels, class_names, rows, skipped, fingerprint)


class _MemorySink:
    """Collects pixels in one array, and their SHA-256."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        try:
            self._pixels = np.empty((rows, *shape), dtype=np.uint8)
        except MemoryError as error:
            raise DataError(
                f"{rows:,} pictures of {shape[0]} x {shape[1]} pixels take {spell_bytes(rows * math.prod(shape))}, "
                "more than there is memory: make size smaller, or name a cache, which keeps them on the disk."
            ) from error
        self._filled = 0
        self._digest = hashlib.sha256()

    def write(self, block: Pixels) -> None:
        self._pixels[self._filled : self._filled + len(block)] = block
        self._filled += len(block)
        self._digest.update(block.tobytes())

    def finish(self) -> tuple[Pixels, str]:
        return self._pixels[: self._filled], self._digest.hexdigest()


def _digest(*parts: bytes) -> str:
    """Return a SHA-256 over parts, each with its length, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d|" % len(part))
        digest.update(part)
    return digest.hexdigest()
