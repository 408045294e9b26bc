"""Layer and head chosen by cross-validation inside the support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from auxtasks.errors import TransferError
from auxtasks.seeding import generator
from transfer.both_orders import BothOrders
from transfer.head import FloatArray, Head, IntArray, Option, checked_support
from transfer.heads import build_head

__all__ = ["CandidateScore", "Choice", "select_by_cross_validation", "stratified_folds"]


@dataclass(frozen=True)
class CandidateScore:
    """The cross-validated accuracy of one layer and head.

    Attributes:
        layer: whose features were used.
        head: name in `HEADS`.
        options: of the head.
        score: share of the support's items that were classified rightly while held out.

    Example:
        >>> CandidateScore("stage3", "ridge", {"alpha": 1.0}, score=0.9).score
        0.9
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

    Example:
        >>> support = {"low": [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]]}
        >>> choice: Choice = select_by_cross_validation(support, [0, 0, 1, 1], [("ridge", {"alpha": 1.0})])
        >>> choice.layer, choice.build().alpha, len(choice.table)
        ('low', 1.0, 1)
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
    *,
    both_orders: bool = False,
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
        both_orders: whether the items are differences of pairs, on both orders of which every head is then fitted: the
            two orders of a pair are never in different folds.

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
    heads = [(name, dict(options), _built(name, options, both_orders)) for name, options in candidates]
    classes = np.asarray(labels)
    n_classes = int(classes.max()) + 1 if classes.size else 0
    supports = {layer: checked_support(values, classes, n_classes)[0] for layer, values in features_by_layer.items()}
    fold_of = stratified_folds(classes, folds, seed)
    table = tuple(
        CandidateScore(layer, name, options, _held_out_accuracy(head, values, classes, n_classes, fold_of))
        for layer, values in supports.items()
        for name, options, head in heads
    )
    best = max(table, key=lambda row: row.score)  # the first of equals
    return Choice(**asdict(best), table=table)


def _built(name: str, options: Mapping[str, Option], both_orders: bool) -> Head:
    head = build_head(name, **options)
    return BothOrders(head) if both_orders else head


def stratified_folds(labels: IntArray, folds: int, seed: int) -> IntArray:
    """Return the fold of each item; each class is dealt out evenly, starting where the class before it ended.

    Raises:
        TransferError: a class with one item only.

    Example:
        >>> fold_of = stratified_folds(np.array([0, 0, 0, 1, 1, 1]), folds=3, seed=0)
        >>> sorted(fold_of[:3].tolist()), sorted(fold_of[3:].tolist())
        ([0, 1, 2], [0, 1, 2])
    """
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
