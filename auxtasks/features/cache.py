"""Features computed once and kept on disk, under a key that changes with anything that could change them.

The key hashes the weights up to the deepest layer asked for, the family, the input, the layers with their pooling, the
mirror option and the table's kind and fingerprint: a cache keyed by a model's name alone once served another model's
features (fastai, v0.7).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.pair_table import PairTable
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.extract import extract, feature_widths

__all__ = ["EXTRACTION_VERSION", "FeatureCache", "feature_bytes", "key_of", "prefix_digest"]

# Part of every key: raise it when the same inputs would give other features.
EXTRACTION_VERSION = 2


def feature_bytes(backbone: Backbone, table: Table, layers: Mapping[str, Pool]) -> int:
    """Return what the features of all items will take, in bytes, without computing them.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import ImageTable
        >>> pixels, labels = np.zeros((10, 32, 32, 1), np.uint8), np.zeros(10, np.int64)
        >>> table = ImageTable(pixels, labels, class_names=("a",), rows=np.arange(10), skipped=(), fingerprint="x")
        >>> feature_bytes(convnet(size=32, embedding=128), table, {"embedding": "auto"})
        5120
    """
    return len(table) * 4 * sum(feature_widths(backbone, layers).values())


class FeatureCache:
    """A folder of features.

    Args:
        folder: where they are kept; None computes every time and keeps nothing.
        limit_bytes: features that would take more are refused before any is computed.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = 4 << 30) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def features(
        self, backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """Return layers' features (N, D), from disk where they are there; see `extract`.

        Raises:
            DataError: they would not fit the limit or the disk; says how large they would be.
        """
        shapes = {name: (len(table), width) for name, width in feature_widths(backbone, layers).items()}

        def fill(arrays: Mapping[str, NDArray[np.float32]]) -> None:
            extract(backbone, table, layers, mirror=mirror, into=arrays)

        key = feature_key(backbone, table, layers, mirror=mirror)
        return self.arrays(key, shapes, fill, f"the features of {', '.join(layers)}")

    def arrays(
        self,
        key: str,
        shapes: Mapping[str, tuple[int, ...]],
        fill: Callable[[Mapping[str, NDArray[np.float32]]], None],
        what: str,
    ) -> dict[str, NDArray[np.float32]]:
        """Return arrays that are on disk under a key, or fill new ones; those on disk are memory-mapped.

        Args:
            key: a hash of all that the arrays depend on.
            shapes: of each array, by name.
            fill: writes them, in place.
            what: they are, for messages.

        Raises:
            DataError: they would not fit the limit or the disk; says how large they would be.
        """
        place = None if self._folder is None else self._folder / key
        if place is not None and (kept := _read(place, shapes)) is not None:
            return kept
        self._check_room(sum(4 * math.prod(shape) for shape in shapes.values()), what)
        if place is None:
            arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
            fill(arrays)
            return arrays
        with checkpoint.atomic_folder(place) as temporary:
            # Written where they stay: what is computed need not fit into memory.
            files = {name: temporary / f"{name}.npy" for name in shapes}
            written = {
                name: np.lib.format.open_memmap(files[name], mode="w+", dtype=np.float32, shape=shape)
                for name, shape in shapes.items()
            }
            fill(written)
            for array in written.values():
                array.flush()
            digests = {name: checkpoint.file_digest(file) for name, file in files.items()}
            checkpoint.write_json(temporary / "manifest.json", {"schema": 1, "digests": digests})
        return _mapped(place, shapes)

    def _check_room(self, needed: int, what: str) -> None:
        free = shutil.disk_usage(_existing_parent(self._folder)).free if self._folder else self._limit
        allowed = min(self._limit, free)
        if needed > allowed:
            raise DataError(
                f"{what} would take {needed / 1e6:,.0f} MB; {allowed / 1e6:,.0f} MB are allowed or free. Ask for fewer "
                'layers or items, pool layers ("mean" instead of "flatten"), free the disk, or raise the limit.'
            )


def feature_key(backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool) -> str:
    """Return the name under which features are kept: a hash of all that they depend on."""
    deepest = max(layers, key=backbone.position)
    parts = {
        "version": EXTRACTION_VERSION,
        "weights": prefix_digest(backbone, deepest),
        "family": [backbone.family.name, dict(backbone.family.arguments)],
        "input": backbone.input.to_json(),
        "layers": dict(layers),
        "mirror": mirror,
        "items": [*_kind(table), table.fingerprint],
        "dtype": "float32",
    }
    return key_of(parts)


def _kind(table: Table) -> list[str]:
    """Return what a table holds, and of pairs what they are pairs of."""
    return [item_noun(table), item_noun(table.items)] if isinstance(table, PairTable) else [item_noun(table)]


def key_of(parts: Mapping[str, object]) -> str:
    """Return a name that changes with any of the parts, which are JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def prefix_digest(backbone: Backbone, layer: str) -> str:
    """Return a hash of the weights and buffers that a layer's output depends on: those above it may change.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> backbone = mlp(width=2, hidden=[2, 2])
        >>> before = prefix_digest(backbone, "hidden1"), prefix_digest(backbone, "hidden2")
        >>> _ = backbone.module[1][0].weight.data.zero_()
        >>> prefix_digest(backbone, "hidden1") == before[0], prefix_digest(backbone, "hidden2") == before[1]
        (True, False)
    """
    above = [f"{path}." for stage in backbone.stages[backbone.position(layer) + 1 :] for path in stage.owns]
    state = backbone.module.state_dict()
    kept = {name: value for name, value in state.items() if not any(f"{name}.".startswith(path) for path in above)}
    return checkpoint.tensors_digest(kept)


def _read(place: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]] | None:
    """Return kept arrays, memory-mapped, or None when they are not there or damaged: then they are computed anew."""
    if not place.is_dir():
        return None
    try:
        digests = checkpoint.read_json(place / "manifest.json")["digests"]
        whole = all(checkpoint.file_digest(place / f"{name}.npy") == digests[name] for name in shapes)
    except (CheckpointError, OSError, KeyError, TypeError):
        return None
    if not whole:
        return None
    kept = _mapped(place, shapes)
    return kept if all(kept[name].shape == shape for name, shape in shapes.items()) else None


def _mapped(place: Path, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    return {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}


def _existing_parent(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing_parent(folder.absolute().parent)
