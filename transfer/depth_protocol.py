"""Which fits a depth search makes, and what it learns from their answers: held-out labels first, test labels last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import TransferError
from auxtasks.seeding import generator
from transfer.arms import Prediction
from transfer.depth_curve import Scored
from transfer.depth_fits import Fit
from transfer.items import Items
from transfer.protocol import Draw, Protocol, plan_draws
from transfer.selection import stratified_folds
from transfer.tested import Tested, resampled_unit

__all__ = ["DepthProtocol", "plan_depth"]

Rows = NDArray[np.int64]
Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class DepthProtocol:
    """Labels, folds and tests of a depth search, the same for every cut.

    Attributes:
        items: of the target.
        draws: with their supports under `size`.
        shots: labels a class, or None for all there are.
        fits: what every setting is fitted on and asked, draw by draw.
        splits: how many of these a draw has.
        folds, repeats: of the cross-validation; None on a named validation set.
        metric: of the test.
        unit: what is resampled beside the draws in the test.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> from transfer.items import gather_items
        >>> table = feature_table_of(np.eye(12, dtype=np.float32), np.arange(12) % 2, ("even", "odd"), np.arange(12))
        >>> items = gather_items(table, None)
        >>> found: DepthProtocol = plan_depth(items, shots=4, draws=2, folds=2, repeats=1, metric="accuracy", seed=0)
        >>> found.labels, found.test_items, [len(fit.train) for fit in found.test_fits]
        (8, 4, [8, 8])
    """

    items: Items
    draws: Sequence[Draw]
    shots: int | None
    fits: Sequence[Fit]
    splits: int
    folds: int | None
    repeats: int | None
    metric: str
    unit: str

    @property
    def size(self) -> int:
        """The key of a draw's support; 0 stands for all labels."""
        return self.shots or 0

    @property
    def labels(self) -> int:
        """How many labels a draw learns from; those of a validation set come on top."""
        return len(self.draws[0].support[self.size])

    @property
    def validation_labels(self) -> int:
        """How many labels are spent on the choice alone."""
        return 0 if self.items.validation is None else len(self.items.validation)

    @property
    def classes(self) -> int:
        """C."""
        return len(self.items.table.class_names)

    @property
    def test_items(self) -> int:
        """How many test items a draw has, about."""
        return len(self.draws[0].test)

    @property
    def chosen_by(self) -> str:
        """How choices are made, for a reader."""
        each = "Each draw chooses" if len(self.draws) > 1 else "Chosen"
        if self.items.validation is not None:
            return f"{each} on a named validation set of {self.validation_labels} labelled items"
        several = f", {self.repeats} times" if (self.repeats or 1) > 1 else ""
        return f"{each} by stratified cross-validation with {self.folds} folds{several} inside {self.labels} labels"

    def held_out(self, answers: Sequence[Rows]) -> Scored:
        """Compare answers with the labels that each fit did not learn from, none of them of the test."""
        labels = self.items.table.labels
        shape = (len(self.draws), len(labels))
        right, asked = np.zeros(shape), np.zeros(shape)
        accuracies = []
        for fit, answer in zip(self.fits, answers, strict=True):
            rows = self._held_out_rows(fit)
            hits = answer[: len(rows)] == labels[rows]
            right[fit.draw, rows] += hits
            asked[fit.draw, rows] += 1
            accuracies.append(float(np.mean(hits)))
        shares = np.divide(right, asked, out=np.full(shape, np.nan), where=asked > 0)
        splits = tuple(
            tuple(accuracies[draw * self.splits : (draw + 1) * self.splits]) for draw in range(len(self.draws))
        )
        first = self.fits[0]
        overlap = len(self._held_out_rows(first)) / len(first.train)
        return Scored(self._units(shares), splits, overlap)

    def _held_out_rows(self, fit: Fit) -> Rows:
        """Return the rows asked whose labels the choice may read; test rows come after them."""
        return fit.ask if self.items.validation is None else self.items.validation

    def _units(self, shares: Matrix) -> Matrix:
        """Return the columns that are a sample: held-out items or, where classes are one, those."""
        if self.shots is None or self.items.validation is not None or self.unit != "class":
            return shares[:, ~np.isnan(shares).all(axis=0)]
        labels = self.items.table.labels
        members = np.eye(self.classes)[np.maximum(labels, 0)]  # (N, C); every class was held out in every draw
        return np.asarray((np.nan_to_num(shares) @ members) / (~np.isnan(shares) @ members))

    @property
    def test_fits(self) -> list[Fit]:
        """What each draw's chosen setting is fitted on and asked at last."""
        return [Fit(draw.number, draw.support[self.size], draw.test) for draw in self.draws]

    def test_answers(self, answers: Sequence[Rows]) -> list[Rows] | None:
        """Return each draw's answers to the test where the fits of the choice have given them, else None."""
        if self.items.validation is None:
            return None
        return [answer[len(self.items.validation) :] for answer in answers]

    def tested(self, answers: Sequence[Rows]) -> Matrix:
        """Read the test's labels: return scores by draw and unit, see `Tested`."""
        tested = Tested(self.draws, self.items, self.metric, self.unit)
        return tested.scores({self.size: [Prediction(answer) for answer in answers]})[self.size]


def plan_depth(
    items: Items, *, shots: int | None, draws: int, folds: int, repeats: int, metric: str, seed: int
) -> DepthProtocol:
    """Plan all fits before any is made.

    Raises:
        TransferError: one label a class and no validation set, several draws of all labels, folds or repeats out of
            range, or a class with too few items.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> from transfer.items import gather_items
        >>> table = feature_table_of(np.eye(12, dtype=np.float32), np.arange(12) % 2, ("even", "odd"), np.arange(12))
        >>> items = gather_items(table, None)
        >>> protocol = plan_depth(items, shots=4, draws=2, folds=2, repeats=1, metric="accuracy", seed=0)
        >>> len(protocol.fits), protocol.chosen_by
        (4, 'Each draw chooses by stratified cross-validation with 2 folds inside 8 labels')
    """
    if folds < 2 or repeats < 1:
        raise TransferError(f"cross-validation has at least 2 folds and 1 repeat, found folds={folds}, {repeats=}.")
    if shots is None and draws != 1:
        raise TransferError(f"draws is {draws}, but all labels are taken, and there is one way to do that: set shots.")
    if shots is None:
        _check_labelled(items)
        rows = np.arange(items.pool)
        found = [Draw(0, {0: rows}, items.test if items.test is not None else rows[:0])]
    else:
        found = plan_draws(items.pool_labels, Protocol((shots,), draws, seed), items.table.class_names, test=items.test)
    unit = resampled_unit(items, Protocol())
    size = shots or 0
    if items.validation is not None:
        fits = [Fit(draw.number, draw.support[size], np.concatenate([items.validation, draw.test])) for draw in found]
        return DepthProtocol(items, found, shots, fits, 1, None, None, metric, unit)
    rarest = min(int(np.bincount(items.pool_labels[draw.support[size]]).min()) for draw in found)
    if rarest < 2:
        raise TransferError(
            "a class has one label, and nothing can be held out of it to choose a layer on: draw 2 or more a class "
            "(shots), or name a validation set."
        )
    folds = min(folds, rarest)
    fits = [
        fit
        for draw in found
        for repeat in range(repeats)
        for fit in _fold_fits(draw, size, items.pool_labels, folds, seed=_fold_seed(seed, draw.number, repeat))
    ]
    return DepthProtocol(items, found, shots, fits, folds * repeats, folds, repeats, metric, unit)


def _check_labelled(items: Items) -> None:
    """Refuse what `plan_draws` would refuse of draws."""
    labels = items.pool_labels
    if labels.min(initial=0) < 0:
        raise TransferError(f"{np.sum(labels < 0)} of {len(labels)} items have no label: leave them out of the target.")
    counts = np.bincount(labels, minlength=max(2, len(items.table.class_names)))
    if counts.min() == 0:
        raise TransferError(f"class {items.table.class_names[int(counts.argmin())]!r} has no labelled item.")


def _fold_seed(seed: int, draw: int, repeat: int) -> int:
    """Return another seed for each draw and repeat, the same for all cuts."""
    return int(generator(seed, "depth folds", epoch=draw, index=repeat).integers(2**62))


def _fold_fits(draw: Draw, size: int, labels: Rows, folds: int, *, seed: int) -> list[Fit]:
    support = draw.support[size]
    fold_of = stratified_folds(labels[support], folds, seed)
    return [Fit(draw.number, support[fold_of != fold], support[fold_of == fold]) for fold in range(folds)]
