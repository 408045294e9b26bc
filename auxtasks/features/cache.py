"""Outputs of layers, computed once and kept on disk under a key that changes with all that they depend on.

Processes that share a folder compute each entry once: the others wait, and read. An interrupted computation goes on at
its last whole block. See `auxtasks.features.key` for what the key holds, `auxtasks.features.entries` for the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.errors import DataError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.computation import Computation
from auxtasks.features.dtypes import Dtype, Stored, check_dtype, empty, encode, item_bytes
from auxtasks.features.entries import could_hold, lock_of, make_room, too_large
from auxtasks.features.extract import feature_computation, feature_widths
from auxtasks.features.key import EXTRACTION_VERSION, feature_key, key_of, prefix_digest
from auxtasks.features.locks import exclusive
from auxtasks.features.reading import read_kept
from auxtasks.features.writing import Writing

__all__ = ["EXTRACTION_VERSION", "FeatureCache", "feature_bytes", "feature_key", "key_of", "prefix_digest"]

# Of a whole folder, and of what is kept in memory when there is no folder.
FOLDER_LIMIT, MEMORY_LIMIT = 16 << 30, 4 << 30


def feature_bytes(backbone: Backbone, table: Table, layers: Mapping[str, Pool], dtype: Dtype = "float32") -> int:
    """Return what the features of all items will take, in bytes, without computing them.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import ImageTable
        >>> pixels, labels = np.zeros((10, 32, 32, 1), np.uint8), np.zeros(10, np.int64)
        >>> table = ImageTable(pixels, labels, class_names=("a",), rows=np.arange(10), skipped=(), fingerprint="x")
        >>> feature_bytes(convnet(size=32, embedding=128), table, {"embedding": "auto"})
        5120
    """
    return len(table) * item_bytes(dtype) * sum(feature_widths(backbone, layers).values())


class FeatureCache:
    """A folder of outputs that are kept.

    Args:
        folder: where; None computes every time and keeps nothing.
        limit_bytes: of all that the folder holds; the least recently used entries that no process reads make room for
            new ones, and what would not fit even so is refused before any of it is computed. By default 16 GiB on
            disk, 4 GiB in memory.
        dtype: in what numbers features are kept, see `Dtype`.
        save_seconds: how often a computation writes down how far it is.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data import FeatureTable
        >>> values, rows = np.ones((4, 3), np.float32), np.arange(4)
        >>> table = FeatureTable(values, labels=rows, class_names=(), rows=rows, skipped=(), fingerprint="ones")
        >>> cache = FeatureCache(Path(tempfile.mkdtemp()))
        >>> cache.features(mlp(width=3, hidden=[5]), table, {"hidden1": "auto"})["hidden1"].shape
        (4, 5)
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        limit_bytes: int | None = None,
        *,
        dtype: Dtype = "float32",
        save_seconds: float = 10.0,
    ) -> None:
        check_dtype(dtype)
        default = MEMORY_LIMIT if folder is None else FOLDER_LIMIT
        self._folder = None if folder is None else Path(folder)
        self._limit = default if limit_bytes is None else limit_bytes
        self._dtype: Dtype = dtype
        self._save_seconds = save_seconds

    def could_hold(self, needed: int) -> bool:
        """Whether so many bytes could be kept, were all that is kept now removed."""
        return needed <= self._limit and (self._folder is None or could_hold(self._folder, needed))

    def features(
        self, backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """Return layers' features (N, D), from disk where they are there; see `extract`.

        Of float32 they are memory-mapped; of another type they are read into memory.

        Raises:
            DataError: they would not fit the limit or the disk; says how large they would be.
        """
        key = feature_key(backbone, table, layers, mirror=mirror, dtype=self._dtype)
        # First of all, since whoever asks at every epoch shall not wait even for a probe of the widths.
        kept = None if self._folder is None else read_kept(self._folder / key, layers, self._dtype)
        if kept is None:
            about = {
                "holds": "features",
                "backbone": described(backbone),
                "layers": dict(layers),
                "items": f"{len(table):,} {item_noun(table)}" + (", with their mirror images" if mirror else ""),
            }
            shapes = {name: (len(table), width) for name, width in feature_widths(backbone, layers).items()}
            computation = feature_computation(backbone, table, layers, mirror=mirror)
            kept = self.arrays(key, shapes, computation, about=about, dtype=self._dtype)
        return {name: array.whole() for name, array in kept.items()}

    def arrays(
        self,
        key: str,
        shapes: Mapping[str, tuple[int, ...]],
        computation: Computation,
        *,
        about: Mapping[str, object],
        dtype: Dtype = "float32",
    ) -> dict[str, Stored]:
        """Return arrays that are on disk under a key, or compute them; those on disk are memory-mapped.

        Args:
            key: a hash of all that the arrays depend on.
            shapes: of each array, by name.
            computation: of their values.
            about: what they are, as JSON values, for who lists the folder.
            dtype: in what numbers they are kept.

        Raises:
            DataError: they would not fit the limit or the disk, says how large they would be; or the type.
        """
        check_dtype(dtype)
        needed = sum(item_bytes(dtype) * math.prod(shape) for shape in shapes.values())
        if self._folder is None:
            if needed > self._limit:
                raise DataError(too_large(computation.what, needed, self._limit))
            return _in_memory(shapes, computation, dtype)
        place = self._folder / key
        kept = read_kept(place, shapes, dtype)
        if kept is not None:
            return kept
        with exclusive(lock_of(place), computation.what):
            # Another process may have computed them while this one waited.
            kept = read_kept(place, shapes, dtype, warns=True)
            if kept is not None:
                return kept
            writing = Writing(place, shapes, dtype, about, blocks=computation.blocks)
            if not writing.is_begun:
                # One process at a time makes room and takes it, or two would take the same.
                with exclusive(self._folder / ".room.lock"):
                    make_room(self._folder, needed, self._limit, computation.what, spare={key})
                    writing.reserve()
            writing.finish(computation, self._save_seconds)
            kept = read_kept(place, shapes, dtype)
            if kept is not None:
                return kept
        raise DataError(f"{place} was removed while it was read. Give it a cache folder that nobody clears meanwhile.")


def described(backbone: Backbone) -> str:
    """Return a backbone in a few words, for who lists the folder."""
    name = backbone.family.arguments.get("name")
    pretrained_on = backbone.provenance.get("pretrained_on")
    words = backbone.family.name if name is None else f"{backbone.family.name} {name}"
    return words if pretrained_on is None else f"{words}, pretrained on {pretrained_on}"


def _in_memory(shapes: Mapping[str, tuple[int, ...]], computation: Computation, dtype: Dtype) -> dict[str, Stored]:
    arrays = {name: empty(shape, dtype) for name, shape in shapes.items()}
    for block in range(computation.blocks):
        rows = computation.rows(block)
        for name, values in computation.values(block).items():
            arrays[name][rows] = encode(values, dtype)
    return {name: Stored(array, dtype) for name, array in arrays.items()}
