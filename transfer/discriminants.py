"""Directions in which people of the pretraining data differ, and one person's photos do not: a metric for few labels.

With one photo a person nothing can be learned about how that person varies. The pretraining data knows how people vary
in general: features are whitened by the covariance within identities, and the directions that tell identities apart
best are kept. Fitted on pretraining labels alone; no label of the target is spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from auxtasks.errors import TransferError

__all__ = ["FEWEST_IDENTITIES", "Discriminants", "base_layer", "fit_discriminants", "with_discriminants"]

Features = NDArray[np.float32]

SUFFIX = "+discriminants"
FEWEST_IDENTITIES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Discriminants:
    """An affine map from a layer's features (N, D) to discriminants (N, K).

    Attributes:
        shift: (D,) mean of the pretraining features.
        matrix: (D, K).

    Example:
        >>> found = Discriminants(shift=np.array([1.0, 0.0], np.float32), matrix=np.array([[2.0], [0.0]], np.float32))
        >>> found(np.array([[1.0, 5.0], [2.0, 5.0]], np.float32)).tolist()
        [[0.0], [2.0]]
    """

    shift: Features
    matrix: Features

    def __call__(self, features: Features) -> Features:
        """Project features; (N, D) to (N, K)."""
        return np.asarray((features - self.shift) @ self.matrix, dtype=np.float32)

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a linear head on discriminants (C, K) into the same head on the layer's own features (C, D)."""
        on_layer = weight @ from_numpy(self.matrix).T.to(weight.dtype)
        return on_layer, bias - on_layer @ from_numpy(self.shift).to(weight.dtype)


def fit_discriminants(
    features: Features, labels: NDArray[np.int64], *, components: int = 256, shrinkage: float = 1.0
) -> Discriminants:
    """Fit regularised linear discriminants.

    With S_w the covariance within identities, W = (S_w + shrinkage * tr(S_w) / D * I)^(-1/2) whitens; the columns of
    the result are W times the leading eigenvectors of the identities' whitened means.

    Args:
        features: (N, D) of pretraining pictures.
        labels: (N,) identities; negative ones, and identities with one picture, say nothing about variation and are
            left out.
        components: K, at most D and one less than the identities.
        shrinkage: how far the covariance is moved towards a multiple of the identity matrix.

    Raises:
        TransferError: fewer than three identities with two pictures.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(20), 5)
        >>> who, light = rng.normal(size=(20, 1))[person], 10 * rng.normal(size=(100, 1))
        >>> found = fit_discriminants(np.hstack([who, light]).astype(np.float32), person, components=1, shrinkage=1e-3)
        >>> bool(abs(found.matrix[0, 0]) > 10 * abs(found.matrix[1, 0]))
        True

    Reference:
        Fisher, "The use of multiple measurements in taxonomic problems", 1936; Hatch, Kajarekar and Stolcke,
        "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006.
    """
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    usable = (counts > 1) & (names >= 0)
    if usable.sum() < FEWEST_IDENTITIES:
        raise TransferError(
            f"discriminants need three identities with two pictures each, found {int(usable.sum())} among "
            f"{len(labels)} pictures. Leave them out (transfer.discriminants=null), or pretrain on more people."
        )
    kept = usable[inverse]
    values = features[kept].astype(np.float64)
    code = np.cumsum(usable)[inverse[kept]] - 1
    sizes = np.bincount(code)
    shift = values.mean(axis=0)
    values -= shift
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, code, values)
    means /= sizes[:, None]
    values -= means[code]
    within = values.T @ values / (len(values) - len(sizes))
    within[np.diag_indices_from(within)] += shrinkage * np.trace(within) / len(within)
    spread, axes = scipy.linalg.eigh(within)
    whiten = axes / np.sqrt(spread)
    whitened = (means @ whiten) * np.sqrt(sizes)[:, None]
    # The means' singular vectors are the eigenvectors of their covariance; the shorter side decides the cost.
    leading = np.linalg.svd(whitened, full_matrices=False)[2][: min(components, len(sizes) - 1)]
    return Discriminants(shift.astype(np.float32), (whiten @ leading.T).astype(np.float32))


def with_discriminants(features: Mapping[str, Features], found: Mapping[str, Discriminants]) -> dict[str, Features]:
    """Return the layers' features, and for each layer with discriminants those too, under a name of their own.

    Example:
        >>> found = Discriminants(shift=np.zeros(2, np.float32), matrix=np.ones((2, 1), np.float32))
        >>> spaces = with_discriminants({"stage4": np.ones((3, 2), np.float32)}, {"stage4": found})
        >>> {name: values.shape for name, values in spaces.items()}
        {'stage4': (3, 2), 'stage4+discriminants': (3, 1)}
    """
    return {**features, **{f"{layer}{SUFFIX}": project(features[layer]) for layer, project in found.items()}}


def base_layer(name: str) -> str:
    """Return the layer that a name from `with_discriminants` stands on.

    Example:
        >>> base_layer("stage4+discriminants")
        'stage4'
    """
    return name.removesuffix(SUFFIX)
