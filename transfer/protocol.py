"""Which labels an arm may see, and what it is tested on: fixed before anything is trained, the same for all arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import TransferError
from auxtasks.seeding import generator

__all__ = ["Draw", "Protocol", "class_accuracies", "plan_draws"]

Rows = NDArray[np.int64]
Unit = Literal["auto", "class", "item"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A few-shot protocol.

    Attributes:
        shots: numbers of labels a class, such as (1, 5).
        draws: how many times labels are drawn.
        seed: of the draws.
        test_per_class: at most so many test items of a class; None takes all that are left. Not for a fixed test set.
        unit: what is resampled beside the draws. ``"class"``: classes are a sample of many, such as people;
            ``"item"``: they are all there are, and their test items are the sample; ``"auto"``: items where classes
            are few, else classes. A fixed test set is always resampled by its items.

    Raises:
        TransferError: shots that are no rising sequence of numbers from 1 up, fewer than one draw or test item, or an
            unknown unit.
    """

    shots: tuple[int, ...] = (1, 5)
    draws: int = 10
    seed: int = 0
    test_per_class: int | None = None
    unit: Unit = "auto"

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or list(self.shots) != sorted(set(self.shots)):
            raise TransferError(f"shots are different whole numbers from 1 up, in rising order, found {self.shots}.")
        if self.draws < 1:
            raise TransferError(f"draws must be at least 1, found {self.draws}.")
        if self.test_per_class is not None and self.test_per_class < 1:
            raise TransferError(f"test_per_class must be at least 1 or None, found {self.test_per_class}.")
        if self.unit not in get_args(Unit):
            raise TransferError(f'unit is one of {", ".join(get_args(Unit))}, found "{self.unit}".')


@dataclasses.dataclass(frozen=True)
class Draw:
    """One draw of labels.

    Attributes:
        number: of the draw, beginning with 0.
        support: shots to rows; a smaller number's rows are the first of a larger one's, class by class.
        test: rows that no number of shots uses, the same for all of them; with a fixed test set those, in every draw.

    Example:
        >>> draw: Draw = plan_draws([0, 0, 0, 1, 1, 1], Protocol(shots=(1, 2), draws=1))[0]
        >>> draw.number, len(draw.support[2]), len(draw.test)
        (0, 4, 2)
    """

    number: int
    support: dict[int, Rows]
    test: Rows


def plan_draws(
    labels: Sequence[int] | Rows, protocol: Protocol, class_names: Sequence[str] = (), *, test: Rows | None = None
) -> list[Draw]:
    """Draw nested supports and what is tested beside them.

    In each draw every class's items are permuted; the first are the support, those after the largest number of shots
    are the test.

    Args:
        labels: (N,) classes from 0 to C - 1.
        protocol: see `Protocol`.
        class_names: for messages; a name without items is a class with too few.
        test: rows of a fixed test set, none of them among the N; then nothing need be left over for a test.

    Raises:
        TransferError: a class with too few items; names it, with what it has and what is needed. Items without a label.
            A fixed test set and `Protocol.test_per_class`.

    Example:
        >>> draw = plan_draws([0, 0, 0, 1, 1, 1], Protocol(shots=(1, 2), draws=1))[0]
        >>> (len(draw.support[1]), len(draw.support[2]), len(draw.test))
        (2, 4, 2)
        >>> set(draw.support[1]) <= set(draw.support[2])
        True
    """
    labels = np.asarray(labels, dtype=np.int64)
    most = max(protocol.shots)
    if labels.min(initial=0) < 0:
        raise TransferError(
            f"{np.sum(labels < 0)} of {len(labels)} items have no label: leave them out of the target, since they can "
            "neither be learned from nor tested on."
        )
    counts = np.bincount(labels, minlength=max(2, len(class_names)))
    if test is not None and protocol.test_per_class is not None:
        raise TransferError(
            f"test_per_class is {protocol.test_per_class}, but a fixed test set is used whole: leave one out."
        )
    _check_counts(counts, most, class_names, left_over=0 if test is not None else 1)
    members = [np.flatnonzero(labels == number) for number in range(len(counts))]
    draws = []
    for number in range(protocol.draws):
        orders = [
            generator(protocol.seed, "label draw", epoch=number, index=place).permutation(rows)
            for place, rows in enumerate(members)
        ]
        end = None if protocol.test_per_class is None else most + protocol.test_per_class
        draws.append(
            Draw(
                number=number,
                support={shot: np.concatenate([order[:shot] for order in orders]) for shot in protocol.shots},
                test=np.concatenate([order[most:end] for order in orders]) if test is None else test,
            )
        )
    return draws


def _check_counts(counts: NDArray[np.int64], most: int, class_names: Sequence[str], *, left_over: int) -> None:
    short = np.flatnonzero(counts < most + left_over)
    if len(short):
        first = int(short[0])
        name = class_names[first] if first < len(class_names) else first
        use = f"{most} shots and a test" if left_over else f"{most} shots"
        raise TransferError(
            f"{len(short)} of {len(counts)} classes have too few items for {use}: class {name!r} has {counts[first]}, "
            f"needed are {most + left_over}. Use fewer shots, or leave such classes out."
        )


def class_accuracies(predicted: Rows, labels: Rows, n_classes: int) -> NDArray[np.float64]:
    """Return the share of each class's test items that were classified rightly, (C,).

    Example:
        >>> class_accuracies(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [0.5, 1.0]
    """
    right = np.bincount(labels, weights=(predicted == labels).astype(np.float64), minlength=n_classes)
    return right / np.bincount(labels, minlength=n_classes)
