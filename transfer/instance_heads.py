"""Heads that compare with what they were shown: the nearest class mean, and a vote of the nearest items.

Notation as in `transfer.head`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auxtasks.errors import TransferError
from transfer.head import (
    FittedHead,
    FloatArray,
    Head,
    IntArray,
    Option,
    check_choice,
    check_flag,
    check_positive,
    normalize_rows,
    softmax_rows,
)

__all__ = ["FittedNeighbors", "FittedPrototype", "KNeighbors", "Metric", "NearestPrototype"]

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class NearestPrototype(Head):
    """The class whose mean is nearest, after each item was scaled to length 1.

    z = x / ||x||, prototype p_c = mean of z over class c. Score: cos(z, p_c) / T, or -||z - p_c||^2 / T. The
    probabilities are a softmax of the scores; they are not calibrated.

    Args:
        center: subtract the mean of the support before scaling to length 1, as in SimpleShot's CL2N.
        metric: "cosine", or "euclidean" to the prototypes as they are (a class that is spread out has a short one).
        temperature: T.

    Example:
        >>> features, labels = [[2.0, 0.1], [1.0, 0.0], [0.0, 3.0]], [0, 0, 1]
        >>> NearestPrototype().fit(features, labels, n_classes=2).predict([[5.0, 1.0], [0.0, 1.0]])
        array([0, 1])

    Reference:
        Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017. Wang, Chao, Weinberger
        and van der Maaten, "SimpleShot", arXiv 2019.
    """

    center: bool = False
    metric: Metric = "cosine"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_flag("center", self.center)
        check_choice("metric", self.metric, ("cosine", "euclidean"))
        check_positive(temperature=self.temperature)

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedPrototype:
        shift = features.mean(axis=0) if self.center else np.zeros(features.shape[1])
        unit = normalize_rows(features - shift)
        members = np.eye(n_classes)[labels]  # (N, C), 1 where the item is of the class
        means = members.T @ unit / members.sum(axis=0)[:, None]
        prototypes = normalize_rows(means) if self.metric == "cosine" else means
        return FittedPrototype(prototypes, shift, self.metric, self.temperature)


@dataclass(frozen=True, eq=False)
class FittedPrototype(FittedHead):
    """A fitted `NearestPrototype`.

    Args:
        prototypes: (C, D).
        shift: (D,) subtracted before an item is scaled to length 1.
        metric: "cosine" or "euclidean".
        temperature: by which scores are divided.

    Example:
        >>> head = NearestPrototype()
        >>> fitted: FittedPrototype = head.fit([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [0, 0, 1], n_classes=2)
        >>> fitted.prototypes.shape, fitted.predict([[0.5, 2.0]]).tolist()
        ((2, 2), [0])
    """

    kind: ClassVar[str] = "prototype"
    prototypes: FloatArray
    shift: FloatArray
    metric: Metric
    temperature: float

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.prototypes)

    @property
    def n_features(self) -> int:
        """D, the width of the features."""
        return int(self.prototypes.shape[1])

    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return cosine, or minus the squared distance, to each prototype, over the temperature; (N, C)."""
        unit = normalize_rows(self._features(features) - self.shift)
        similarity = unit @ self.prototypes.T
        if self.metric == "euclidean":
            squares = (unit**2).sum(axis=1)[:, None] + (self.prototypes**2).sum(axis=1)[None, :]
            similarity = 2 * similarity - squares
        return np.asarray(similarity / self.temperature, dtype=np.float64)

    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return the softmax of the scores; (N, C)."""
        return softmax_rows(self.scores(features))

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return tensors and settings for `head_from_state`."""
        tensors = {"prototypes": torch.tensor(self.prototypes), "shift": torch.tensor(self.shift)}
        return tensors, {"kind": self.kind, "metric": self.metric, "temperature": self.temperature}


@dataclass(frozen=True)
class KNeighbors(Head):
    """A vote of the k most similar items of the support, closer ones counting more.

    Probability of class c: sum over the k items of largest cosine s of exp(s / T) [y = c], divided by the sum over all
    classes. Equally similar items come in the order of the support.

    Args:
        k: number of voters; all of the support where it has fewer.
        temperature: T; lower gives the closest item more say.

    Example:
        >>> features, labels = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [0, 0, 1]
        >>> KNeighbors(k=1).fit(features, labels, n_classes=2).predict([[1.0, 0.2], [0.1, 1.0]])
        array([0, 1])

    Reference:
        Wu, Xiong, Yu and Lin, "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    """

    k: int = 5
    temperature: float = 0.07

    def __post_init__(self) -> None:
        check_positive(k=self.k, temperature=self.temperature)
        if int(self.k) != self.k:
            raise TransferError(f"k is {self.k}: it counts neighbours, so it is a whole number.")

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedNeighbors:
        return FittedNeighbors(normalize_rows(features), labels, n_classes, int(self.k), self.temperature)


@dataclass(frozen=True, eq=False)
class FittedNeighbors(FittedHead):
    """A fitted `KNeighbors`: the support itself.

    Args:
        support: (N, D) rows of length 1.
        labels: (N,) class indices.
        class_count: C.
        k: number of voters.
        temperature: of their weights.

    Example:
        >>> fitted: FittedNeighbors = KNeighbors(k=1).fit([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [0, 0, 1], n_classes=2)
        >>> fitted.support.shape, fitted.predict([[3.0, 0.1]]).tolist()
        ((3, 2), [1])
    """

    kind: ClassVar[str] = "neighbors"
    support: FloatArray
    labels: IntArray
    class_count: int
    k: int
    temperature: float

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return self.class_count

    @property
    def n_features(self) -> int:
        """D, the width of the features."""
        return int(self.support.shape[1])

    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return each class's share of the vote; (N, C)."""
        similarity = normalize_rows(self._features(features)) @ self.support.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : self.k]  # (N, k)
        similar = np.take_along_axis(similarity, nearest, axis=1)
        votes = softmax_rows(similar / self.temperature)
        members = np.eye(self.class_count)[self.labels]  # (support, C)
        return np.asarray(np.einsum("nk,nkc->nc", votes, members[nearest]))

    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return each class's share of the vote; (N, C)."""
        return self.scores(features)

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return tensors and settings for `head_from_state`."""
        tensors = {"support": torch.tensor(self.support), "labels": torch.tensor(self.labels)}
        settings: dict[str, Option] = {"class_count": self.class_count, "k": self.k, "temperature": self.temperature}
        return tensors, {"kind": self.kind, **settings}
