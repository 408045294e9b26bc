"""The ways to spend the same few labels, each predicting the same test items.

An arm gets a support and test rows and returns classes; it never sees a test label. What it chose is returned with it:
chosen inside the support or, where there is a named validation set, on that.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool
from auxtasks.data.augment import Augment
from auxtasks.features.batches import Table
from auxtasks.features.extract import extract
from auxtasks.seeding import torch_seed
from auxtasks.training.settings import LoopSettings
from transfer.both_orders import BothOrders
from transfer.choices import Candidate, Validation, cross_validated
from transfer.discriminants import Discriminants
from transfer.finetune import Tuned, Tuning, fine_tune
from transfer.head import FittedHead
from transfer.heads import build_head
from transfer.linear_heads import FittedLinear

__all__ = ["Arm", "FeatureArm", "Prediction", "StartHead", "TunedArm"]

Features = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What an arm says about the test items.

    Attributes:
        classes: (M,) predicted class of each test row.
        layer: what it read, or None.
        training_accuracy: share of its own training items that it gets right, where it trains a network.

    Example:
        >>> rows = np.array([4, 5, 6])
        >>> said = Prediction(classes=np.array([0, 1, 1]), layer="hidden1")
        >>> float(np.mean(said.classes == np.array([0, 1, 0])).round(2)), said.layer
        (0.67, 'hidden1')
    """

    classes: Rows
    layer: str | None = None
    training_accuracy: float | None = None


class Arm(Interface):
    """A way to spend labels.

    Example:
        >>> class Majority:
        ...     def predict(self, support, labels, test, *, shot, draw):
        ...         return Prediction(np.full(len(test), np.bincount(labels).argmax()))
        >>> arm: Arm = Majority()
        >>> arm.predict(np.array([0, 1, 2]), np.array([1, 1, 0]), np.array([3, 4]), shot=1, draw=0).classes.tolist()
        [1, 1]
    """

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Train on the support's rows and labels, and predict the test rows."""
        ...


@dataclasses.dataclass(frozen=True)
class FeatureArm:
    """A head on frozen features, with layer and head chosen inside the support or on a validation set.

    Attributes:
        features: layer to (N, D) features of all items.
        ranked: shots to candidates, best first, as they stood before any label was seen. In cross-validation the first
            is used with one shot, and with more they compete; on a validation set they always do.
        n_classes: C.
        seed: of the folds.
        validation: what candidates are compared on; None cross-validates inside the support.

    Example:
        >>> features = np.array([[0.0], [9.0], [1.0], [8.0], [0.5], [7.0]], np.float32)
        >>> ranked = {2: [Candidate("hidden1", "prototype"), Candidate("hidden1", "ridge")]}
        >>> arm = FeatureArm({"hidden1": features}, ranked, n_classes=2, seed=0)
        >>> said = arm.predict(np.array([0, 1, 2, 3]), np.array([0, 1, 0, 1]), np.array([4, 5]), shot=2, draw=0)
        >>> said.classes.tolist(), said.layer
        ([0, 1], 'hidden1')
    """

    features: Mapping[str, Features]
    ranked: Mapping[int, Sequence[Candidate]]
    n_classes: int
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Choose, fit and predict."""
        del draw
        candidates = self.ranked[shot]
        if self.validation is None:
            fitted = self._fit(support, labels, self._cross_validated(support, labels, candidates, shot))
        else:
            fitted = self.validation.best(
                candidates, lambda candidate: self._fit(support, labels, candidate), self._classify
            )
        return Prediction(self._classify(fitted, test), layer=fitted.layer)

    def _cross_validated(self, support: Rows, labels: Rows, candidates: Sequence[Candidate], shot: int) -> Candidate:
        if shot == 1 or len(candidates) == 1:
            return candidates[0]
        inside = {name: values[support] for name, values in self.features.items()}
        return cross_validated(inside, labels, candidates, self.seed)

    def _fit(self, support: Rows, labels: Rows, candidate: Candidate) -> _OnLayer:
        head = candidate.build().fit(self.features[candidate.layer][support], labels, self.n_classes)
        return _OnLayer(candidate.layer, head)

    def _classify(self, fitted: _OnLayer, rows: Rows) -> Rows:
        return fitted.head.predict(self.features[fitted.layer][rows])


@dataclasses.dataclass(frozen=True)
class _OnLayer:
    """A fitted head, and which layer's features it reads."""

    layer: str
    head: FittedHead


START_ITERATIONS = 200


@dataclasses.dataclass(frozen=True)
class StartHead:
    """A logistic head on frozen features, as the linear layer that fine-tuning begins with.

    A random head would send random gradients into pretrained layers, and undo them, before it fits (Kumar et al.,
    "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR 2022).

    Attributes:
        features: (N, D) of all items.
        discriminants: what `features` were made with from the layer's own; None if they are the layer's own.
        both_orders: whether `features` are differences of pairs, see `BothOrders`.

    Example:
        >>> features = np.array([[0.0, 1.0], [9.0, 1.0], [1.0, 1.0], [8.0, 1.0]], np.float32)
        >>> weight, bias = StartHead(features).fit(np.array([0, 1]), np.array([0, 1]), n_classes=2)
        >>> (features @ weight.numpy().T + bias.numpy()).argmax(axis=1).tolist()
        [0, 1, 0, 1]
    """

    features: Features
    discriminants: Discriminants | None = None
    both_orders: bool = False

    def fit(self, support: Rows, labels: Rows, n_classes: int) -> tuple[Tensor, Tensor]:
        """Return weight (C, D) and bias (C,) on the layer's own features."""
        unfitted = build_head("logistic", C=1.0, scaling="rms", max_iter=START_ITERATIONS)
        with warnings.catch_warnings():
            # A start need not be a minimum; on thousands of labels that would take longer than the fine-tuning.
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = BothOrders(unfitted) if self.both_orders else unfitted
            head = start.fit(self.features[support], labels, n_classes)
        assert isinstance(head, FittedLinear)  # what a logistic head fits
        weight, bias = head.as_linear()
        return self.discriminants.unfold(weight, bias) if self.discriminants else (weight, bias)


@dataclasses.dataclass(frozen=True)
class TunedArm:
    """A network trained on the support: fine-tuned from pretrained weights, or from scratch.

    Attributes:
        backbone: to begin with; it stays as it is.
        layer, pool: what the head reads.
        table: all items.
        n_classes: C.
        rates: learning rates to choose from; the first is the default.
        tuning: the rest of the settings.
        head: fits the head that training begins with; None begins with a random one.
        mirror: see `extract`.
        augment: see `Augment`; for pictures, which None leaves as they are.
        loop: see `LoopSettings`.
        seed: of the training.
        validation: what rates are compared on, each trained once on the whole support; None cross-validates inside the
            support with two or more shots, and then trains on all of it.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> values = np.array([[0.0, 1.0], [4.0, 0.0], [1.0, 1.0], [5.0, 0.0]], np.float32)
        >>> table = feature_table_of(values, np.array([0, 1, 0, 1]), ("low", "high"), np.arange(4))
        >>> arm = TunedArm(mlp(width=2, hidden=[4]), "hidden1", "mean", table, n_classes=2, rates=(0.05,),
        ...                tuning=Tuning(), head=None, mirror=False, augment=None, loop=None, seed=0)
        >>> arm.predict(np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), shot=1, draw=0).classes.tolist()
        [0, 1]
    """

    backbone: Backbone
    layer: str
    pool: Pool
    table: Table
    n_classes: int
    rates: tuple[float, ...]
    tuning: Tuning
    head: StartHead | None
    mirror: bool
    augment: Augment | None
    loop: LoopSettings | None
    seed: int
    validation: Validation | None = None

    def predict(self, support: Rows, labels: Rows, test: Rows, *, shot: int, draw: int) -> Prediction:
        """Choose a learning rate, train, and predict."""
        if self.validation is None:
            rate = self.rates[0] if shot == 1 or len(self.rates) == 1 else self._choose_rate(support, labels, draw)
            tuned = self.train(support, labels, rate=rate, draw=draw)
        else:
            start = self._start(support, labels)  # once: on a support of thousands it costs as much as training
            tuned = self.validation.best(
                self.rates, lambda rate: self._train(support, labels, start, rate, draw), self._classify
            )
        fits = float(np.mean(self._classify(tuned, support) == labels))
        return Prediction(self._classify(tuned, test), self.layer, fits)

    def train(self, support: Rows, labels: Rows, *, rate: float, draw: int = 0) -> Tuned:
        """Train on labelled rows."""
        return self._train(support, labels, self._start(support, labels), rate, draw)

    def _start(self, support: Rows, labels: Rows) -> tuple[Tensor, Tensor] | None:
        return self.head.fit(support, labels, self.n_classes) if self.head else None

    def _train(self, support: Rows, labels: Rows, start: tuple[Tensor, Tensor] | None, rate: float, draw: int) -> Tuned:
        return fine_tune(
            self.backbone,
            self.layer,
            self.pool,
            self.table.subset(support),
            labels,
            n_classes=self.n_classes,
            tuning=dataclasses.replace(self.tuning, learning_rate=rate),
            start=start,
            augment=self.augment,
            seed=torch_seed(self.seed, "tuned arm", draw),
            loop=self.loop,
        )

    def _choose_rate(self, support: Rows, labels: Rows, draw: int) -> float:
        folds = StratifiedKFold(2, shuffle=True, random_state=self.seed)
        right = dict.fromkeys(self.rates, 0)
        for kept, held_out in folds.split(support, labels):
            for rate in self.rates:
                tuned = self.train(support[kept], labels[kept], rate=rate, draw=draw)
                right[rate] += int(np.sum(self._classify(tuned, support[held_out]) == labels[held_out]))
        return max(self.rates, key=right.__getitem__)

    def _classify(self, tuned: Tuned, rows: Rows) -> Rows:
        layers = {self.layer: self.pool}
        features = extract(tuned.backbone, self.table.subset(rows), layers, mirror=self.mirror)[self.layer]
        return tuned.head.predict(features)
