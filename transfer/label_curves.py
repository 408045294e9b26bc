"""Score against number of labels, for heads on given features: thousands of label draws, fitted together.

The draws are those of a few-shot report (`transfer.protocol.plan_draws`): nested, and the same for all heads and
features. Nothing is chosen here, so nothing may be claimed of the best of several curves; see `transfer.fewshot` for
that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from auxtasks.errors import TransferError
from transfer import statistics
from transfer.batched_heads import Precision, Problems, batched_predictions
from transfer.crossing import failed_share
from transfer.head import FloatArray, IntArray, Option
from transfer.heads import build_head
from transfer.protocol import Draw, Protocol, plan_draws

__all__ = ["CurvePoint", "LabelCurve", "label_curves"]

FEWEST_SAMPLED_CLASSES = 10  # below that, classes are all there are, and their items the sample


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A head with so many labels a class.

    Attributes:
        shot: labels a class.
        mean: of the accuracy, over draws and test units.
        ci95: its interval, over draws and test units (and seeds, where there are several); see `transfer.statistics`.
        values: accuracy of each draw, seed after seed where there are several.
        failed: share of the draws that are not above chance.

    Example:
        >>> CurvePoint(shot=5, mean=0.8, ci95=(0.7, 0.9), values=(0.75, 0.85), failed=0.0).shot
        5
    """

    shot: int
    mean: float
    ci95: tuple[float, float] | None
    values: tuple[float, ...]
    failed: float


@dataclasses.dataclass(frozen=True)
class LabelCurve:
    """One head on one kind of features.

    Attributes:
        features: their name, such as a layer's.
        head: name in `transfer.heads.HEADS`.
        options: of the head.
        points: one for each number of labels, rising.
        seeds: how many arrays of features there were.

    Example:
        >>> points = tuple(CurvePoint(shot, shot / 10, None, (shot / 10,), failed=0.0) for shot in (1, 5))
        >>> LabelCurve("stage4", "ridge", {"alpha": 1.0}, points).values
        {1: (0.1,), 5: (0.5,)}
    """

    features: str
    head: str
    options: Mapping[str, Option]
    points: tuple[CurvePoint, ...]
    seeds: int = 1

    @property
    def values(self) -> dict[int, tuple[float, ...]]:
        """Shots to the accuracy of each draw, over seeds, as `transfer.crossing.crossing_point` takes it."""
        by_seed = {point.shot: np.reshape(point.values, (self.seeds, -1)) for point in self.points}
        return {shot: tuple(values.mean(axis=0).tolist()) for shot, values in by_seed.items()}


def label_curves(
    features: Mapping[str, npt.ArrayLike | Sequence[npt.ArrayLike]],
    labels: npt.ArrayLike,
    protocol: Protocol,
    heads: Sequence[tuple[str, Mapping[str, Option]]] = (("prototype", {}),),
    *,
    test: npt.ArrayLike | None = None,
    class_names: Sequence[str] = (),
    resamples: int = 2000,
    precision: Precision = "float64",
) -> list[LabelCurve]:
    """Fit every head on every draw, number of labels and kind of features; return one curve for each pair.

    Args:
        features: name to (N, D) features of the same items, or to several such arrays: one a pretraining seed, all of
            the same number.
        labels: (N,) classes from 0 to C - 1.
        protocol: shots, draws and their seed.
        heads: names and options, of `transfer.batched_heads.BATCHED_HEADS`.
        test: rows that every draw is tested on; labels are drawn from the others. None tests each draw on what it
            leaves over.
        class_names: for messages.
        resamples: of the intervals' bootstrap.
        precision: see `batched_scores`.

    Raises:
        TransferError: features of other items or numbers of seeds, a class with too few items or absent from the test,
            test rows that there are not or that come twice, and as `batched_predictions`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> values = np.eye(3)[labels] + 0.7 * rng.normal(size=(60, 3))
        >>> curve, = label_curves({"top": values}, labels, Protocol(shots=(1, 5), draws=50))
        >>> [point.shot for point in curve.points], curve.points[0].mean < curve.points[1].mean
        ([1, 5], True)
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise TransferError(f"labels must be (N,) whole numbers, found {classes.dtype} of shape {classes.shape}.")
    tables = {name: _seeds(name, given, len(classes)) for name, given in features.items()}
    n_classes = max(int(classes.max(initial=0)) + 1, len(class_names))
    draws = _draws(classes.astype(np.int64), protocol, class_names, None if test is None else np.asarray(test))
    curves = []
    for name, seeds in tables.items():
        for head, options in heads:
            points = []
            for shot in protocol.shots:
                problems = _problems(draws, shot, classes, n_classes)
                found = [
                    batched_predictions(build_head(head, **options), values, problems, precision=precision)
                    for values in seeds
                ]
                points.append(_point(shot, found, draws, classes, n_classes, protocol, resamples))
            curves.append(LabelCurve(name, head, dict(options), tuple(points), len(seeds)))
    return curves


def _seeds(name: str, given: npt.ArrayLike | Sequence[npt.ArrayLike], items: int) -> list[npt.NDArray[np.floating]]:
    """Return the arrays of one kind of features, one a seed."""
    if not isinstance(given, np.ndarray) and isinstance(given, Sequence) and np.ndim(given[0]) == 2:
        seeds = [np.asarray(values) for values in given]
    else:
        seeds = [np.asarray(given)]
    for values in seeds:
        if values.ndim != 2 or len(values) != items:
            raise TransferError(
                f"features {name!r} must be (N, D) of the {items} items that have labels, found shape {values.shape}."
            )
    return seeds


def _draws(classes: IntArray, protocol: Protocol, class_names: Sequence[str], test: IntArray | None) -> list[Draw]:
    """Return the draws, with rows of all items; a fixed test set's items are never labels."""
    if test is None:
        return plan_draws(classes, protocol, class_names)
    if test.ndim != 1 or not np.issubdtype(test.dtype, np.integer) or not len(test):
        raise TransferError(f"test must be rows, found {test.dtype} of shape {test.shape}.")
    if test.min() < 0 or test.max() >= len(classes) or len(np.unique(test)) < len(test):
        raise TransferError(
            f"test must be different rows from 0 to {len(classes) - 1}, found {len(test)} from {test.min()} to "
            f"{test.max()}, {len(np.unique(test))} of them different."
        )
    pool = np.setdiff1d(np.arange(len(classes)), test)
    drawn = plan_draws(classes[pool], protocol, class_names, test=test.astype(np.int64))
    return [
        dataclasses.replace(draw, support={shot: pool[rows] for shot, rows in draw.support.items()}) for draw in drawn
    ]


def _problems(draws: Sequence[Draw], shot: int, classes: IntArray, n_classes: int) -> Problems:
    support = np.stack([draw.support[shot] for draw in draws])
    shared = all(draw.test is draws[0].test for draw in draws)
    query = draws[0].test if shared else np.stack([draw.test for draw in draws])
    return Problems(support, classes[support], query, n_classes)


def _point(
    shot: int,
    predictions: Sequence[IntArray],
    draws: Sequence[Draw],
    classes: IntArray,
    n_classes: int,
    protocol: Protocol,
    resamples: int,
) -> CurvePoint:
    """Return mean, interval and failed runs, from the predictions (draws, Q) of each seed."""
    tests = np.stack([draw.test for draw in draws])
    rights = np.stack([found == classes[tests] for found in predictions])  # (seeds, draws, Q)
    by_class = protocol.unit == "class" or (protocol.unit == "auto" and n_classes >= FEWEST_SAMPLED_CLASSES)
    table = _by_class(rights, classes[tests], n_classes) if by_class else _by_item(rights, tests, len(classes))
    found = statistics.interval(
        table[0] if len(table) == 1 else table, resamples=resamples, seed=protocol.seed, limits=(0, 1)
    )
    return CurvePoint(shot, found.mean, found.ci95, found.values, failed_share(found.values, 1 / n_classes))


def _by_class(rights: npt.NDArray[np.bool_], labels: IntArray, n_classes: int) -> FloatArray:
    """Return the share of each class's test items that are right, (seeds, draws, C)."""
    members = labels[:, :, None] == np.arange(n_classes)  # (draws, Q, C)
    counts = members.sum(axis=1)
    if (counts == 0).any():
        absent = int(np.flatnonzero((counts == 0).any(axis=0))[0])
        raise TransferError(f"class {absent} has no test item: its accuracy is not known. Add some, or resample items.")
    return np.asarray(np.einsum("sdq,dqc->sdc", rights.astype(np.float64), members.astype(np.float64)) / counts)


def _by_item(rights: npt.NDArray[np.bool_], tests: IntArray, items: int) -> FloatArray:
    """Return whether each item is right, (seeds, draws, N), NaN where a draw does not test it."""
    used = np.unique(tests)
    place = np.zeros(items, np.int64)
    place[used] = np.arange(len(used))
    table = np.full((*rights.shape[:2], len(used)), np.nan)
    for draw, rows in enumerate(tests):
        table[:, draw, place[rows]] = rights[:, draw]
    return table
