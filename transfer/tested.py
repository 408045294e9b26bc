"""Where test labels are read: predictions become scores, and the report is told how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from transfer.arms import Prediction
from transfer.items import Items
from transfer.protocol import Draw, Protocol, class_accuracies
from transfer.scores import item_scores

__all__ = ["Tested", "describe_protocol", "resampled_unit"]

Matrix = NDArray[np.float64]

FEWEST_SAMPLED_CLASSES = 10  # people are a sample of people; positive and negative are a sample of nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Tested:
    """Where test labels are read: predictions become scores.

    Attributes:
        draws: with the rows that each is tested on.
        items: of the target.
        metric: one of `transfer.scores.METRICS`.
        unit: what is resampled beside the draws.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> from transfer.items import gather_items
        >>> from transfer.protocol import plan_draws
        >>> table = feature_table_of(np.eye(6, dtype=np.float32), np.arange(6) % 2, ("even", "odd"), np.arange(6))
        >>> protocol, items = Protocol(shots=(1,), draws=1), gather_items(table, None)
        >>> draws = plan_draws(table.labels, protocol, table.class_names)
        >>> tested = Tested(draws, items, "accuracy", resampled_unit(items, protocol))
        >>> right = Prediction(table.labels[draws[0].test])
        >>> float(np.nanmean(tested.scores({1: [right]})[1]))
        1.0
        >>> describe_protocol(protocol, tested, "by default")["draws"]
        1
    """

    draws: Sequence[Draw]
    items: Items
    metric: str
    unit: str

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.items.table.class_names)

    def scores(self, predictions: Mapping[int, Sequence[Prediction]]) -> dict[int, Matrix]:
        """Return each number of shots with its scores by draw and unit.

        These are (draws, C) classes, (draws, M) items of a fixed test set, or (draws, N) items of the pool. Of the
        last, NaN are those that a draw does not test on: they are its labels, or not drawn at all.
        """
        return {shot: self._table(found) for shot, found in predictions.items()}

    def _table(self, predictions: Sequence[Prediction]) -> Matrix:
        labels = self.items.table.labels
        pairs = [(found.classes, labels[draw.test]) for found, draw in zip(predictions, self.draws, strict=True)]
        if self.unit == "class":
            return np.stack([class_accuracies(*pair, self.n_classes) for pair in pairs])
        scores = [item_scores(self.metric, *pair) for pair in pairs]
        if self.items.test is not None:
            return np.stack(scores)
        table = np.full((len(self.draws), self.items.pool), np.nan)
        for row, draw, found in zip(table, self.draws, scores, strict=True):
            row[draw.test] = found
        return table


def resampled_unit(items: Items, protocol: Protocol) -> str:
    """Return what is resampled beside the draws; see `Protocol.unit`."""
    if items.test is not None:
        return "item"
    if protocol.unit == "auto":
        return "class" if len(items.table.class_names) >= FEWEST_SAMPLED_CLASSES else "item"
    return protocol.unit


def describe_protocol(protocol: Protocol, tested: Tested, ranked_by: str) -> dict[str, JsonValue]:
    """Return a target's protocol for its report.

    Args:
        protocol: shots and draws.
        tested: what was tested on.
        ranked_by: how candidates were ordered before any label was seen, in words.
    """
    items, tests = tested.items, len(tested.draws[0].test)
    labels = 0 if items.validation is None else len(items.validation)
    return {
        "shots": [*protocol.shots],
        "draws": protocol.draws,
        "classes": tested.n_classes,
        "train_pool": items.pool - (tests if items.test is None else 0),
        "validation_labels": labels,
        "test_items": tests,
        "resampling": _describe_resampling(tested),
        "choices": _describe_choices(protocol.shots, ranked_by, tested.metric, labels),
    }


def _describe_resampling(tested: Tested) -> str:
    if tested.unit == "class":
        return (
            "label draws (each with the items it leaves over as its test) and classes, both with replacement "
            "(pigeonhole bootstrap, Owen 2007)"
        )
    if tested.items.test is None:
        return (
            "label draws and items (each draw tests on those that it leaves over), both with replacement (pigeonhole "
            f"bootstrap, Owen 2007); the {tested.n_classes} classes are taken as they are"
        )
    metric = tested.metric
    linear = "" if metric == "accuracy" else "; the metric linearised in the items' weights (infinitesimal jackknife)"
    return f"label draws and test items, both with replacement (pigeonhole bootstrap, Owen 2007{linear})"


def _describe_choices(shots: Sequence[int], ranked_by: str, metric: str, validation_labels: int) -> str:
    if validation_labels:
        return (
            f"accuracy of each candidate, fitted on the whole support, on a named validation set of "
            f"{validation_labels:,} labelled items; ties by {ranked_by}"
        )
    # A support has the same number of each class, so its accuracy is no worse a guide than a correlation.
    by = "" if metric == "accuracy" else ", by accuracy: the support is balanced"
    inside = f"cross-validation in the support{by}"
    return f"at 1 a class: {ranked_by}; from 2 on: {inside}" if shots[0] == 1 else f"{inside}; ties by {ranked_by}"
