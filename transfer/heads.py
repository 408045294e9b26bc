"""Small classifiers on frozen features: the part of a target model that the few labels train.

A head is a frozen dataclass of options; `fit` returns a fitted head and leaves the options as they were. Every fitted
head turns features (N, D) into `scores` (N, C), higher for the likelier class, and `predict_proba` (N, C), whose rows
sum to 1. All of it is computed in float64, and nothing is random: the same support gives the same head.

Notation: N items, D features, C classes; the support is the N labelled items that a head is fitted on.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from auxtasks.errors import CheckpointError, TransferError, did_you_mean
from auxtasks.seeding import generator

__all__ = [
    "HEADS",
    "CandidateScore",
    "Choice",
    "FittedHead",
    "FittedLinear",
    "FittedNeighbors",
    "FittedPrototype",
    "Head",
    "KNeighbors",
    "LogisticHead",
    "NearestPrototype",
    "Option",
    "RidgeHead",
    "build_head",
    "head_from_state",
    "select_by_cross_validation",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Scaling = Literal["standardize", "rms", "l2", "none"]
Metric = Literal["cosine", "euclidean"]
Option = str | int | float | bool

# A feature that hardly moves in the support gets at most this many times the weight of a typical one: the spread
# of a nearly dead unit over a few items is noise, and dividing by it would let that unit decide on new items.
_GREATEST_MAGNIFICATION = 1000.0


class FittedHead(abc.ABC):
    """A head after `fit`: scores, probabilities and predictions for new features.

    Attributes:
        kind: name under which `head_from_state` knows the class.
    """

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def n_classes(self) -> int:
        """C, the number of classes it was fitted on."""

    @property
    @abc.abstractmethod
    def n_features(self) -> int:
        """D, the width of the features it takes."""

    @abc.abstractmethod
    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return one score a class, higher for the likelier one; (N, D) to (N, C)."""

    @abc.abstractmethod
    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return one probability a class, rows summing to 1; (N, D) to (N, C)."""

    @abc.abstractmethod
    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return all that `head_from_state` needs: tensors (float64) for safetensors, and settings for JSON."""

    def predict(self, features: npt.ArrayLike) -> IntArray:
        """Return the class with the highest score, the lowest index among equals; (N, D) to (N,)."""
        return np.asarray(np.argmax(self.scores(features), axis=1), dtype=np.int64)

    def _features(self, features: npt.ArrayLike) -> FloatArray:
        """Return checked features.

        Raises:
            TransferError: another width than the head was fitted on, or values that are not finite.
        """
        values = _checked_features(features)
        if values.shape[1] != self.n_features:
            raise TransferError(
                f"this head was fitted on {self.n_features} features, found {values.shape[1]}: take them from the same "
                f"layer, pooled in the same way."
            )
        return values


class Head(abc.ABC):
    """Options of a classifier; `fit` makes the classifier."""

    def fit(self, features: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int) -> FittedHead:
        """Fit on the support.

        Args:
            features: (N, D) finite numbers.
            labels: (N,) class indices from 0 to C - 1, every class at least once.
            n_classes: C, at least 2.

        Raises:
            TransferError: shapes that do not fit, NaN, a label out of range, or a class without an item.
        """
        values, classes = _checked_support(features, labels, n_classes)
        return self._fit(values, classes, n_classes)

    @abc.abstractmethod
    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedHead:
        """Fit on a support that has been checked."""


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
        _check_flag("center", self.center)
        _check_choice("metric", self.metric, ("cosine", "euclidean"))
        _check_positive(temperature=self.temperature)

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedPrototype:
        shift = features.mean(axis=0) if self.center else np.zeros(features.shape[1])
        unit = _unit_rows(features - shift)
        members = np.eye(n_classes)[labels]  # (N, C), 1 where the item is of the class
        means = members.T @ unit / members.sum(axis=0)[:, None]
        prototypes = _unit_rows(means) if self.metric == "cosine" else means
        return FittedPrototype(prototypes, shift, self.metric, self.temperature)


@dataclass(frozen=True, eq=False)
class FittedPrototype(FittedHead):
    """A fitted `NearestPrototype`.

    Args:
        prototypes: (C, D).
        shift: (D,) subtracted before an item is scaled to length 1.
        metric: "cosine" or "euclidean".
        temperature: by which scores are divided.
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
        unit = _unit_rows(self._features(features) - self.shift)
        similarity = unit @ self.prototypes.T
        if self.metric == "euclidean":
            squares = (unit**2).sum(axis=1)[:, None] + (self.prototypes**2).sum(axis=1)[None, :]
            similarity = 2 * similarity - squares
        return np.asarray(similarity / self.temperature, dtype=np.float64)

    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return the softmax of the scores; (N, C)."""
        return _softmax(self.scores(features))

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return tensors and settings for `head_from_state`."""
        tensors = {"prototypes": torch.tensor(self.prototypes), "shift": torch.tensor(self.shift)}
        return tensors, {"kind": self.kind, "metric": self.metric, "temperature": self.temperature}


@dataclass(frozen=True)
class LogisticHead(Head):
    """Multinomial logistic regression with an L2 term; scikit-learn's objective and solver.

    min over W, b of  C sum_n -log softmax(W x_n + b)[y_n] + ||W||^2 / 2, the bias without penalty. For two classes
    it is the binary model, with one weight vector, as in scikit-learn.

    With fewer items than features the best W lies in the span of the centred support, whatever C is (what is
    orthogonal to it changes no score and costs penalty). The fit therefore runs on the support's coordinates in an
    orthonormal basis of that span, N instead of D numbers an item, and gives the same solution.

    Args:
        C: weight of the labels against the penalty; lower is smoother.
        scaling: "rms" (centre, then divide all features by one number), "standardize" (each feature to mean 0 and
            standard deviation 1 over the support), "l2" (each item to length 1), or "none". Standard deviations over
            a few items are mostly noise: with one item a class of two classes, standardising leaves nothing but the
            signs, and on scikit-learn's digits it costs 10 points of accuracy at one label a class, 1 point at ten.
        max_iter: of the solver; scikit-learn's ConvergenceWarning says when it was not enough.
        tol: greatest gradient entry at which the solver stops.

    Example:
        >>> features, labels = [[0.0, 1.0], [1.0, 0.0], [4.0, 5.0], [5.0, 4.0]], [0, 0, 1, 1]
        >>> head = LogisticHead(C=10.0).fit(features, labels, n_classes=2)
        >>> head.predict([[0.5, 0.5], [4.5, 4.5]])
        array([0, 1])
    """

    C: float = 1.0
    scaling: Scaling = "rms"
    max_iter: int = 1000
    tol: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive(C=self.C, max_iter=self.max_iter, tol=self.tol)
        _check_choice("scaling", self.scaling, ("standardize", "rms", "l2", "none"))

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedLinear:
        scaled = _Scaled.of(features, self.scaling)
        basis, coordinates = _span(scaled.values)
        model = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=self.tol)
        model.fit(coordinates, labels)
        weight, bias = np.asarray(model.coef_) @ basis, np.asarray(model.intercept_)
        if n_classes == 2:  # one vector for class 1 against class 0; half of it each way has the same softmax
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return scaled.fold(weight, bias)


@dataclass(frozen=True)
class RidgeHead(Head):
    """Least squares on one target a class, +1 for its items and -1 for all others, with an L2 term; closed form.

    min over W, b of  ||Z W^T + b - Y||^2 + alpha ||W||^2 for centred, scaled Z (N, D), so b is the mean of Y. With
    K = Z Z^T:  W^T = Z^T (K + alpha I)^-1 (Y - b) when N < D, and (Z^T Z + alpha I)^-1 Z^T (Y - b) otherwise, by
    Cholesky. The scores are W z + b over the temperature, and their softmax is the probability; not calibrated.

    Args:
        alpha: of the penalty; higher is smoother.
        scaling: as for `LogisticHead`.
        temperature: by which targets of -1 and +1 are divided before the softmax.

    Raises:
        TransferError: when alpha is so small that the system is singular.

    Example:
        >>> features, labels = [[0.0, 1.0], [1.0, 0.0], [4.0, 5.0], [5.0, 4.0]], [0, 0, 1, 1]
        >>> RidgeHead().fit(features, labels, n_classes=2).predict([[0.5, 0.5], [4.5, 4.5]])
        array([0, 1])

    Reference:
        Rifkin, Yeo and Poggio, "Regularized least-squares classification", 2003.
    """

    alpha: float = 1.0
    scaling: Scaling = "rms"
    temperature: float = 0.25

    def __post_init__(self) -> None:
        _check_positive(alpha=self.alpha, temperature=self.temperature)
        _check_choice("scaling", self.scaling, ("standardize", "rms", "l2", "none"))

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedLinear:
        scaled = _Scaled.of(features, self.scaling)
        targets = 2 * np.eye(n_classes)[labels] - 1
        bias = targets.mean(axis=0)
        weight = _ridge_weight(scaled.values, targets - bias, self.alpha)
        return scaled.fold(weight / self.temperature, bias / self.temperature)


@dataclass(frozen=True, eq=False)
class FittedLinear(FittedHead):
    """A fitted `LogisticHead` or `RidgeHead`: scores W x + b whose softmax are the probabilities.

    Args:
        weight: (C, D), on features as they come: the support's scaling is folded in.
        bias: (C,).
        unit_rows: whether each item is scaled to length 1 first, which no weight can stand for.
    """

    kind: ClassVar[str] = "linear"
    weight: FloatArray
    bias: FloatArray
    unit_rows: bool

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.weight)

    @property
    def n_features(self) -> int:
        """D, the width of the features."""
        return int(self.weight.shape[1])

    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return W x + b; (N, C)."""
        values = self._features(features)
        return (_unit_rows(values) if self.unit_rows else values) @ self.weight.T + self.bias

    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return the softmax of the scores; (N, C)."""
        return _softmax(self.scores(features))

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Return weight (C, D) and bias (C,) in float32, for an `nn.Linear` on the original features.

        The softmax of that layer's outputs are this head's probabilities, so fine-tuning can start from it.

        Raises:
            TransferError: when items are scaled to length 1 first, which no linear layer can do.
        """
        if self.unit_rows:
            raise TransferError(
                'a head with scaling="l2" is not linear in the original features: each item is divided by its own '
                'length. Use scaling="standardize" or "rms" where fine-tuning starts from the head.'
            )
        return torch.tensor(self.weight, dtype=torch.float32), torch.tensor(self.bias, dtype=torch.float32)

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return tensors and settings for `head_from_state`."""
        tensors = {"weight": torch.tensor(self.weight), "bias": torch.tensor(self.bias)}
        return tensors, {"kind": self.kind, "unit_rows": self.unit_rows}


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
        _check_positive(k=self.k, temperature=self.temperature)
        if int(self.k) != self.k:
            raise TransferError(f"k is {self.k}: it counts neighbours, so it is a whole number.")

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedNeighbors:
        return FittedNeighbors(_unit_rows(features), labels, n_classes, int(self.k), self.temperature)


@dataclass(frozen=True, eq=False)
class FittedNeighbors(FittedHead):
    """A fitted `KNeighbors`: the support itself.

    Args:
        support: (N, D) rows of length 1.
        labels: (N,) class indices.
        class_count: C.
        k: number of voters.
        temperature: of their weights.
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
        similarity = _unit_rows(self._features(features)) @ self.support.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : self.k]  # (N, k)
        similar = np.take_along_axis(similarity, nearest, axis=1)
        votes = _softmax(similar / self.temperature)
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


HEADS: dict[str, type[Head]] = {
    "prototype": NearestPrototype,
    "logistic": LogisticHead,
    "ridge": RidgeHead,
    "neighbors": KNeighbors,
}

_FITTED: dict[str, type[FittedHead]] = {
    "prototype": FittedPrototype,
    "linear": FittedLinear,
    "neighbors": FittedNeighbors,
}


def build_head(name: str, **options: Option) -> Head:
    """Return the head of that name.

    Raises:
        TransferError: an unknown name or option, or a value out of range; shows what is allowed.

    Example:
        >>> build_head("ridge", alpha=10.0)
        RidgeHead(alpha=10.0, scaling='rms', temperature=0.25)
    """
    if name not in HEADS:
        raise TransferError(f'unknown head "{name}".{did_you_mean(name, HEADS)} There are: {", ".join(HEADS)}.')
    head = HEADS[name]
    allowed = [field.name for field in fields(head)]  # type: ignore[arg-type]  # every entry is a dataclass
    unknown = [option for option in options if option not in allowed]
    if unknown:
        hints = "".join(did_you_mean(option, allowed) for option in unknown)
        raise TransferError(f"head {name} has no option {', '.join(unknown)}.{hints} It has: {', '.join(allowed)}.")
    return head(**options)


def head_from_state(tensors: Mapping[str, Tensor], config: Mapping[str, Option]) -> FittedHead:
    """Return the fitted head that `to_state` described; it predicts the same to the bit.

    Raises:
        CheckpointError: an unknown kind, or tensors and settings other than that kind has; names them.

    Example:
        >>> head = RidgeHead().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], n_classes=2)
        >>> head_from_state(*head.to_state()).predict([[1.0, 0.0]])
        array([1])
    """
    settings = dict(config)
    kind = str(settings.pop("kind", ""))
    if kind not in _FITTED:
        raise CheckpointError(f'unknown kind of head "{kind}", there are: {", ".join(_FITTED)}.')
    expected = {field.name for field in fields(_FITTED[kind])}  # type: ignore[arg-type]
    found = {*tensors, *settings}
    if found != expected:
        raise CheckpointError(
            f"the saved {kind} head does not fit: missing {sorted(expected - found)}, unexpected "
            f"{sorted(found - expected)}."
        )
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    return _FITTED[kind](**arrays, **settings)


@dataclass(frozen=True)
class CandidateScore:
    """The cross-validated accuracy of one layer and head.

    Attributes:
        layer: whose features were used.
        head: name in `HEADS`.
        options: of the head.
        score: share of the support's items that were classified rightly while held out.
    """

    layer: str
    head: str
    options: Mapping[str, Option]
    score: float


@dataclass(frozen=True)
class Choice:
    """The best of all layers and heads, and how the others did.

    Attributes:
        layer: chosen layer.
        head: chosen name in `HEADS`.
        options: of the head.
        score: cross-validated accuracy of the choice; the best of many, so too high as an estimate of accuracy.
        table: all candidates, in the order in which they were tried.
    """

    layer: str
    head: str
    options: Mapping[str, Option]
    score: float
    table: tuple[CandidateScore, ...]

    def build(self) -> Head:
        """Return the chosen head, to be fitted on the whole support."""
        return build_head(self.head, **self.options)


def select_by_cross_validation(
    features_by_layer: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    candidates: Sequence[tuple[str, Mapping[str, Option]]],
    folds: int = 5,
    seed: int = 0,
) -> Choice:
    """Choose layer and head by stratified cross-validation inside the support, with no label from outside.

    The number of folds is at most the number of items of the rarest class, so every training part has every class.
    Among equal scores the first tried wins: layers in the order of the mapping, and within a layer the candidates in
    their order. With layers from the input up, that is the lowest layer, the one that leaves most to train.

    Args:
        features_by_layer: layer name to (N, D) features of the same N items; D may differ between layers.
        labels: (N,) class indices from 0, every class at least twice.
        candidates: name in `HEADS` and options.
        folds: at most so many.
        seed: decides which items share a fold.

    Raises:
        TransferError: a class with one item only, no layers or candidates, or as for `build_head` and `Head.fit`.

    Example:
        >>> support = {"low": [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], "high": [[1.0], [0.9], [1.0], [0.9]]}
        >>> choice = select_by_cross_validation(support, [0, 0, 1, 1], [("prototype", {}), ("ridge", {"alpha": 1.0})])
        >>> (choice.layer, choice.head, choice.score)
        ('low', 'prototype', 1.0)
    """
    if not features_by_layer or not candidates:
        raise TransferError("nothing to choose from: at least one layer and one candidate head are needed.")
    if folds < 2:
        raise TransferError(f"folds is {folds}: cross-validation needs at least 2.")
    heads = [(name, dict(options), build_head(name, **options)) for name, options in candidates]
    classes = np.asarray(labels)
    n_classes = int(classes.max()) + 1 if classes.size else 0
    supports = {layer: _checked_support(values, classes, n_classes)[0] for layer, values in features_by_layer.items()}
    fold_of = _stratified_folds(classes, folds, seed)
    table = tuple(
        CandidateScore(layer, name, options, _held_out_accuracy(head, values, classes, n_classes, fold_of))
        for layer, values in supports.items()
        for name, options, head in heads
    )
    best = max(table, key=lambda row: row.score)  # the first of equals
    return Choice(**asdict(best), table=table)


def _stratified_folds(labels: IntArray, folds: int, seed: int) -> IntArray:
    """Return the fold of each item; each class is dealt out evenly, starting where the class before it ended."""
    counts = np.bincount(labels)
    rarest = int(counts.min())
    if rarest < 2:
        raise TransferError(
            f"class {int(np.argmin(counts))} has one item: with one label a class nothing can be held out to choose "
            f"on. Pass a default layer and head that were fixed in advance."
        )
    used = min(folds, rarest)
    rng = generator(seed, "head-selection")
    fold_of = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for label, count in enumerate(counts):
        fold_of[rng.permutation(np.flatnonzero(labels == label))] = (dealt + np.arange(count)) % used
        dealt += int(count)
    return fold_of


def _held_out_accuracy(head: Head, features: FloatArray, labels: IntArray, n_classes: int, fold_of: IntArray) -> float:
    """Return the share of items that are classified rightly by the head fitted on the other folds."""
    right = 0
    for fold in range(int(fold_of.max()) + 1):
        held_out = fold_of == fold
        fitted = head.fit(features[~held_out], labels[~held_out], n_classes)
        right += int(np.sum(fitted.predict(features[held_out]) == labels[held_out]))
    return right / len(labels)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features after scaling and centring, and what is needed to undo both in a weight.

    values = (x - shift) / divisor, with x first scaled to length 1 where `unit_rows` is set.
    """

    values: FloatArray  # (N, D)
    shift: FloatArray  # (D,)
    divisor: FloatArray  # (D,)
    unit_rows: bool

    @classmethod
    def of(cls, features: FloatArray, scaling: Scaling) -> _Scaled:
        """Scale the support; the bias of a linear model makes up for the centring, whatever the scaling."""
        rows = _unit_rows(features) if scaling == "l2" else features
        shift = rows.mean(axis=0)
        centred = rows - shift
        divisor = np.ones(rows.shape[1])
        typical = float(np.sqrt(np.mean(centred**2)))
        if typical > 0 and scaling == "rms":
            divisor = divisor * typical
        if typical > 0 and scaling == "standardize":
            divisor = np.maximum(centred.std(axis=0), typical / _GREATEST_MAGNIFICATION)
        return cls(centred / divisor, shift, divisor, scaling == "l2")

    def fold(self, weight: FloatArray, bias: FloatArray) -> FittedLinear:
        """Return the head on unscaled features: W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
        unscaled = weight / self.divisor
        return FittedLinear(unscaled, bias - unscaled @ self.shift, self.unit_rows)


def _span(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return an orthonormal basis (R, D) of the rows' span and their coordinates in it (N, R), R = min(N, D).

    QR of the transpose does what a singular value decomposition would, several times as fast.
    """
    items, width = values.shape
    if items >= width:
        return np.eye(width), values
    basis, coordinates = np.linalg.qr(values.T)  # (D, N), (N, N)
    return basis.T, np.ascontiguousarray(coordinates.T)


def _ridge_weight(values: FloatArray, targets: FloatArray, alpha: float) -> FloatArray:
    """Return (C, D) weights of ridge regression without a bias, by the smaller of the two systems."""
    items, width = values.shape
    try:
        if items < width:
            gram = values @ values.T + alpha * np.eye(items)
            dual = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), targets)
            return np.asarray(dual.T @ values)
        gram = values.T @ values + alpha * np.eye(width)
        primal = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), values.T @ targets)
        return np.asarray(primal.T)
    except np.linalg.LinAlgError as error:
        raise TransferError(f"alpha {alpha} is too small: the ridge system is singular. Use a larger one.") from error


def _unit_rows(values: FloatArray) -> FloatArray:
    """Return the rows scaled to length 1; rows of zeros stay zero."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1.0))


def _softmax(scores: FloatArray) -> FloatArray:
    return np.asarray(softmax(scores, axis=1))


def _checked_features(features: npt.ArrayLike) -> FloatArray:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise TransferError(f"features must be (N, D), found shape {values.shape}.")
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise TransferError(f"features of {len(rows)} items hold NaN or infinite values, the first is item {rows[0]}.")
    return values


def _checked_support(features: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int) -> tuple[FloatArray, IntArray]:
    values, classes = _checked_features(features), np.asarray(labels)
    if classes.shape != (len(values),):
        raise TransferError(f"one label an item is needed: {len(values)} items, labels of shape {classes.shape}.")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TransferError(f"labels must be integers from 0 to {n_classes - 1}, found {classes.dtype}.")
    if n_classes < 2:
        raise TransferError(f"n_classes is {n_classes}: a classifier needs at least 2 classes.")
    if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
        raise TransferError(f"labels run from {classes.min()} to {classes.max()}, outside 0 to {n_classes - 1}.")
    absent = np.setdiff1d(np.arange(n_classes), classes)
    if len(absent):
        named = ", ".join(str(label) for label in absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise TransferError(
            f"the support has no item of class {named} ({len(absent)} of {n_classes} classes): every class needs at "
            f"least one labelled item."
        )
    return values, classes.astype(np.int64)


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise TransferError(f"{name} is {value!r}: it must be a number above 0.")


def _check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TransferError(f"{name} is {value!r}: it must be true or false.")


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise TransferError(f'{name} is "{value}".{did_you_mean(str(value), allowed)} Allowed: {", ".join(allowed)}.')
