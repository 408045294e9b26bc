"""Features computed once and kept on disk, under a key that changes with anything that could change them.

The key hashes the weights, the family, the input, the layers with their pooling, the mirror option and the table's kind
and fingerprint: a cache keyed by a model's name alone once served another model's features (fastai, v0.7).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.errors import CheckpointError, DataError
from auxtasks.features.batches import Table, item_noun
from auxtasks.features.extract import extract, feature_widths

__all__ = ["FeatureCache", "feature_bytes"]

# Part of every key: raise it when the same inputs would give other features.
EXTRACTION_VERSION = 1


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
        needed = feature_bytes(backbone, table, layers)
        self._check_room(needed, layers)
        if self._folder is None:
            return extract(backbone, table, layers, mirror=mirror)
        place = self._folder / feature_key(backbone, table, layers, mirror=mirror)
        kept = _read(place, layers, len(table))
        if kept is None:
            computed = extract(backbone, table, layers, mirror=mirror)
            with checkpoint.atomic_folder(place) as temporary:
                for name, values in computed.items():
                    np.save(temporary / f"{name}.npy", values)
                digests = {name: checkpoint.file_digest(temporary / f"{name}.npy") for name in computed}
                checkpoint.write_json(temporary / "manifest.json", {"schema": 1, "digests": digests})
            kept = computed
        return kept

    def _check_room(self, needed: int, layers: Mapping[str, Pool]) -> None:
        free = shutil.disk_usage(_existing_parent(self._folder)).free if self._folder else self._limit
        allowed = min(self._limit, free)
        if needed > allowed:
            raise DataError(
                f"the features of {', '.join(layers)} would take {needed / 1e6:,.0f} MB; {allowed / 1e6:,.0f} MB are "
                'allowed or free. Ask for fewer layers, pool them ("mean" instead of "flatten"), or raise the limit.'
            )


def feature_key(backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool) -> str:
    """Return the name under which features are kept: a hash of all that they depend on."""
    parts = {
        "version": EXTRACTION_VERSION,
        "weights": checkpoint.tensors_digest(backbone.module.state_dict()),
        "family": [backbone.family.name, dict(backbone.family.arguments)],
        "input": backbone.input.to_json(),
        "layers": dict(layers),
        "mirror": mirror,
        "items": [item_noun(table), table.fingerprint],
        "dtype": "float32",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _read(place: Path, layers: Mapping[str, Pool], items: int) -> dict[str, NDArray[np.float32]] | None:
    """Return kept features, memory-mapped, or None when they are not there or damaged: then they are computed anew."""
    if not place.is_dir():
        return None
    try:
        digests = checkpoint.read_json(place / "manifest.json")["digests"]
        whole = all(checkpoint.file_digest(place / f"{name}.npy") == digests[name] for name in layers)
    except (CheckpointError, OSError, KeyError, TypeError):
        return None
    if not whole:
        return None
    kept = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in layers}
    return kept if all(len(values) == items for values in kept.values()) else None


def _existing_parent(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing_parent(folder.absolute().parent)
