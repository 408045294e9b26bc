"""Feature vectors, their labels, and where they came from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import DataError

__all__ = ["FeatureRecord", "FeatureTable"]


class FeatureRecord(TypedDict):
    """One row of a `FeatureTable`: ``features`` (D,) float32, ``label`` is -1 where there is none.

    Example:
        >>> record: FeatureRecord = {"features": np.array([0.5, 1.0], np.float32), "label": -1}
        >>> record["features"].shape
        (2,)
    """

    features: NDArray[np.float32]
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTable:
    """N feature vectors of one width.

    Attributes:
        values: (N, D) float32, finite.
        labels: (N,) int64, -1 where unlabelled.
        class_names: the name of each label.
        rows: (N,) int64, the row in the source of each vector.
        skipped: one message for each vector that was left out.
        fingerprint: changes with any value, label, name or row.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    skipped: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def record(self, index: int) -> FeatureRecord:
        """Return one vector, as an array of its own that may be written to, and its label."""
        return {"features": np.array(self.values[index]), "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FeatureTable:
        """Return the vectors at `indices`, in that order, with the same class names.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} vectors.")
        return dataclasses.replace(
            self,
            values=self.values[chosen],
            labels=self.labels[chosen],
            rows=self.rows[chosen],
            fingerprint=hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest(),
        )
